"""A gateway in this process, with what a test needs to ask it, to look into it, and to see that it kept nothing."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import msgspec
from multidict import CIMultiDictProxy
from openai import AsyncOpenAI

from gateway.app import Running, run
from gateway.config import load_config
from gateway.config.source import ConfigSource
from gateway.reporting.logs import LineWriter, Logs
from gateway.simulation.server import EngineOptions

SMALL = EngineOptions(model="m", kv_tokens=1024, speed=100.0, output_tokens_mean=20)
"""1,024 tokens in blocks of 16; 0.12 ms for a step."""
SLOW = EngineOptions(model="m", kv_tokens=1024, output_tokens_mean=20)
"""The same with 12 ms for a step: what is asked of it stays for a while."""
SETTLE_MAX_S = 8.0
"""How long the books may take to be empty: a reading of the engine must show that it has ended too."""


class BackendState(msgspec.Struct):
    """The part of a backend's state that tests look at."""

    name: str
    kind: str
    state: str
    telemetry: str
    models: list[str]
    capacity_tokens: int
    reserved_tokens: int
    draining_tokens: int
    foreign_tokens: int
    headroom_tokens: int
    held_back_tokens: int
    requests: int
    preemptions: int


class QueueState(msgspec.Struct):
    depth: int


class State(msgspec.Struct):
    """`/api/v1/state`."""

    backends: list[BackendState]
    queues: list[QueueState]
    double_releases: int
    draining: bool

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(queue.depth for queue in self.queues)

    @property
    def live(self) -> int:
        """Requests at backends."""
        return sum(backend.requests for backend in self.backends)

    def backend(self, name: str) -> BackendState:
        """One backend."""
        return next(backend for backend in self.backends if backend.name == name)

    @property
    def kept(self) -> dict[str, int]:
        """Everything that must be zero once nobody is inside."""
        kept = {"waiting": self.waiting, "double_releases": self.double_releases}
        for backend in self.backends:
            kept[f"{backend.name}.reserved"] = backend.reserved_tokens
            kept[f"{backend.name}.draining"] = backend.draining_tokens
            kept[f"{backend.name}.requests"] = backend.requests
        return {name: value for name, value in kept.items() if value}


class ErrorFields(msgspec.Struct, forbid_unknown_fields=True):
    """The object in `error`; all four fields are always there."""

    message: str
    type: str
    param: str | None
    code: str


class _ErrorBody(msgspec.Struct, forbid_unknown_fields=True):
    error: ErrorFields


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def error(self) -> ErrorFields:
        """The error object; fails where the body is not exactly one."""
        return msgspec.json.decode(self.body, type=_ErrorBody).error


@dataclass(slots=True)
class Stand:
    """A running gateway and its observers."""

    running: Running
    http: aiohttp.ClientSession
    """Of the API's URL."""
    log: io.StringIO
    _clients: list[AsyncOpenAI] = field(default_factory=list)

    def openai(self, *, api_key: str = "none", max_retries: int = 0) -> AsyncOpenAI:
        """The client that users have, without its retries; closed with the stand."""
        client = AsyncOpenAI(base_url=f"{self.running.api_url}/v1", api_key=api_key, max_retries=max_retries)
        self._clients.append(client)
        return client

    async def post(
        self, path: str, body: bytes | Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a body as it is and take the whole answer."""
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.http.post(path, data=data, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def complete(self, headers: Mapping[str, str] | None = None, /, **fields: object) -> Answer:
        """A completion of model `m`."""
        return await self.post("/v1/completions", {"model": "m", "prompt": "Hello.", **fields}, headers)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """A page of the API."""
        async with self.http.get(path, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def admin(self, path: str) -> Answer:
        """A page of the admin port."""
        async with self.http.get(self.running.admin_url + path) as response:
            return Answer(response.status, response.headers, await response.read())

    async def state(self) -> State:
        """The gateway's books."""
        return msgspec.json.decode((await self.admin("/api/v1/state")).body, type=State)

    async def until(self, holds: Callable[[State], bool], within_s: float = SETTLE_MAX_S) -> State:
        """The first state in which this holds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + within_s
        while not holds(state := await self.state()):
            assert loop.time() < end, f"not within {within_s} s: {state}"
            await asyncio.sleep(0.02)
        return state

    async def ledger_is_zero(self, within_s: float = SETTLE_MAX_S) -> None:
        """Nothing is reserved, draining, live or waiting, and nothing was released twice."""
        state = await self.until(lambda state: not state.kept, within_s)
        assert not state.kept

    def log_lines(self, event: str = "request") -> list[dict[str, object]]:
        """The lines of the log so far."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    async def settled_log(self, lines: int) -> list[dict[str, object]]:
        """The request lines once there are so many; each is written when its request is over."""
        await eventually(lambda: len(self.log_lines()) >= lines)
        return self.log_lines()

    async def aclose(self) -> None:
        """Close the clients."""
        for client in self._clients:
            await client.close()
        await self.http.close()


@asynccontextmanager
async def gateway(
    *backends: str | Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    settles: bool = True,
    source: ConfigSource | None = None,
    **config: object,
) -> AsyncIterator[Stand]:
    """Run a gateway in front of these URLs or entries of `backends`, until each has been looked at once.

    With a `source`, that is where its configuration comes from, now and when it is reloaded.
    When the block ends the ledger must come to zero (unless `settles` is False), and the gateway's tasks must be gone.
    """
    entries = [{"name": f"b{i}", "url": b} if isinstance(b, str) else dict(b) for i, b in enumerate(backends)]
    tree = {
        "listen": {"port": 0, "admin_port": 0},
        "telemetry": {"interval_s": 0.05},
        "backends": entries,
        **config,
    }
    tasks = asyncio.all_tasks()
    stream = io.StringIO()
    if source is None:
        loaded = load_config(overrides=tree, environ=environ or {})
    else:
        loaded = await asyncio.to_thread(source.load)
    async with run(loaded, logs_into(stream), source=source) as running:
        stand = Stand(running, aiohttp.ClientSession(running.api_url), stream)
        try:
            for looked in running.first_looks.values():
                await asyncio.wait_for(looked.wait(), SETTLE_MAX_S)
            yield stand
            if settles:
                await stand.ledger_is_zero()
        finally:
            await stand.aclose()
    await _ended(asyncio.all_tasks() - tasks - {asyncio.current_task()})


async def _ended(tasks: Collection[asyncio.Task[object] | None]) -> None:
    """Connections that were just closed end within the next turns of the loop; anything else has leaked."""
    for task in tasks:
        assert task is not None
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), SETTLE_MAX_S)


class _Lines(LineWriter):
    """Writes at once, without the thread that keeps a slow reader of the log away from the loop."""

    def __init__(self, stream: io.StringIO) -> None:
        self._into = stream
        self.dropped = 0

    def write(self, line: str) -> None:
        self._into.write(line + "\n")

    def close(self, timeout_s: float = 0.0) -> None:
        pass


def logs_into(stream: io.StringIO) -> Logs:
    """Request lines as JSON, one at a time, into a string."""
    return Logs(_Lines(stream), level=logging.INFO, is_json=True)


async def eventually(holds: Callable[[], bool], within_s: float = SETTLE_MAX_S) -> None:
    """Wait until something outside the gateway has happened."""

    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  # engines have no event for everything
            await asyncio.sleep(0.01)


def is_retryable(answer: Answer) -> bool:
    """Whether the three headers that tell a client when to come back are there and agree."""
    after_s, after_ms = answer.headers["retry-after"], answer.headers["retry-after-ms"]
    assert after_s.isdigit()
    assert 1 <= int(after_s) <= 60
    assert after_ms.isdigit()
    assert 0 < int(after_ms) <= 60_000
    assert int(after_ms) <= int(after_s) * 1000
    return answer.headers["x-should-retry"] == "true"
