"""Backends that come, change and go: what admission is told, what is looked at, what is closed and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from gateway.admission.admission import Admission
from gateway.admission.events import BackendRead
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendSnapshot
from gateway.backends.backend import BackendSettings
from gateway.domain import Outcome
from gateway.fleet import Fleet
from gateway.gate import Gate
from gateway.simulation.server import EngineOptions, start_engine
from gateway.telemetry.poller import LookEvent
from tests.shell import settle, ticket

NOBODY = "http://127.0.0.1:9"
OPTIONS = EngineOptions(model="m", kv_tokens=1024)


@dataclass
class House:
    """A fleet whose looks go to a real gate."""

    gate: Gate
    fleet: Fleet
    looks: list[LookEvent] = field(default_factory=list)
    interval_s: float = 0.02

    def on_look(self, event: LookEvent, duration_s: float) -> None:
        self.looks.append(event)
        self.gate.hear(event)

    def on_telemetry_error(self, backend: str, source: str, reason: object, message: str) -> None:
        assert source == "metrics"

    async def become(self, *wanted: BackendSettings) -> None:
        """Make these the backends."""
        built = {one.name: self.fleet.build(one) for one in wanted if one != self.fleet.settings.get(one.name)}
        await self.fleet.change(wanted, built, self.interval_s)

    def shown(self) -> dict[str, BackendSnapshot]:
        return {backend.name: backend for backend in self.gate.snapshot().backends}

    def states(self) -> dict[str, str]:
        return {name: backend.state.value for name, backend in self.shown().items()}

    def read(self, name: str) -> int:
        """Good looks at it so far."""
        return sum(isinstance(event, BackendRead) and event.reading.backend == name for event in self.looks)


@asynccontextmanager
async def house(*settings: BackendSettings) -> AsyncIterator[House]:
    gate = Gate(Admission(AdmissionLimits()), asyncio.get_running_loop())
    built = House(gate, Fleet(gate, 0.02))
    for one in settings:
        built.fleet.add(one, built.fleet.build(one))
    async with asyncio.TaskGroup() as group:
        built.fleet.start(group, built)
        yield built
        built.fleet.stop()
    await built.fleet.aclose()


async def gone(built: House, name: str) -> None:
    async with asyncio.timeout(5):
        while name in built.fleet.backends:  # noqa: ASYNC110  # a few turns of the loop
            await asyncio.sleep(0)


async def test_a_new_backend_takes_requests_at_once() -> None:
    """It has been looked at before it was told of; one that does not answer is cold until it does."""
    async with start_engine(OPTIONS) as engine, house(BackendSettings("a", NOBODY)) as built:
        await built.become(BackendSettings("a", NOBODY), BackendSettings("b", engine.url), BackendSettings("c", NOBODY))
        assert built.states() == {"a": "cold", "b": "ready", "c": "cold"}
        assert built.fleet.first_looks.keys() == {"a", "b", "c"}
        assert built.fleet.configured == {"a", "b", "c"}


async def test_a_backend_leaves_when_it_is_empty() -> None:
    """Until then it drains; then nobody looks at it any more, and nothing of it is left."""
    async with start_engine(OPTIONS) as engine:
        first, second = BackendSettings("a", engine.url), BackendSettings("b", NOBODY)
        async with house() as built:
            await built.become(first, second)
            place = await built.gate.admit(ticket(built.gate))
            taken = built.gate.occupy(place)  # type: ignore[arg-type]
            await built.become(second)
            await settle()
            assert built.states() == {"a": "draining", "b": "cold"}
            assert built.fleet.configured == {"b"}
            assert not built.fleet.drain("a")
            assert not built.fleet.resume("a")
            taken.end(Outcome.FINISHED)
            await gone(built, "a")
            assert built.states() == {"b": "cold"}
            assert built.fleet.settings.keys() == built.fleet.first_looks.keys() == {"b"}
            assert built.fleet._pollers.keys() == {"b"}


async def test_one_that_comes_back_before_it_left_keeps_its_books() -> None:
    async with start_engine(OPTIONS) as engine:
        first, second = BackendSettings("a", engine.url), BackendSettings("b", NOBODY)
        async with house() as built:
            await built.become(first)
            taken = built.gate.occupy(await built.gate.admit(ticket(built.gate)))  # type: ignore[arg-type]
            await built.become(second)
            await built.become(first, second)
            assert built.states() == {"a": "ready", "b": "cold"}
            assert built.shown()["a"].requests == 1
            taken.end(Outcome.FINISHED)
            await settle()
            assert "a" in built.fleet.backends


async def test_changed_settings_of_the_same_engine_keep_its_books() -> None:
    """Its kind need not be found out again; another address is another engine."""
    async with start_engine(OPTIONS) as engine, start_engine(OPTIONS) as other, house() as built:
        before = BackendSettings("a", engine.url)
        await built.become(before)
        old = built.fleet.backends["a"]
        taken = built.gate.occupy(await built.gate.admit(ticket(built.gate)))  # type: ignore[arg-type]
        await built.become(replace(before, spill_only=True))
        changed = built.fleet.backends["a"]
        assert changed is not old
        assert (changed.kind, changed.spec.spill_only, built.shown()["a"].requests) == ("vllm", True, 1)
        await built.become(replace(before, url=other.url))
        assert (built.states()["a"], built.shown()["a"].requests) == ("ready", 0)
        taken.end(Outcome.FINISHED)
        assert built.gate.snapshot().double_releases == 0


async def test_what_the_operator_drained_stays_drained() -> None:
    """Over changes of its settings and of its address, until it is resumed."""
    async with start_engine(OPTIONS) as engine, start_engine(OPTIONS) as other, house() as built:
        await built.become(BackendSettings("a", engine.url))
        assert built.fleet.drain("a")
        assert not built.fleet.drain("nobody")
        assert not built.fleet.resume("nobody")
        await built.become(BackendSettings("a", other.url))
        assert built.states() == {"a": "draining"}
        assert built.fleet.resume("a")
        assert built.states() == {"a": "ready"}


async def test_another_pace_holds_for_all() -> None:
    """Who was looked at seldom is looked at often from then on."""
    async with start_engine(OPTIONS) as engine, house() as built:
        built.interval_s = 1000.0
        await built.become(BackendSettings("a", engine.url))
        built.interval_s = 0.01
        await built.become(BackendSettings("a", engine.url))
        async with asyncio.timeout(5):
            while built.read("a") < 5:  # noqa: ASYNC110  # paced by the clock
                await asyncio.sleep(0.01)
