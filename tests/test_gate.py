from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given, strategies as st

from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.events import Arrived, BackendBusy, BackendMissed, Event, Left
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Outcome, Reason, Refusal, ServedModel, Ticket, Usage
from gateway.gate import Gate, Place, RefusedError
from tests.shell import HandClock, add_backend, settle, ticket


class Scripted:
    """An admission that does as it is told, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Event | None, float]] = []
        self.commands: dict[type[object], list[Command]] = {}
        self.due: float | None = None

    def handle(self, event: Event, now: float) -> list[Command]:
        self.heard.append((event, now))
        return self.commands.pop(type(event), [])

    def handle_timer(self, now: float) -> list[Command]:
        self.heard.append((None, now))
        return self.commands.pop(type(None), [])

    def next_timer(self) -> float | None:
        return self.due

    @property
    def events(self) -> list[Event | None]:
        return [event for event, _ in self.heard]


@dataclass
class Ear:
    """A listener."""

    steps: list[tuple[Event | None, tuple[Command, ...]]] = field(default_factory=list)
    decisions: int = 0

    def on_admission(self, now: float, event: Event | None, commands: Sequence[Command]) -> None:
        self.steps.append((event, tuple(commands)))

    def on_decision(self, duration_s: float) -> None:
        assert duration_s >= 0
        self.decisions += 1


class House:
    """A gate with one real backend of 64 blocks, and a clock."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.admission = Admission(AdmissionLimits())
        self.ear = Ear()
        self.gate = Gate(self.admission, self.clock.loop, [self.ear])
        add_backend(self.gate, "a")

    @asynccontextmanager
    async def visitor(self, blocks: int = 60) -> AsyncIterator[Place]:
        async with self.gate.enter(ticket(self.gate, blocks=blocks)) as place:
            yield place

    def assert_empty(self) -> None:
        """Everybody left, once, and no timer waits for nobody."""
        self.admission.check()
        snapshot = self.gate.snapshot()
        assert [backend.requests for backend in snapshot.backends] == [0]
        assert [backend.draining_tokens for backend in snapshot.backends] == [0]
        assert snapshot.queues == ()
        assert snapshot.double_releases == 0
        assert self.clock.timers == []


def scripted() -> tuple[Gate, Scripted, HandClock]:
    clock, admission = HandClock(), Scripted()
    return Gate(cast("Admission", admission), clock.loop), admission, clock


def admit(id_: int, backend: str = "a") -> Admit:
    return Admit(id_, backend, Reason.OK, kv_tokens=16)


def refuse(id_: int) -> Refuse:
    return Refuse(id_, Refusal(Reason.QUEUE_FULL, retry_after_s=1.0))


async def visit(gate: Gate, ticket_: Ticket, stay: asyncio.Event) -> str:
    """What became of a request, told to the gate by nothing but how its block is left."""
    try:
        async with gate.enter(ticket_) as place:
            await stay.wait()
            place.end(Outcome.FINISHED)
    except RefusedError as error:
        return error.refusal.reason.value
    return "served"


async def test_a_request_that_fits_enters_at_once() -> None:
    """Without a turn of the loop in between, and its place tells where to go."""
    house = House()
    async with house.visitor() as place:
        assert (place.backend, place.admit.reason, place.admit.waited_s) == ("a", Reason.OK, 0.0)
        assert house.gate.snapshot().backends[0].requests == 1
        place.end(Outcome.FINISHED)
    house.assert_empty()


async def test_a_request_that_does_not_fit_waits_for_one_that_leaves() -> None:
    """It enters in the same tick as the memory frees, and knows how long it waited."""
    house = House()
    async with asyncio.TaskGroup() as group:
        async with house.visitor() as first:
            stay = asyncio.Event()
            waiting = group.create_task(visit(house.gate, ticket(house.gate, blocks=40), stay))
            await settle()
            assert house.gate.snapshot().queues[0].depth == 1
            house.clock.advance(2.0)
            first.end(Outcome.FINISHED)
        await settle()
        second = house.ear.steps[-2][1] or house.ear.steps[-1][1]
        assert isinstance(second[0], Admit)
        assert (second[0].reason, second[0].waited_s) == (Reason.OK_AFTER_WAIT, 2.0)
        stay.set()
    assert waiting.result() == "served"
    house.assert_empty()


async def test_a_refusal_is_raised_on_entering() -> None:
    """With the numbers that the client may be told; nothing has to be left."""
    house = House()
    with pytest.raises(RefusedError) as caught:
        async with house.visitor(blocks=1000):
            pytest.fail("the block must not run")
    assert caught.value.refusal.reason is Reason.TOO_LARGE
    assert caught.value.refusal.capacity_tokens == 1024
    house.assert_empty()


async def test_patience_ends_by_the_gates_own_timer() -> None:
    """Nothing else happens: the one timer alone refuses it."""
    house = House()
    async with asyncio.TaskGroup() as group, house.visitor() as first:
        waiting = group.create_task(visit(house.gate, ticket(house.gate, patience_s=30.0), asyncio.Event()))
        await settle()
        house.clock.advance(29.9)
        await settle()
        assert not waiting.done()
        house.clock.advance(0.2)
        assert await waiting == "queue_timeout"
        first.end(Outcome.FINISHED)
    house.assert_empty()


@pytest.mark.parametrize("answer", ["none", "grant", "refusal"])
@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_request_cancelled_in_the_tick_of_its_answer_leaves_once(answer: str, cancelled_first: bool) -> None:
    """A grant goes back at once; a refusal has left nothing to give back."""
    house = House()
    async with asyncio.TaskGroup() as group, house.visitor() as first:
        task = group.create_task(visit(house.gate, ticket(house.gate, patience_s=30.0), asyncio.Event()))
        await settle()
        if cancelled_first:
            task.cancel()
        if answer == "grant":
            first.end(Outcome.FINISHED)
        elif answer == "refusal":
            house.clock.advance(31)
        if not cancelled_first:
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        first.end(Outcome.FINISHED)
    house.assert_empty()


@st.composite
def _plays(draw: st.DrawFn) -> list[tuple[str, int]]:
    moves = st.tuples(st.sampled_from(["come", "cancel", "finish", "tick", "wait", "free"]), st.integers(0, 7))
    return draw(st.lists(moves, max_size=40))


@given(_plays())
def test_any_order_of_arrivals_ends_and_cancellations_balances_the_books(moves: list[tuple[str, int]]) -> None:
    """Whatever is cancelled and when: each place is left once, and the gate is empty in the end."""
    asyncio.run(_play(moves))


async def _play(moves: list[tuple[str, int]]) -> None:
    house = House()
    visits: list[tuple[asyncio.Task[str], asyncio.Event]] = []
    async with asyncio.TaskGroup() as group:
        for move, number in moves:
            task, stay = visits[number % len(visits)] if visits else (None, asyncio.Event())
            match move:
                case "come":
                    stay = asyncio.Event()
                    asked = ticket(house.gate, blocks=8 * (number + 1), patience_s=10.0 * number)
                    visits.append((group.create_task(visit(house.gate, asked, stay)), stay))
                case "cancel" if task is not None:
                    task.cancel()
                case "finish":
                    stay.set()
                case "tick":
                    await asyncio.sleep(0)
                case "wait":
                    house.clock.advance(5.0 * number)
                case _:
                    house.gate.snapshot()
            house.admission.check()
        for _, stay in visits:
            stay.set()
        house.clock.advance(100.0)
        await asyncio.gather(*(task for task, _ in visits), return_exceptions=True)
    house.assert_empty()


async def test_a_request_cancelled_before_its_task_ran_never_arrives() -> None:
    """There is nothing to leave."""
    house = House()
    async with asyncio.TaskGroup() as group:
        group.create_task(visit(house.gate, ticket(house.gate), asyncio.Event())).cancel()
    house.assert_empty()
    assert not any(isinstance(event, Arrived | Left) for event, _ in house.ear.steps)


@pytest.mark.parametrize(("sent", "outcome"), [(True, Outcome.CANCELLED), (False, Outcome.NOT_SENT)])
async def test_a_block_left_by_an_exception_ends_its_place(sent: bool, outcome: Outcome) -> None:
    """As cancelled: the engine may still be at work. As not sent, if it was never asked."""
    gate, admission, _ = scripted()
    asked = ticket(gate)
    admission.commands[Arrived] = [admit(asked.id)]
    with contextlib.suppress(ZeroDivisionError):
        async with gate.enter(asked) as place:
            place.sent = sent
            raise ZeroDivisionError
    assert admission.events[1:] == [Left(asked.id, outcome)]


async def test_only_the_first_end_of_a_place_counts() -> None:
    """And leaving the block after it tells nothing more."""
    gate, admission, _ = scripted()
    asked = ticket(gate)
    admission.commands[Arrived] = [admit(asked.id)]
    async with gate.enter(asked) as place:
        place.end(Outcome.FINISHED, Usage(16, 7))
        place.end(Outcome.BROKEN)
    assert admission.events[1:] == [Left(asked.id, Outcome.FINISHED, Usage(16, 7))]


async def test_there_is_one_timer_and_it_follows_admission() -> None:
    """Armed for the time asked for, kept while that stays, moved and taken away with it."""
    gate, admission, clock = scripted()
    admission.due = 1_005.0
    gate.busy("a", 2.0)
    (armed,) = clock.timers
    assert armed.when == 1_005.0
    gate.unreachable("a")
    assert clock.timers == [armed]
    admission.due = 1_003.0
    gate.unreachable("a")
    assert [timer.when for timer in clock.timers] == [1_003.0]
    admission.due = None
    clock.advance(3.0)
    assert admission.heard[-1] == (None, 1_003.0)
    assert clock.timers == []
    assert admission.events[:2] == [BackendBusy("a", 1_002.0), BackendMissed("a", reachable=False)]


async def test_drained_wakes_when_the_last_one_has_left() -> None:
    """Also for a second waiter, and after a first one gave up waiting."""
    house = House()
    async with asyncio.TaskGroup() as group:
        async with house.visitor() as place:
            impatient = group.create_task(house.gate.drained())
            patient = group.create_task(house.gate.drained())
            await settle()
            impatient.cancel()
            await settle()
            later = group.create_task(house.gate.drained())
            await settle()
            assert not patient.done()
            assert not later.done()
            place.end(Outcome.FINISHED)
        await settle()
        assert patient.done()
        assert later.done()
    await house.gate.drained()


async def test_a_drain_turns_away_who_waits_and_who_comes() -> None:
    """Who is inside may stay."""
    house = House()
    async with asyncio.TaskGroup() as group, house.visitor() as first:
        waiting = group.create_task(visit(house.gate, ticket(house.gate), asyncio.Event()))
        await settle()
        house.gate.start_drain()
        assert await waiting == "shutdown"
        assert await visit(house.gate, ticket(house.gate, blocks=1), asyncio.Event()) == "shutdown"
        assert house.gate.snapshot().backends[0].requests == 1
        first.end(Outcome.FINISHED)
    house.assert_empty()


async def test_listeners_hear_every_step() -> None:
    """Each event with its commands, and the time of each decision."""
    house = House()
    house.ear.steps.clear()
    before = house.ear.decisions
    async with house.visitor() as place:
        place.end(Outcome.FINISHED)
    house.gate.snapshot()
    events = [event for event, _ in house.ear.steps]
    assert [type(event) for event in events] == [Arrived, Left, type(None)]
    assert house.ear.steps[0][1] == (place.admit,)
    assert house.ear.decisions - before == 3


async def test_a_listener_that_fails_leaves_no_place_behind() -> None:
    """A bug in counting must not cost memory: the request fails, and its grant goes back."""

    class Broken(Ear):
        def on_decision(self, duration_s: float) -> None:
            raise ZeroDivisionError

    clock, admission = HandClock(), Scripted()
    gate = Gate(cast("Admission", admission), clock.loop, [Broken()])
    asked = ticket(gate)
    admission.commands[Arrived] = [admit(asked.id)]
    with pytest.raises(ZeroDivisionError):
        async with gate.enter(asked):
            pytest.fail("the block must not run")
    assert admission.events == [Arrived(asked), Left(asked.id, Outcome.NOT_SENT)]
    admission.commands[Arrived] = [refuse(asked.id)]
    with pytest.raises(ZeroDivisionError):
        await gate.admit(asked)
    assert len(admission.events) == 3


async def test_models_and_contexts_are_admissions() -> None:
    """The gate only passes them on."""
    house = House()
    assert house.gate.models() == {"m": ServedModel(1, 1024)}
    assert house.gate.served("m") == ServedModel(1, 1024)
    assert house.gate.served("other") is None


async def test_a_question_is_answered_after_who_can_go_has_gone() -> None:
    """As for any call of admission, time passes first; the one who asks neither waits nor stays."""
    house = House()
    asked = ticket(house.gate, blocks=60)
    assert (await house.gate.consider(asked)).decision == "admit"
    async with house.gate.enter(ticket(house.gate, blocks=60)) as place:
        assert (await house.gate.consider(asked)).decision == "queue"
        place.end(Outcome.FINISHED)
    assert (await house.gate.consider(asked)).backend == "a"
    assert [backend.requests for backend in house.gate.snapshot().backends] == [0]
    assert house.gate.snapshot().queues == ()
