"""A worker as its owner sees it: what it holds, what it may be sent to, and what becomes of all that when it dies."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from estimator.demand import End, Shape
from estimator.output_length import ENDLESS
from gateway.admission.commands import Admit
from gateway.admission.events import BackendAdded, BackendRead, BackendRemoved
from gateway.backends.backend import Backend
from gateway.backends.settings import BackendSettings
from gateway.domain import BackendSpec, Outcome, Usage
from gateway.workers.messages import Begun, Built, Ended, Follow, Lag, Learn, LearnCut, Opened, Unfollow
from tests.shell import MODEL, add_backend, reading, ticket
from tests.workers.pair import RECORD, Carrier, Owner, Side

SHAPE = Shape(text_bytes=10)


async def test_what_a_dead_worker_held_is_given_back() -> None:
    """Its places drain, as its engines may go on; its waiting requests, of which each would get the place of another,
    leave; and the next worker's are served."""
    owner = Owner()
    side, other = Side(owner), Side(owner)
    runs = side.ask(20)
    side.deliver()
    queued = [side.ask() for _ in range(3)]
    side.deliver()
    waits = other.ask(20)
    other.deliver()
    side.say(Follow(runs.id, MODEL, SHAPE, runs_to_max=False))
    side.die()
    assert len(queued) == 3
    assert owner.pricing._following == {}
    assert list(owner.gate._waiting) == []
    other.deliver()
    assert isinstance(other.answers[waits.id], Admit)
    assert owner.gate.snapshot().backends[0].draining_tokens > 0
    other.leave(waits)
    other.deliver()
    owner.clock.advance(30.0)
    for _ in range(3):
        owner.gate.hear(BackendRead(reading("a", owner.gate.now())))
        owner.clock.advance(1.0)
    owner.assert_empty()


async def test_the_owner_ends_what_runs() -> None:
    """The worker is told, and cancels each of its own."""
    owner = Owner()
    side = Side(owner)
    asked = side.ask()
    side.deliver()
    owner.gate.cut()
    side.deliver()
    carrier = side.places[asked.id].task
    assert isinstance(carrier, Carrier)
    assert carrier.is_cancelled


async def test_a_worker_is_not_sent_to_a_backend_that_it_does_not_know() -> None:
    """A reload brought it while a request waited, and admission chose it: the request waits for one that it knows."""
    owner = Owner()
    side = Side(owner)
    runs = side.ask()
    side.deliver()
    queued, gone = side.ask(), side.ask()
    side.deliver()
    owner.backends["new"] = Backend(BackendSettings("new", "http://new:8000"))
    add_backend(owner.gate, "new")
    side.gate.withdraw(gone.id)
    await _settled(side)
    assert list(side.answers) == [runs.id]
    assert [backend.requests for backend in owner.gate.snapshot().backends] == [1, 0]
    side.leave(runs)
    await _settled(side)
    assert side.places[queued.id].backend == "a"
    side.leave(queued)
    await _settled(side)
    owner.assert_empty()


async def test_a_backend_that_was_moved_is_another() -> None:
    """Its name is the same. One that was only set anew is still found."""
    owner = Owner()
    side = Side(owner)
    owner.backends["a"] = Backend(BackendSettings("a", "http://a:8000", api_key="new"))
    asked = side.ask()
    side.deliver()
    assert isinstance(side.answers[asked.id], Admit)
    side.leave(asked)
    side.deliver()
    owner.backends["a"] = Backend(BackendSettings("a", "http://elsewhere:8000"))
    owner.gate.hear(BackendAdded(BackendSpec("a")))
    owner.gate.hear(BackendRead(reading("a", owner.gate.now(), generation="2")))
    moved = side.ask()
    await _settled(side)
    assert side.refusal(moved).refusal.retry_after_s is not None
    owner.gate.hear(BackendRemoved("a"))
    assert owner.gate._places == {}


async def _settled(side: Side) -> None:
    for _ in range(4):
        side.deliver()
        await asyncio.sleep(0)


async def test_how_long_answers_get_is_the_owners_knowledge() -> None:
    """The worker's ticket does not say; at the gate it does, but for who was told not to end before its bound."""
    owner = Owner()
    side = Side(owner)
    forecast = owner.pricing.of(MODEL).demand.output_lengths.forecast()
    asked = ticket(side.gate)
    assert side.guest._ours(asked).demand.output is forecast
    assert side.guest._ours(replace(asked, runs_to_max=True)).demand.output is ENDLESS


async def test_what_it_learns_is_learned_once() -> None:
    """Each answer counts, whichever worker carried it; one that was not followed does not."""
    owner = Owner()
    side = Side(owner)
    one, cut = side.ask(10), side.ask(10)
    side.deliver()
    for asked in (one, cut):
        side.say(Follow(asked.id, MODEL, SHAPE, runs_to_max=False))
    side.leave(one)
    side.say(Learn(one.id, Usage(10, 20), End.STOP, 20))
    side.say(Unfollow(one.id))
    side.say(LearnCut(cut.id, 5))
    side.leave(cut, Outcome.CANCELLED)
    side.say(Unfollow(cut.id))
    for stray in (Follow(99, MODEL, SHAPE, runs_to_max=False), Learn(99, Usage(1, 1), End.STOP, 1), LearnCut(99, 1)):
        side.say(stray)
    side.say(Unfollow(99))
    side.deliver()
    (shown,) = owner.pricing.snapshot()
    assert (shown.learnt, shown.compared, owner.pricing._following) == (2, 2, {})


async def test_records_and_signs_of_life() -> None:
    """Records go where those of one process would; who is heard of is not silent."""
    owner = Owner()
    side = Side(owner)
    side.guest.silent_turns = 5
    quick = replace(RECORD, request_id="quick")
    for message in (Begun(RECORD), Ended(RECORD, is_new=False), Ended(quick, is_new=True), Lag(0.1), Built(), Opened()):
        side.say(message)
    side.deliver()
    assert (owner.begun, owner.ended) == ([RECORD.request_id, "quick"], [RECORD, quick])
    assert [type(other) for other in side.others] == [Built, Opened]
    assert side.guest.silent_turns == 0
