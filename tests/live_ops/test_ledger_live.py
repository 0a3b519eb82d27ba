"""Three gateway processes over one engine and one real server: never too full, whoever dies."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.shared_ledger.contract import STORIES

SERVER = next((path for name in ("valkey-server", "redis-server") if (path := shutil.which(name))), None)
pytestmark = [
    pytest.mark.ops,
    pytest.mark.timeout(300),
    pytest.mark.skipif(SERVER is None, reason="no valkey-server or redis-server is installed"),
]
GATEWAYS = 3
KV_TOKENS = 4096
ENGINE = EngineOptions(model="m", kv_tokens=KV_TOKENS, speed=2.0)
TTL_S = 2.0
SETTLE_MAX_S = 60.0
"""A machine that is busy with other things may take so long."""
ANSWERED_MAX_S = 120.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SETTLE_MAX_S):
        while not await holds():  # noqa: ASYNC110  # other processes have no event for it
            await asyncio.sleep(0.1)


@dataclass
class Store:
    """The server; what it knew is gone when it is started again."""

    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        assert SERVER is not None
        words = [SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp"]
        self.process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.DEVNULL)
        await eventually(self._answers)

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def _answers(self) -> bool:
        try:
            async with Redis(port=self.port) as client:
                return bool(await client.ping())
        except (OSError, RedisError):
            return False


@dataclass
class GatewayProcess:
    """`kvgate serve`, and how to ask it."""

    process: asyncio.subprocess.Process
    api: str
    admin: str


@dataclass
class Site:
    """All that runs."""

    store: Store
    engine: RunningEngine
    gateways: list[GatewayProcess]
    http: aiohttp.ClientSession
    most_used_blocks: int = 0
    statuses: dict[int, list[int]] = field(default_factory=dict)
    """By gateway."""

    async def watch(self) -> None:
        """The truth, as often as it may change between two steps of the engine."""
        while True:
            self.most_used_blocks = max(self.most_used_blocks, self.engine.engine.used_blocks)
            await asyncio.sleep(0.002)

    async def state(self, gateway: GatewayProcess) -> dict[str, dict[str, object]]:
        async with self.http.get(f"{gateway.admin}/api/v1/state") as response:
            shown = await response.json()
        return {"ledger": shown["ledger"], "backend": shown["backends"][0]}

    async def are(self, mode: str, *, replicas: int, gateways: list[GatewayProcess] | None = None) -> None:
        """Until all say so."""

        async def agree() -> bool:
            ledgers = [(await self.state(gateway))["ledger"] for gateway in gateways or self.gateways]
            return all((ledger["mode"], ledger["replicas"]) == (mode, replicas) for ledger in ledgers)

        await eventually(agree)

    async def empty(self, gateways: list[GatewayProcess]) -> None:
        """Until nobody keeps anything."""

        async def is_empty() -> bool:
            backends = [(await self.state(gateway))["backend"] for gateway in gateways]
            kept = ("reserved_tokens", "draining_tokens", "foreign_tokens", "requests")
            return not any(backend[name] for backend in backends for name in kept)

        await eventually(is_empty)

    async def ask(self, number: int, at: int) -> None:
        """One request of known length; status 0: its gateway has died."""
        tokens = (50, 100, 200, 400)[number % 4]
        body = {"model": "m", "prompt": [7] * (20 + number * 37 % 300), "max_tokens": tokens, "ignore_eos": True}
        try:
            async with self.http.post(f"{self.gateways[at].api}/v1/completions", json=body) as response:
                await response.read()
                status = response.status
        except aiohttp.ClientError:
            status = 0
        self.statuses.setdefault(at, []).append(status)

    def crowd(self, group: asyncio.TaskGroup, count: int, gateways: int = GATEWAYS) -> list[asyncio.Task[None]]:
        """So many at once, at all gateways in turn."""
        return [group.create_task(self.ask(number, number % gateways)) for number in range(count)]

    def never_too_full(self) -> None:
        """As the engine itself saw it."""
        assert self.engine.engine.preemptions == 0
        assert self.most_used_blocks * ENGINE.block_tokens <= KV_TOKENS


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        store = Store()
        stack.push_async_callback(store.kill)
        await store.start()
        engine = await stack.enter_async_context(start_engine(ENGINE))
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        gateways = [await serve(stack, folder / f"{n}.json", engine.url, store.url) for n in range(GATEWAYS)]
        running = Site(store, engine, gateways, http)
        watching = asyncio.get_running_loop().create_task(running.watch())
        stack.callback(watching.cancel)
        await running.are("shared", replicas=GATEWAYS)
        yield running


async def serve(stack: AsyncExitStack, path: Path, engine_url: str, store_url: str) -> GatewayProcess:
    config = {
        "listen": {"port": 0, "admin_port": 0},
        "backends": [{"name": "b0", "url": engine_url}],
        "admission": {"queue": {"wait_max_s": 110}, "slo": [{"time_per_output_token_s": 60}]},
        "telemetry": {"interval_s": 0.1},
        "ledger": {"url": store_url, "ttl_s": TTL_S},
    }
    path.write_text(json.dumps(config))
    with path.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "-c", str(path), "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    stack.push_async_callback(_stop, process)
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(SETTLE_MAX_S):
        while not said.endswith("}\n") or said.count("{") != said.count("}"):
            line = await process.stdout.readline()
            assert line, path.with_suffix(".log").read_text()
            said += line.decode()
    facts = json.loads(said)
    return GatewayProcess(process, facts["api"], facts["admin"])


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_contract(story: Callable[[Redis], Awaitable[None]]) -> None:
    """What the substitute of the unit tests does, a real server does."""
    store = Store()
    try:
        await store.start()
        async with Redis(port=store.port) as client:
            await story(client)
    finally:
        await store.kill()


async def test_under_load_the_pool_is_filled_and_never_overfilled(tmp_path: Path) -> None:
    async with site(tmp_path) as running:
        async with asyncio.timeout(ANSWERED_MAX_S), asyncio.TaskGroup() as group:
            running.crowd(group, 120)
        assert {status for statuses in running.statuses.values() for status in statuses} == {200}
        assert [len(running.statuses[n]) for n in range(GATEWAYS)] == [40] * GATEWAYS
        running.never_too_full()
        assert running.most_used_blocks * ENGINE.block_tokens > 0.5 * KV_TOKENS
        await running.empty(running.gateways)


async def test_one_is_killed(tmp_path: Path) -> None:
    async with site(tmp_path) as running:
        killed, rest = running.gateways[0], running.gateways[1:]
        async with asyncio.timeout(ANSWERED_MAX_S), asyncio.TaskGroup() as group:
            running.crowd(group, 120)
            await eventually(lambda: _is_busy(running, killed))
            killed.process.send_signal(signal.SIGKILL)
        assert set(running.statuses[0]) <= {0, 200}
        assert 0 in running.statuses[0]
        assert [running.statuses[n] for n in (1, 2)] == [[200] * 40] * 2
        running.never_too_full()
        await running.are("shared", replicas=2, gateways=rest)
        await running.empty(rest)


async def test_the_store_is_killed_and_comes_back(tmp_path: Path) -> None:
    async with site(tmp_path) as running:
        async with asyncio.timeout(ANSWERED_MAX_S), asyncio.TaskGroup() as group:
            running.crowd(group, 90)
            await eventually(lambda: _is_busy(running, running.gateways[0]))
            await running.store.kill()
            await running.are("degraded", replicas=GATEWAYS)
            states = [await running.state(gateway) for gateway in running.gateways]
            assert [state["ledger"]["share"] for state in states] == [1 / GATEWAYS] * GATEWAYS
            assert [state["ledger"]["store_up"] for state in states] == [False] * GATEWAYS
            more = running.crowd(group, 30)
            # Without the store too all goes on, only with less at once.
            await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED, timeout=SETTLE_MAX_S)
            assert any(task.done() for task in more)
            await running.store.start()
            await running.are("shared", replicas=GATEWAYS)
            running.crowd(group, 30)
        assert {status for statuses in running.statuses.values() for status in statuses} == {200}
        running.never_too_full()
        await running.empty(running.gateways)
        async with running.http.get(f"{running.gateways[0].admin}/metrics") as page:
            text = await page.text()
        assert 'kvgate_ledger_mode{mode="shared"} 1.0' in text
        assert "kvgate_ledger_store_up 1.0" in text


async def _is_busy(running: Site, gateway: GatewayProcess) -> bool:
    return bool((await running.state(gateway))["backend"]["requests"])
