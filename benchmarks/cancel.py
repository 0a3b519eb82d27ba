"""How long it takes from a client's leaving to the closing of its connection to the engine, at each point of its life.

Run it as `python -m benchmarks.cancel`. A raw upstream and the clients live in this process, so that both ends are
timed by one clock; the gateway is a process of its own, with every default. Every other client closes its connection,
the others reset it. In the queue there is no connection to close yet: there it is timed until the gateway's own books
show the queue empty, the asking included. Latencies hold for the machine as busy as it was.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop

from benchmarks.mock_engine import BLOCK_TOKENS
from tests.chaos.process import started
from tests.e2e.stand import State
from tests.faults import STREAM_HEAD, chunk, event, response

TARGET_MS = 10.0
EVERY_S = 0.005
"""Between two events of a stream that flows."""
WIDE_BLOCKS, NARROW_BLOCKS = 1_000_000, 4
WIDE, NARROW = "wide", "narrow"
PATIENCE_S = 30.0
QUEUED, ASKED, HEAD, FLOWING, STALLED = (
    "in the queue",
    "before the head",
    "before the first token",
    "mid-stream",
    "stall",
)
STREAMED = (QUEUED, ASKED, HEAD, FLOWING, STALLED)
WHOLE = (QUEUED, ASKED, HEAD, STALLED)
"""Of an answer in one piece nothing reaches the client before all of it: it stalls with half its body sent."""
_ID = re.compile(rb"\r\nx-request-id: ([a-z.0-9-]+)\r\n", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_JSON_HEAD = STREAM_HEAD.replace(b"text/event-stream", b"application/json")


class Trial:
    """One request, and the two moments of its upstream side."""

    def __init__(self, number: int, point: str, *, stream: bool, model: str = WIDE) -> None:
        self.id = f"cancel-{number}"
        self.point = point
        self.stream = stream
        self.model = model
        loop = asyncio.get_running_loop()
        self.reached: asyncio.Future[None] = loop.create_future()
        """The engine has sent what it sends before its client leaves."""
        self.closed: asyncio.Future[float] = loop.create_future()
        """When its connection to the engine was closed."""

    @property
    def request(self) -> bytes:
        """All of it."""
        fields = {"model": self.model, "prompt": self.id, "max_tokens": 40, "ignore_eos": True, "stream": self.stream}
        body = json.dumps(fields).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nX-Request-Id: {self.id}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class Upstream(asyncio.Protocol):
    """One connection of the gateway to an engine that never ends an answer."""

    transport: asyncio.Transport

    def __init__(self, model: str, blocks: int, trials: dict[str, Trial]) -> None:
        self._model = model
        self._blocks = blocks
        self._trials = trials
        self._buffer = b""
        self._trial: Trial | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance.

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        if self._timer is not None:
            self._timer.cancel()
        if self._trial is not None and not self._trial.closed.done():
            self._trial.closed.set_result(perf_counter())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n") + 4
        length = _LENGTH.search(self._buffer)
        if end < 4 or len(self._buffer) < end + (int(length[1]) if length else 0):
            return
        head, self._buffer = self._buffer[:end], b""
        if head.startswith(b"GET"):
            self.transport.write(self._page(head.split(b" ")[1].decode()))
            return
        id_ = _ID.search(head)
        assert id_ is not None
        self._trial = trial = self._trials[id_[1].decode()]
        self._begin(trial)
        trial.reached.set_result(None)

    def _begin(self, trial: Trial) -> None:
        """Answer as far as it goes."""
        if trial.point != ASKED:
            self.transport.write(STREAM_HEAD if trial.stream else _JSON_HEAD)
        if trial.point in (FLOWING, STALLED, QUEUED):
            self.transport.write(chunk(event("a")) if trial.stream else chunk(b'{"object":'))
        if trial.point == FLOWING:
            self._flow()

    def _flow(self) -> None:
        self.transport.write(chunk(event("a")))
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._flow)

    def _page(self, path: str) -> bytes:
        """vLLM's."""
        if path == "/v1/models":
            return response(json.dumps({"data": [{"id": self._model, "max_model_len": 131_072}]}).encode())
        running = sum(trial.reached.done() and not trial.closed.done() for trial in self._trials.values())
        return response(
            f"""vllm:num_requests_running {running}
vllm:kv_cache_usage_perc {running / self._blocks:.7f}
vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",num_gpu_blocks="{self._blocks + 1}"}} 1
process_start_time_seconds 1
""".encode()
        )


class Bench:
    """Makes trials against one gateway."""

    def __init__(self, trials: dict[str, dict[str, Trial]], api_url: str, admin: aiohttp.ClientSession) -> None:
        self._trials = trials
        address = urlsplit(api_url)
        self.at = (address.hostname, address.port)
        """Where requests go."""
        self._admin = admin
        self._count = 0

    def trial(self, point: str, *, stream: bool, model: str = WIDE) -> Trial:
        """Another one, which its engine knows of."""
        self._count += 1
        trial = Trial(self._count, point, stream=stream, model=model)
        self._trials[model][trial.id] = trial
        return trial

    async def cancelled_ms(self, point: str, *, stream: bool) -> float:
        """From leaving to the closing of the connection to the engine."""
        if point == QUEUED:
            return await self._unqueued_ms(stream=stream)
        trial = self.trial(point, stream=stream)
        async with self.asked(trial) as (reader, writer):
            await trial.reached
            if stream and point in (FLOWING, STALLED):
                await reader.readuntil(b"data: ")
            left_at = self._leave(writer)
            closed_at = await trial.closed
        del self._trials[WIDE][trial.id]
        return (closed_at - left_at) * 1e3

    async def _unqueued_ms(self, *, stream: bool) -> float:
        trial = self.trial(QUEUED, stream=stream, model=NARROW)
        async with self.asked(trial) as (_, writer):
            while not await self._waiting():
                pass
            left_at = self._leave(writer)
            while await self._waiting():
                pass
            assert not trial.reached.done(), "it was sent after all"
            return (perf_counter() - left_at) * 1e3

    @asynccontextmanager
    async def asked(self, trial: Trial) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Its connection, its request sent."""
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(*self.at)
            try:
                writer.write(trial.request)
                yield reader, writer
            finally:
                writer.transport.abort()

    def _leave(self, writer: asyncio.StreamWriter) -> float:
        """When that was."""
        if self._count % 2:
            peer = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left_at = perf_counter()
        writer.transport.abort()
        return left_at

    async def _waiting(self) -> int:
        async with self._admin.get("/api/v1/state") as page:
            return msgspec.json.decode(await page.read(), type=State).waiting


async def _measure(times: int) -> dict[tuple[str, bool], list[float]]:
    """Milliseconds of each trial, by point and way."""
    loop = asyncio.get_running_loop()
    trials: dict[str, dict[str, Trial]] = {WIDE: {}, NARROW: {}}
    backends: list[dict[str, object]] = []
    for model, blocks in ((WIDE, WIDE_BLOCKS), (NARROW, NARROW_BLOCKS)):
        server = await loop.create_server(partial(Upstream, model, blocks, trials[model]), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        timeouts = {"head_s": 3600, "idle_s": 3600}
        backends.append({"name": model, "url": f"http://127.0.0.1:{port}", "kind": "vllm", "timeouts": timeouts})
    found: dict[tuple[str, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as name, started(Path(name), backends) as gateway:
        api_url, admin_url = await asyncio.to_thread(gateway.urls)
        async with aiohttp.ClientSession(admin_url) as admin:
            bench = Bench(trials, api_url, admin)
            holder = bench.trial(STALLED, stream=True, model=NARROW)
            reader, writer = await asyncio.open_connection(*bench.at)
            writer.write(holder.request)
            await reader.readuntil(b"data: ")
            for stream, points in ((True, STREAMED), (False, WHOLE)):
                for point in points:
                    found[point, stream] = [await bench.cancelled_ms(point, stream=stream) for _ in range(times)]
            writer.close()
    return found


def _print_table(found: dict[tuple[str, bool], list[float]]) -> float:
    """The worst p99 of those that close a connection."""
    print("| client leaves | streamed: median, p99, max | in one piece: median, p99, max |")
    print("|---|---|---|")
    for point in STREAMED:
        print(f"| {point} | {_cell(found.get((point, True)))} | {_cell(found.get((point, False)))} |")
    worst = max(_part(times, 0.99) for (point, _), times in found.items() if point != QUEUED)
    times = len(next(iter(found.values())))
    print(
        f"\nMilliseconds, {times} trials each; load {os.getloadavg()[0]:.1f}. Worst p99 of a connection: {worst:.1f}."
    )
    return worst


def _cell(times_ms: Sequence[float] | None) -> str:
    if times_ms is None:
        return "none: nothing has come"
    return ", ".join(f"{_part(times_ms, part):.1f}" for part in (0.5, 0.99, 1.0))


def _part(times_ms: Sequence[float], part: float) -> float:
    """The time that this part of all stayed within."""
    return sorted(times_ms)[min(len(times_ms) - 1, int(part * len(times_ms)))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200, help="how often at each point")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(_print_table(runner.run(_measure(parser.parse_args().times))) > TARGET_MS)
