"""One backend: the operator's settings, a client of its URL, and a driver that knows its kind of engine."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager

from estimator import load_model
from gateway import __version__
from gateway.backends.calibration import Calibration
from gateway.backends.catalog import ENGINES
from gateway.backends.detect import detect
from gateway.backends.engine import ENGINE_KEEPALIVE_S, Engine, Fault, TelemetryError
from gateway.backends.listing import ListedModel
from gateway.backends.pool import StatedPool
from gateway.backends.settings import BackendKind, BackendSettings, EngineKind, KvSettings
from gateway.backends.upstream import Exchange, Upstream
from gateway.descriptors import files_max
from gateway.domain import BackendSpec, Reading

__all__ = ["Backend", "BackendKind", "BackendSettings", "Fault", "KvSettings", "TelemetryError"]

HOSTED_KEEPALIVE_S = 15.0
CONNECTIONS_MAX = 16_384
"""More than a process may have files, as a rule: admission bounds what runs, this only what a bug could do."""
IDLE_CONNECTIONS_MAX = 1024
"""As many as an engine serves at once: who starts again within seconds need not be dialled for anew."""
_IDLE_SHARE = 16
"""Only such a part of this process's files may idle, where there are few: they are missing elsewhere."""
LOOK_MAX_BYTES = 1 << 20
LOOK_MAX_S = 2.0
"""One page of a look; the poller bounds the look as a whole by the same."""

_KEY = re.compile(r"[!-~]{1,4096}")
_TOKEN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PRINTABLE = re.compile(r"[ -~]{0,4096}")


class Backend:
    """Settings, client and driver as one. With kind "auto" the driver is found by the first look that gets an answer.

    Made before the loop runs or in a thread: `kv.model_config` is read from disk here.

    Raises:
        ValueError: the URL is not one of a server, or the key holds characters that no header can carry.
        EstimatorError: `kv.model_config` is no model.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        kv = settings.kv
        model = None if kv.model_config is None else load_model(kv.model_config)
        self._stated = StatedPool(kv.capacity_tokens, kv.block_size, model)
        self._found = None if settings.kind == "auto" else settings.kind
        self._engine = None if self._found is None else self._driver(self._found)
        keepalive_s = HOSTED_KEEPALIVE_S if settings.kind == "openai" else ENGINE_KEEPALIVE_S
        self._upstream = Upstream(
            settings.url,
            timeouts=settings.timeouts,
            connections_max=CONNECTIONS_MAX,
            idle_connections_max=min(IDLE_CONNECTIONS_MAX, files_max() // _IDLE_SHARE),
            keepalive_s=keepalive_s,
        )
        common = f"Accept-Encoding: identity\r\nUser-Agent: kvgate/{__version__}\r\n"
        if settings.api_key is not None:
            if not _KEY.fullmatch(settings.api_key):
                raise ValueError(f"the api_key of backend {settings.name} is not printable ASCII")
            common += f"Authorization: Bearer {settings.api_key}\r\n"
        self._look_headers = common.encode() + b"Accept: text/plain, application/json\r\n"
        self._json_headers = common.encode() + b"Content-Type: application/json\r\nAccept: application/json\r\n"
        self._event_headers = common.encode() + b"Content-Type: application/json\r\nAccept: text/event-stream\r\n"

    @property
    def name(self) -> str:
        return self._settings.name

    @property
    def kind(self) -> str:
        """The kind of engine; "auto" until one was found."""
        return "auto" if self._engine is None else self._engine.kind

    @property
    def found(self) -> EngineKind | None:
        """The kind of engine, once it is known."""
        return self._found

    @property
    def hosted(self) -> bool:
        """Whether its memory is a provider's business; False until its kind is known."""
        return self._engine is not None and self._engine.hosted

    @property
    def listed(self) -> tuple[ListedModel, ...]:
        """The models as the engine named them last, with their contexts and prices where it says; empty before."""
        return () if self._engine is None else self._engine.listed

    @property
    def calibration(self) -> Calibration | None:
        """Which layout its KV cache is counted by, and how it agrees with the engine; None where nothing is known."""
        return None if self._engine is None else self._engine.calibration

    @property
    def spec(self) -> BackendSpec:
        """What admission is told of it. It changes once: when an "auto" backend turns out to be hosted."""
        settings = self._settings
        return BackendSpec(settings.name, self.hosted, settings.spill_only, settings.limits)

    def engine_model(self, public: str) -> str:
        """The name by which the engine knows a model."""
        return self._settings.models.get(public, public)

    @property
    def url(self) -> str:
        """Where it is, as configured."""
        return self._settings.url

    def headers(self, request_id: str, *, stream: bool, traceparent: str | None = None, tracestate: str = "") -> bytes:
        """Header lines of a request, made from nothing the client sent but these checked values.

        Raises:
            ValueError: a value that no header can carry; a mistake of the caller.
        """
        if not _TOKEN.fullmatch(request_id) or (traceparent is not None and not _TOKEN.fullmatch(traceparent)):
            raise ValueError("a request id or trace parent of this form is never sent")
        if not _PRINTABLE.fullmatch(tracestate):
            raise ValueError("a trace state of this form is never sent")
        lines = f"{self._connection_line}X-Request-Id: {request_id}\r\n"
        if traceparent is not None:
            lines += f"traceparent: {traceparent}\r\n"
        if tracestate:
            lines += f"tracestate: {tracestate}\r\n"
        return (self._event_headers if stream else self._json_headers) + lines.encode()

    def exchange(self, path: str, headers: bytes, body: bytes) -> AbstractAsyncContextManager[Exchange]:
        """Send a request; see `Upstream.exchange`."""
        return self._upstream.exchange(b"POST", path, headers, body)

    async def read(self, now: float) -> Reading:
        """One look at the engine, which finds out its kind first if need be.

        Raises:
            UpstreamFailure: it could not be asked.
            TelemetryError: what it answered is of no use.
        """
        if self._engine is None:
            self._found = await detect(self._fetch)
            self._engine = self._driver(self._found)
        return await self._engine.read(self._fetch, now)

    def adopt(self, kind: EngineKind) -> None:
        """Its kind was found out elsewhere."""
        if self._found is None:
            self._found, self._engine = kind, self._driver(kind)

    async def retire(self) -> None:
        """Wait until nothing goes over its connections any more."""
        await self._upstream.retire()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._upstream.aclose()

    @property
    def _connection_line(self) -> str:
        return "" if self._engine is None or self._engine.keeps_connections else "Connection: close\r\n"

    def _driver(self, kind: EngineKind) -> Engine:
        return ENGINES[kind](self._settings.name, self._settings.models, self._stated)

    async def _fetch(self, path: str) -> tuple[int, bytes]:
        return await self._upstream.fetch(
            path,
            headers=self._look_headers + self._connection_line.encode(),
            limit_bytes=LOOK_MAX_BYTES,
            timeout_s=LOOK_MAX_S,
        )
