"""Several gateways in front of one engine, in virtual time: their store on a wire that loses things, and the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NoReturn

from gateway.admission.admission import Admission
from gateway.admission.events import BackendAdded, BackendRead
from gateway.admission.limits import AdmissionLimits
from gateway.domain import BackendSpec, Outcome, Ticket, Usage
from gateway.gate import Gate, RefusedError
from gateway.reporting.ledger import LedgerMetrics
from gateway.reporting.registry import Families
from gateway.shared_ledger.claims import Claim, LedgerSettings, Reply, StoreError
from gateway.shared_ledger.redis_store import HOLD, LEAVE, TIMEOUT_S, reply_of, words_of
from gateway.shared_ledger.sharing import SharedLedger
from tests.admission.words import reading, ticket
from tests.lifecycle.virtual_loop import VirtualLoop
from tests.shared_ledger.lua_server import LuaServer

BACKEND = "a"
SETTINGS = LedgerSettings("redis://store", replicas_max=4, ttl_s=5.0)
LOOK_S = 0.5
SETTLED_S = 5.5
"""A new ledger trusts itself after a TTL."""


@dataclass(slots=True)
class Faults:
    """What the wire does, as parts of all calls."""

    lost: float = 0.0
    """Never arrive."""
    unanswered: float = 0.0
    """Arrive, but the answer is lost."""
    late: float = 0.0
    """Arrive after everybody has given up, perhaps behind newer ones."""
    is_cut: bool = False
    """Nothing gets through."""


class Server:
    """The store's server: may be killed, and comes back empty."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.lua = LuaServer(asyncio.get_running_loop().time)

    def hold(self, name: str, claims: Sequence[Claim]) -> Sequence[Reply]:
        ttl_ms = int(SETTINGS.ttl_s * 1000)
        return [reply_of(self.lua.call(HOLD, (name, *words_of(claim, ttl_ms)))) for claim in claims]


class WiredStore:
    """One gateway's way to the server, as bad as a test wants it."""

    def __init__(self, server: Server, name: str, faults: Faults, chance: Random) -> None:
        self._server, self._name, self._faults, self._chance = server, name, faults, chance
        self.calls = 0
        self.is_dead = False

    async def hold(self, claims: Sequence[Claim]) -> Sequence[Reply]:
        self.calls += 1
        faults, chance = self._faults, self._chance.random()
        if self.is_dead or faults.is_cut or chance < faults.lost:
            await _nothing()
        chance -= faults.lost
        await asyncio.sleep(self._chance.uniform(0.0001, 0.002))
        if chance < faults.late:
            later = self._chance.uniform(0.3, 1.5)
            asyncio.get_running_loop().call_later(later, self._server.hold, self._name, claims)
            await _nothing()
        replies = self._server.hold(self._name, claims)
        if chance - faults.late < faults.unanswered:
            await _nothing()
        await asyncio.sleep(self._chance.uniform(0.0001, 0.002))
        return replies

    async def leave(self, held_blocks: Sequence[tuple[str, int]]) -> None:
        if self.is_dead or self._faults.is_cut:
            await _nothing()
        for _, blocks in held_blocks:
            self._server.lua.call(LEAVE, (self._name, blocks))

    async def aclose(self) -> None:
        pass


async def _nothing() -> NoReturn:
    await asyncio.sleep(TIMEOUT_S)
    raise StoreError("no answer")


class Engine:
    """What is really held, by whoever sent it."""

    def __init__(self) -> None:
        self.held: dict[object, int] = {}
        self.most = 0
        self.served = 0

    @property
    def used(self) -> int:
        return sum(self.held.values())

    def start(self, request: object, blocks: int) -> None:
        self.held[request] = blocks
        self.most = max(self.most, self.used)

    def end(self, request: object) -> None:
        del self.held[request]


@dataclass(slots=True)
class Replica:
    """One gateway, whole."""

    name: str
    engine: Engine
    store: WiredStore
    gate: Gate
    ledger: SharedLedger
    families: Families
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    asked: int = 0
    answered: int = 0
    refused: int = 0
    running: dict[object, int] = field(default_factory=dict)

    def start(self) -> None:
        """Keep the ledger, look at the engine."""
        self.gate.hear(BackendAdded(BackendSpec(BACKEND)))
        self._spawn(self.ledger.run())
        self._spawn(self._look())

    def client(self, blocks: int, held_s: float, *, patience_s: float = 60.0, leaves_after_s: float = 1e9) -> None:
        """A request that holds so much for so long."""
        self.asked += 1
        arrival = ticket(self.asked, blocks, deadline=self.gate.now() + patience_s)
        self._spawn(self._visit(arrival, blocks, held_s, leaves_after_s))

    async def kill(self, noticed_after_s: float) -> None:
        """As by SIGKILL; the engine notices later that nobody listens any more."""
        self.store.is_dead = True
        held = dict(self.running)
        self._orphan(held)
        await _cancelled(self.tasks)
        await asyncio.sleep(noticed_after_s)
        for request in held:
            self.engine.end(("orphan", self.name, request))

    async def stop(self) -> None:
        """As by SIGTERM, with nothing inside."""
        await _cancelled(self.tasks)

    def _orphan(self, held: dict[object, int]) -> None:
        for request, blocks in held.items():
            self.engine.end((self.name, request))
            self.engine.start(("orphan", self.name, request), blocks)
        self.running.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def _visit(self, arrival: Ticket, blocks: int, held_s: float, leaves_after_s: float) -> None:
        try:
            async with asyncio.timeout(leaves_after_s), self.gate.enter(arrival) as place:
                place.sent = True
                self.engine.start((self.name, arrival.id), blocks)
                self.running[arrival.id] = blocks
                try:
                    await asyncio.sleep(held_s)
                finally:
                    if arrival.id in self.running:
                        del self.running[arrival.id]
                        self.engine.end((self.name, arrival.id))
                place.end(Outcome.FINISHED, Usage(0, 16))
                self.engine.served += 1
        except RefusedError:
            self.refused += 1
        except TimeoutError:
            pass
        self.answered += 1

    async def _look(self) -> None:
        while True:
            held = self.engine.held
            answer = reading(self.gate.now(), used=sum(held.values()), running=len(held), work=self.engine.served)
            self.gate.hear(BackendRead(answer))
            await asyncio.sleep(LOOK_S)


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Crowd:
    """Replicas, one engine of `POOL` blocks, one store."""

    def __init__(self, seed: int, faults: Faults, limits: AdmissionLimits | None = None) -> None:
        self.chance = Random(seed)
        self.faults = faults
        self.limits = limits or AdmissionLimits()
        self.server = Server()
        self.engine = Engine()
        self.replicas: list[Replica] = []

    def join(self, count: int = 1) -> list[Replica]:
        """Further gateways, of which no client has come yet."""
        return [self._join() for _ in range(count)]

    def _join(self) -> Replica:
        name = f"gateway-{len(self.replicas)}"
        families = Families()
        gate = Gate(Admission(self.limits), asyncio.get_running_loop())
        store = WiredStore(self.server, name, self.faults, self.chance)
        metrics = LedgerMetrics(families, "degraded")
        ledger = gate.sharing = SharedLedger(store, gate, SETTINGS, metrics, name=name, observe=self.limits.observe)
        replica = Replica(name, self.engine, store, gate, ledger, families)
        self.replicas.append(replica)
        replica.start()
        return replica

    async def settled(self) -> None:
        """Until a new ledger trusts itself."""
        await asyncio.sleep(SETTLED_S)

    async def emptied(self, within_s: float) -> None:
        """Until the engine holds nothing, and every client of a gateway that lives was answered."""
        end = asyncio.get_running_loop().time() + within_s
        while self.engine.held or any(not r.store.is_dead and r.answered < r.asked for r in self.replicas):
            assert asyncio.get_running_loop().time() < end, [(r.asked, r.answered) for r in self.replicas]
            await asyncio.sleep(0.5)
        await asyncio.sleep(1.0)

    async def stop(self, *replicas: Replica) -> None:
        """All clients have gone by now: nothing may be left anywhere."""
        for replica in replicas:
            state = replica.gate.snapshot()
            assert [(backend.reserved_tokens, backend.requests) for backend in state.backends] == [(0, 0)]
            assert not state.queues
            assert state.double_releases == 0
            await replica.stop()


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story in virtual time; the store's server has the same clock."""
    loop = VirtualLoop(_no_connections)
    try:
        loop.run_until_complete(story())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(1.0))
        loop.close()


async def _no_connections(
    factory: Callable[[], asyncio.Protocol], host: str
) -> tuple[asyncio.Transport, asyncio.Protocol]:
    raise AssertionError(f"nobody is to be called at {host}")
