"""The admin port: metrics, health, the state of admission, drain. Reads snapshots only."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from gateway import __version__
from gateway.admin.decisions import add_decisions
from gateway.admin.guard import guard
from gateway.admin.page import page_routes
from gateway.admission.snapshot import Snapshot
from gateway.backends.calibration import Calibration
from gateway.reporting.journal import Journal
from gateway.reporting.metrics import Metrics

RENDER_EVERY_S = 1.0
"""A metrics page is made at most so often, in a thread: with many backends it takes as long as a hundred chunks."""


@dataclass(slots=True)
class Admin:
    """What the admin port shows and does."""

    metrics: Metrics
    snapshot: Callable[[], Snapshot]
    kinds: Callable[[], Mapping[str, str]]
    is_draining: Callable[[], bool]
    start_drain: Callable[[], None]
    kv_layouts: Callable[[], Mapping[str, Calibration | None]] = dict
    journal: Journal = field(default_factory=Journal)
    ledger: Callable[[], Mapping[str, object]] = lambda: {"mode": "local"}
    """How room is shared with other gateways."""
    mode: Callable[[], str] = lambda: "enforce"
    token_sha256: Callable[[], bytes | None] = lambda: None
    """Of the token that it asks for; None: none."""
    _page: tuple[str, float, tuple[bytes, str]] = ("", float("-inf"), (b"", ""))

    def app(self) -> web.Application:
        """The admin application."""
        app = web.Application(client_max_size=64 * 1024, middlewares=[guard(self.token_sha256)])
        app.router.add_routes(page_routes())
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/api/v1/state", self._state)
        add_decisions(app, self.journal)
        app.router.add_post("/-/drain", self._drain)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("accept", "")
        now = asyncio.get_running_loop().time()
        known_accept, made_at, page = self._page
        if known_accept != accept or now - made_at >= RENDER_EVERY_S:
            self.metrics.refresh(self.snapshot(), self.kinds())
            page = await asyncio.to_thread(self.metrics.render, accept)
            self._page = (accept, now, page)
        body, content_type = page
        return web.Response(body=body, headers={"content-type": content_type})

    async def _health(self, _request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _ready(self, _request: web.Request) -> web.Response:
        draining = self.is_draining()
        return _json({"status": "draining" if draining else "ready"}, status=503 if draining else 200)

    async def _state(self, _request: web.Request) -> web.Response:
        shown = state(self.snapshot(), self.kinds(), self.kv_layouts())
        more = {"version": __version__, "mode": self.mode(), "decisions": self.metrics.decision_counts()}
        return _json({**shown, **more, "ledger": self.ledger()})

    async def _drain(self, _request: web.Request) -> web.Response:
        self.start_drain()
        return _json({"status": "draining"}, status=202)


def state(
    snapshot: Snapshot, kinds: Mapping[str, str], kv_layouts: Mapping[str, Calibration | None]
) -> dict[str, object]:
    """A snapshot as plain data, each backend with its kind and the layout that its KV cache is counted by."""
    backends = []
    for backend in snapshot.backends:
        layout = kv_layouts.get(backend.name)
        more = {"kind": kinds.get(backend.name, "auto"), "kv_layout": layout.plain if layout else None}
        backends.append(dataclasses.asdict(backend, dict_factory=_plain) | more)
    return {**dataclasses.asdict(snapshot, dict_factory=_plain), "backends": backends}


def _plain(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {key: _word(value) for key, value in pairs}


def _word(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name.lower() if isinstance(value.value, int) else value.value
    return value


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"content-type": "application/json"})
