"""One chaos run: engines with faults, a gateway in front of them, clients, and what must be true when all is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from urllib.parse import urlsplit

import aiohttp
import msgspec

from tests.chaos.case import Case, Leave, Outcome
from tests.chaos.client import Caller
from tests.chaos.engine import ChaosEngine
from tests.chaos.plan import QUEUE_CASES, QUEUE_SHARE, drawn, queued
from tests.chaos.table import allowed
from tests.e2e.stand import State

CROWD = 48
"""Clients at once."""
SETTLE_MAX_S = 30.0
LOOK_EVERY_S = 0.01
DEATH_EVERY = 150
"""After so many answers the mortal engine is killed, and started again."""
DEAD_S = 0.05
QUICK_S = 0.4
"""Silence that the quick backend's engine is allowed."""
REFUSALS = frozenset({"kv_capacity_exhausted", "queue_full", "queue_timeout", "no_backend"})
"""Admission's own, which any request may meet."""
MORTAL = frozenset({"ok", "broken", "502", "503", "504"})
"""What may come of a request whose engine may be killed."""


@dataclass(slots=True)
class Result:
    """All that was seen."""

    asked: int = 0
    words: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often a fault led to a word."""
    refused: Counter[str] = field(default_factory=Counter)
    """By code."""
    wrong: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    """What the ledger still held at the end."""
    orphans: int = 0
    """Requests that an engine was still busy with when all clients were gone."""
    deaths: int = 0
    garbage_looks: int = 0
    open_connections: int = 0

    @property
    def holds(self) -> bool:
        """Nothing was wrong, nothing is left."""
        return not (self.wrong or self.kept or self.orphans)

    def add(self, case: Case, outcome: Outcome) -> None:
        """A case has come to its end."""
        self.asked += 1
        self.words[case.fault, outcome.word] += 1
        if case.leave is not Leave.NEVER and outcome.word == "left":
            return
        if outcome.detail in REFUSALS:
            self.refused[outcome.detail] += 1
            return
        permitted = MORTAL if case.model == "mortal" else allowed(case)
        if case.leave is not Leave.NEVER or outcome.word not in permitted:
            way = "streamed" if case.stream else "whole"
            self.wrong.append(
                f"{case.id} {case.fault} ({way}, leaves: {case.leave.value}, {case.how.value}): {outcome}"
            )


class Chaos:
    """Engines that listen; give their `backends` to a gateway and `run` at its address."""

    def __init__(self, seed: int, count: int) -> None:
        chance = Random(seed)
        episodes = max(1, round(count * QUEUE_SHARE / QUEUE_CASES))
        self._single = drawn(chance, max(1, count - episodes * QUEUE_CASES))
        self._episodes = [queued(chance, len(self._single) + i * QUEUE_CASES) for i in range(episodes)]
        cases = {case.id: case for case in self._single}
        for holder, leavers, late, stays in self._episodes:
            cases |= {case.id: case for case in (holder, *leavers, late, stays)}
        self.engines = {
            "a": ChaosEngine("m", cases),
            "b": ChaosEngine("m", cases),
            "quick": ChaosEngine("quick", cases),
            "mortal": ChaosEngine("mortal", cases),
            "narrow": ChaosEngine("narrow", cases, blocks=4, request_blocks=3),
        }
        self._chance = chance
        self.result = Result()

    def backends(self) -> list[dict[str, object]]:
        """For a gateway's configuration."""
        backends: dict[str, dict[str, object]] = {
            name: {"name": name, "url": engine.url, "kind": "vllm"} for name, engine in self.engines.items()
        }
        backends["quick"]["timeouts"] = {"connect_s": 2, "head_s": QUICK_S, "idle_s": QUICK_S}
        return list(backends.values())

    async def run(self, api_url: str, admin_url: str) -> Result:
        """Let it all happen, and wait until the gateway has come to rest."""
        address = urlsplit(api_url)
        assert address.hostname is not None
        assert address.port is not None
        self._host, self._port = address.hostname, address.port
        for name in ("a", "b"):
            self.engines[name].chance = self._chance
        async with aiohttp.ClientSession(admin_url) as admin:
            self._admin = admin
            cases = iter(self._single)
            async with asyncio.TaskGroup() as group:
                for number in range(CROWD):
                    group.create_task(self._ask_each(cases, keeps=number % 2 == 0))
                group.create_task(self._queue())
            for engine in self.engines.values():
                engine.chance = None
            await self._settle()
        self.result.garbage_looks = sum(engine.garbage for engine in self.engines.values())
        return self.result

    async def _ask_each(self, cases: Iterator[Case], *, keeps: bool) -> None:
        caller = Caller(self._host, self._port, keeps)
        for case in cases:
            self.result.add(case, await caller.ask(case))
            if self.result.asked // DEATH_EVERY > self.result.deaths:
                self.result.deaths += 1
                await self._kill()
        caller.close()

    async def _kill(self) -> None:
        await self.engines["mortal"].die()
        await asyncio.sleep(DEAD_S)
        await self.engines["mortal"].listen()

    async def _queue(self) -> None:
        for episode in self._episodes:
            await self._episode(*episode)

    async def _episode(self, holder: Case, leavers: list[Case], late: Case, stays: Case) -> None:
        """A backend that is full because of one; of those that wait behind it all but one leave."""
        async with asyncio.TaskGroup() as group:
            holding = group.create_task(self._one(holder))
            await holder.taken.wait()
            waiting = [group.create_task(self._one(case)) for case in (late, stays, *leavers)]
            await self._until(lambda depth: depth + _ended(waiting) >= len(waiting) or holding.done())
            for case in leavers:
                case.release.set()
            await self._until(lambda depth: depth <= len(waiting) - len(leavers))
            holder.release.set()
            late.release.set()

    async def _one(self, case: Case) -> None:
        self.result.add(case, await Caller(self._host, self._port).ask(case))

    async def _settle(self) -> None:
        """Until nothing is reserved, and no engine has work; or for a long time, and then it is wrong."""
        loop = asyncio.get_running_loop()
        end = loop.time() + SETTLE_MAX_S
        while loop.time() < end:
            self.result.kept = (await self._state()).kept
            self.result.orphans = sum(len(engine.inside) for engine in self.engines.values())
            if self.result.holds or (not self.result.kept and not self.result.orphans):
                break
            await asyncio.sleep(LOOK_EVERY_S)
        self.result.open_connections = sum(engine.open_connections for engine in self.engines.values())

    async def _until(self, holds: Callable[[int], bool]) -> None:
        """Wait for so many in the queue of the narrow backend."""
        while True:
            async with self._admin.get("/api/v1/state") as page:
                queues = msgspec.json.decode(await page.read(), type=_State).queues
            if holds(sum(queue.depth for queue in queues if queue.model == "narrow")):
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _state(self) -> State:
        async with self._admin.get("/api/v1/state") as page:
            return msgspec.json.decode(await page.read(), type=State)


class _Queue(msgspec.Struct):
    model: str
    depth: int


class _State(msgspec.Struct):
    queues: list[_Queue]


def _ended(tasks: list[asyncio.Task[None]]) -> int:
    return sum(task.done() for task in tasks)


@asynccontextmanager
async def chaos(seed: int, count: int) -> AsyncIterator[Chaos]:
    """A run whose engines listen while the block lasts."""
    world = Chaos(seed, count)
    async with AsyncExitStack() as stack:
        for engine in world.engines.values():
            await stack.enter_async_context(engine)
        yield world
