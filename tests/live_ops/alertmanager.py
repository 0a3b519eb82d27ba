"""A real Alertmanager for a test, and the webhook that it tells: Debian's binary on free loopback ports."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import yaml
from aiohttp import web

from tests.live_ops.listening import listening

LISTENS = re.compile(rb"msg=\"?Listening on\"? address=(127\S+)")


class Alert(msgspec.Struct, frozen=True):
    """One alert of a message."""

    status: Literal["firing", "resolved"]
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        return self.labels["alertname"]


class _Message(msgspec.Struct):
    alerts: list[Alert]


@dataclass(slots=True)
class Webhook:
    """Who is on call: keeps all that it was told."""

    told: list[Alert] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def names(self, status: str) -> set[str]:
        """Alerts of which this was told at least once."""
        return {alert.name for alert in self.told if alert.status == status}

    def unresolved(self) -> set[str]:
        """Alerts of which the last word for some labels was that they fire."""
        last = {tuple(sorted(alert.labels.items())): alert for alert in self.told}
        return {alert.name for alert in last.values() if alert.status == "firing"}

    async def until(self, holds: Callable[[], bool], within_s: float, what: Callable[[], object]) -> None:
        """Wait until what was told is as it should be."""
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within_s:g} s: {what()}") from None

    async def handle(self, request: web.Request) -> web.Response:
        """One message."""
        self.told += msgspec.json.decode(await request.read(), type=_Message).alerts
        self._news.set()
        return web.Response()


@asynccontextmanager
async def alertmanager(folder: Path) -> AsyncIterator[tuple[str, Webhook]]:
    """Run an Alertmanager that passes on at once all that it is told; its URL, and who hears of it."""
    binary = shutil.which("prometheus-alertmanager")
    assert binary is not None, "needs Debian's package `prometheus-alertmanager`"
    webhook = Webhook()
    async with _serve(webhook) as url:
        config = folder / "alertmanager.yml"
        config.write_text(yaml.safe_dump(_config(url)))
        command = (
            binary,
            f"--config.file={config}",
            f"--storage.path={folder / 'alertmanager'}",
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=",
        )
        async with listening(LISTENS, *command) as address:
            yield f"http://{address}", webhook


@asynccontextmanager
async def _serve(webhook: Webhook) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/", webhook.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port, *_ = runner.addresses[0]
        yield f"http://{host}:{port}/"
    finally:
        await runner.cleanup()


def _config(url: str) -> dict[str, object]:
    """Nothing is gathered, nothing is left unsaid."""
    route = {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    return {"route": route, "receivers": [{"name": "test", "webhook_configs": [{"url": url, "send_resolved": True}]}]}
