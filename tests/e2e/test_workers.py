"""`kvgate serve --workers` as users run it: several processes, one truth, and what becomes of it when one dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec
import pytest
import yaml

from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import State

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
PATIENCE_S = 30.0
LARGE = EngineOptions(model="m", kv_tokens=262_144)
"""12 ms for a step: what is asked of it stays for a while."""
SMALL = EngineOptions(model="m", kv_tokens=1024)
FILLING = {"prompt": [7] * 150, "max_tokens": 10}
"""From its first moment it has all that it will ever hold: 160 tokens, which six times fit there."""
ASKED = {"model": "m", "prompt": [7] * 60, "max_tokens": 100, "ignore_eos": True}
STREAMS = 24
"""Over two workers: that one of them gets fewer than two of so many connections happens once in 300,000 runs."""
IDLE_SOCKETS_MAX = 6
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway of several processes."""

    process: Process
    api: str
    admin: str
    config: Path
    log: Path
    http: aiohttp.ClientSession
    """Each request has a connection of its own."""

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def state(self) -> State:
        """The owner's books."""
        return msgspec.json.decode(await self._page("/api/v1/state"), type=State)

    async def counted(self, metric: str) -> float:
        """The sum of a metric's series."""
        lines = (await self._page("/metrics")).decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric + "{"))

    async def settled(self) -> None:
        """Wait until nothing is reserved, draining, running or waiting."""
        await until(self.state, lambda state: not state.kept)

    async def ask(self, **fields: object) -> int:
        """A completion; its status."""
        async with self.http.post(f"{self.api}/v1/completions", json={**ASKED, **fields}) as answer:
            await answer.read()
            return answer.status

    async def begin(self, tokens: int) -> list[Stream]:
        """Streams of so many tokens that have begun, all at once."""
        port = int(self.api.rpartition(":")[2])
        return await asyncio.gather(*(Stream.begun(port, tokens) for _ in range(STREAMS)))

    async def _page(self, path: str) -> bytes:
        async with self.http.get(self.admin + path) as answer:
            return await answer.read()


@dataclass(frozen=True, slots=True)
class Stream:
    """One of the client's. Read as it comes: HTTP clients forget what came before a cut."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def begun(cls, port: int, tokens: int) -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({**ASKED, "stream": True, "max_tokens": tokens}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        writer.write(head.encode() + b"\r\nConnection: close\r\n\r\n" + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await reader.readuntil(b"data: ")
        return cls(reader, writer)

    async def ending(self) -> str:
        """How it ends: whole, told of an error, or just cut."""
        rest = await self.reader.read()
        self.writer.close()
        if not rest.endswith(b"\r\n0\r\n\r\n"):
            return "told" if b'data: {"error"' in rest else "cut"
        return "whole" if b"data: [DONE]" in rest else "clean, but not whole"


async def until(look: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """The first of what is seen for which this holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(seen := await look()):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.02)
    return seen


def write(file: Path, *backends: str, **config: object) -> None:
    """A configuration with these backends."""
    tree = {
        "listen": {"port": 0, "admin_port": 0},
        "telemetry": {"interval_s": 0.05},
        "backends": [{"name": f"b{number}", "url": url} for number, url in enumerate(backends)],
        **config,
    }
    file.write_text(yaml.safe_dump(tree))


@asynccontextmanager
async def served(folder: Path, workers: int, *backends: str, **config: object) -> AsyncIterator[Served]:
    """So many workers before these engines while the block lasts."""
    file, log = folder / "kvgate.yaml", folder / "log"
    write(file, *backends, **config)
    command = [sys.executable, "-m", "gateway", "serve", "-c", str(file), "--workers", str(workers), "--json"]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        try:
            shown = json.loads(await process.stdout.readuntil(b"\n}\n"))
            yield Served(process, shown["api"], shown["admin"], file, log, http)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
    assert "Traceback" not in log.read_text()


def sockets(pids: Collection[int]) -> dict[int, int]:
    """How many sockets each process has."""
    return {
        pid: sum(str(file.readlink()).startswith("socket:") for file in Path(f"/proc/{pid}/fd").iterdir())
        for pid in pids
    }


async def gone(pids: Collection[int]) -> None:
    """Wait until these processes are no more."""

    async def look() -> list[int]:
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    await until(look, lambda left: not left)


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    """One with room for everybody."""
    async with start_engine(LARGE) as running:
        yield running


async def test_several_workers_let_in_no_more_than_one_would(tmp_path: Path) -> None:
    """A burst six times the pool waits for its turn: nobody is lost or preempted, and one page counts them all."""
    async with start_engine(SMALL) as engine, served(tmp_path, 3, engine.url) as gateway:
        full = 0
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(gateway.ask(**FILLING)) for _ in range(40)]
            while not all(task.done() for task in asking):
                full = max(full, (await gateway.state()).backends[0].reserved_tokens)
                await asyncio.sleep(0.005)
        assert {task.result() for task in asking} == {200}
        assert 2 * 160 <= full <= 6 * 160
        assert engine.engine.preemptions == 0
        await gateway.settled()
        await until(lambda: gateway.counted("kvgate_requests_total"), lambda counted: counted == len(asking))
        asked = {"endpoint": "/v1/completions", "body": {**ASKED, **FILLING}}
        async with gateway.http.post(f"{gateway.api}/v1/estimate", json=asked) as answer:
            assert (await answer.json())["kv_tokens"]["max"] == 160


async def test_a_worker_that_dies_takes_only_its_own_with_it_and_the_owner_everything(
    engine: RunningEngine, tmp_path: Path
) -> None:
    """What the worker had is given back, another takes its place, and nobody who comes meanwhile is turned away. Where
    the owner is killed, nobody can decide anything any more: clients are told, no stream looks whole, and all go."""
    async with served(tmp_path, 2, engine.url) as gateway:
        streams = await gateway.begin(100)
        killed, other = gateway.workers
        os.kill(killed, signal.SIGKILL)
        assert {await gateway.ask(max_tokens=2) for _ in range(STREAMS)} == {200}
        assert {await stream.ending() for stream in streams} == {"whole", "cut"}
        assert other in gateway.workers
        assert killed not in gateway.workers
        await gateway.settled()
        assert '"worker_lost"' in gateway.log.read_text()
        assert engine.engine.preemptions == 0

        streams = await gateway.begin(8_000)
        workers = gateway.workers
        gateway.process.kill()
        assert {await stream.ending() for stream in streams} == {"told"}
        await gone(workers)


async def test_a_reload_reaches_all_workers_and_a_drain_lets_their_streams_end(
    engine: RunningEngine, tmp_path: Path
) -> None:
    """Streams that run end by what they began with; soon nobody finds the old configuration any more. After SIGTERM
    each stream comes to its end, then all processes do."""
    async with start_engine(EngineOptions(model="other")) as other, served(tmp_path, 2, engine.url) as gateway:
        streams = await gateway.begin(100)
        before = gateway.workers
        assert all(count >= IDLE_SOCKETS_MAX + 4 for count in sockets(before).values()), "connections are spread"
        write(gateway.config, engine.url, other.url)
        gateway.process.send_signal(signal.SIGHUP)
        while not set(gateway.workers).isdisjoint(before):
            assert await gateway.ask(model="other", max_tokens=2) in (200, 404, 503)
            assert await gateway.ask(max_tokens=2) == 200
        assert {await stream.ending() for stream in streams} == {"whole"}
        assert {await gateway.ask(model="other", max_tokens=2) for _ in range(STREAMS)} == {200}
        assert '"worker_lost"' not in gateway.log.read_text()

        streams, workers = await gateway.begin(50), gateway.workers
        gateway.process.send_signal(signal.SIGTERM)
        assert {await stream.ending() for stream in streams} == {"whole"}
        assert await gateway.process.wait() == 0
        await gone(workers)
        lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
        assert sum(line.get("output_tokens") == 50 for line in lines) == STREAMS
