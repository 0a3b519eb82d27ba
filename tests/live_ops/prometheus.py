"""A real Prometheus for a test: Debian's binary on a free loopback port, scraping every second."""

from __future__ import annotations

import asyncio
import math
import re
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import yaml

from tests.live_ops.listening import START_MAX_S, listening

INTERVAL = "1s"
LISTENS = re.compile(rb'msg="Listening on" (?:component=web )?address=(\S+)')

Labels = dict[str, str]


class Series(msgspec.Struct):
    """One series of an answer."""

    metric: Labels
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = []

    @property
    def numbers(self) -> list[float]:
        """Its values, without those that are not a number."""
        values = [self.value] if self.value is not None else self.values
        return [number for _, text in values if not math.isnan(number := float(text))]


class _Data(msgspec.Struct, rename="camel", frozen=True):
    result_type: str = ""
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Answer(msgspec.Struct, rename="camel"):
    status: str
    data: _Data = _Data()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    url: str
    http: aiohttp.ClientSession

    async def ready(self) -> None:
        """Wait until it has read its data."""
        async with asyncio.timeout(START_MAX_S):
            while not await self._is_ready():  # noqa: ASYNC110  # it has no event for that
                await asyncio.sleep(0.1)

    async def now(self, expr: str) -> list[Series]:
        """The value of a query at this moment."""
        return await self._ask("/api/v1/query", {"query": expr})

    async def over(self, expr: str, start: float, end: float, step: str = INTERVAL) -> list[Series]:
        """A query over a time, in unix seconds."""
        return await self._ask(
            "/api/v1/query_range", {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": step}
        )

    async def until(self, expr: str, within_s: float = START_MAX_S) -> list[Series]:
        """Wait until a query has a result."""
        async with asyncio.timeout(within_s):
            while not (found := await self.now(expr)):  # noqa: ASYNC110  # it has no event for that
                await asyncio.sleep(0.2)
        return found

    async def _is_ready(self) -> bool:
        async with self.http.get(f"{self.url}/-/ready") as response:
            return response.status == 200

    async def _ask(self, path: str, form: Mapping[str, str]) -> list[Series]:
        async with self.http.post(self.url + path, data=form) as response:
            answer = msgspec.json.decode(await response.read(), type=_Answer)
        assert answer.status == "success", f"{answer.error} in {form['query']}"
        if answer.data.result_type == "scalar":
            return [Series({}, msgspec.json.decode(answer.data.result, type=tuple[float, str]))]
        return msgspec.json.decode(answer.data.result, type=list[Series])


@asynccontextmanager
async def prometheus(
    folder: Path,
    targets: Mapping[str, Sequence[str]],
    rules: Sequence[Path] = (),
    alertmanager: str = "",
) -> AsyncIterator[Prometheus]:
    """Run a Prometheus in this folder while the block runs.

    Args:
        folder: takes its configuration, data and log.
        targets: URLs whose `/metrics` is scraped, by job.
        rules: files of rules; all groups are evaluated every second, whatever they say.
        alertmanager: URL of an Alertmanager.
    """
    binary = shutil.which("prometheus")
    assert binary is not None, "needs Debian's package `prometheus`"
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(_config(targets, [_quick(path, folder) for path in rules], alertmanager)))
    command = (
        binary,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
    )
    async with listening(LISTENS, *command) as address, aiohttp.ClientSession() as http:
        server = Prometheus(f"http://{address}", http)
        await server.ready()
        yield server


def _config(targets: Mapping[str, Sequence[str]], rules: Sequence[Path], alertmanager: str) -> dict[str, object]:
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [url.removeprefix("http://").rstrip("/") for url in urls]}]}
        for job, urls in targets.items()
    ]
    config: dict[str, object] = {
        "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": jobs,
    }
    if alertmanager:
        address = alertmanager.removeprefix("http://").rstrip("/")
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}
    return config


def _quick(path: Path, folder: Path) -> Path:
    """The same rules without intervals of their own."""
    tree = yaml.safe_load(path.read_text("utf-8"))
    for group in tree["groups"]:
        group.pop("interval", None)
    copy = folder / path.name
    copy.write_text(yaml.safe_dump(tree))
    return copy
