"""What tests of the gate and the relay share: backends that told of themselves, tickets, and a clock kept by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from estimator.demand import Demand
from estimator.kv_cache import KvLayout
from estimator.output_length import ENDLESS
from gateway.admission.events import BackendAdded, BackendRead
from gateway.domain import BackendSpec, Capacity, Reading, Ticket
from gateway.gate import Gate

MODEL = "m"
BLOCK_TOKENS = 16


def reading(backend: str, now: float, *, blocks: int = 64, used_blocks: int = 0, generation: str = "1") -> Reading:
    """A look at an engine that serves `MODEL` from this many blocks."""
    return Reading(
        backend=backend,
        asked_at=now,
        models=frozenset((MODEL,)),
        generation=generation,
        capacity=Capacity(blocks, KvLayout.uniform(BLOCK_TOKENS)),
        used_blocks=used_blocks,
        running=0,
        waiting=0,
    )


def add_backend(gate: Gate, name: str, *, blocks: int = 64) -> None:
    """Configure an engine and let it be looked at."""
    gate.hear(BackendAdded(BackendSpec(name)))
    gate.hear(BackendRead(reading(name, gate.now(), blocks=blocks)))


def ticket(gate: Gate, *, blocks: int = 32, patience_s: float = 30.0) -> Ticket:
    """A request that is sure to need so many blocks: its prompt takes one, its output the rest."""
    output = (blocks - 1) * BLOCK_TOKENS
    demand = Demand(1, (BLOCK_TOKENS,), BLOCK_TOKENS, output, ENDLESS)
    return Ticket(gate.next_ticket_id(), MODEL, demand, gate.now() + patience_s, max_tokens=output)


class HandClock:
    """The running loop to whoever only asks for the time, futures and timers; time passes by `advance` alone."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = 1_000.0
        self.timers: list[_Timer] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """For arguments that take a loop."""
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        return self._now

    def create_future(self) -> asyncio.Future[None]:
        return self._loop.create_future()

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(self, when, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass; timers that come due run in their order."""
        until = self._now + seconds
        while self.timers and (first := min(self.timers, key=lambda timer: timer.when)).when <= until:
            self._now = max(self._now, first.when)
            first.cancel()
            first.callback()
        self._now = until


class _Timer:
    def __init__(self, clock: HandClock, when: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self.when = when
        self.callback = callback

    def cancel(self) -> None:
        if self in self._clock.timers:
            self._clock.timers.remove(self)


async def settle(turns: int = 5) -> None:
    """Let every task run until it waits."""
    for _ in range(turns):
        await asyncio.sleep(0)
