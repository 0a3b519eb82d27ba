"""Requests of several workers at one gate: whatever crosses on the wire, nothing is given away twice or kept."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, strategies as st

from gateway.admission.commands import Admit
from gateway.admission.events import DrainStarted
from gateway.domain import Outcome, Reason, ServedModel, Ticket
from gateway.workers.messages import Admitted, Leave, Progress
from gateway.workers.remote_admission import PROGRESS_EVERY_S
from tests.shell import ticket
from tests.workers.pair import Owner, Side


async def test_a_request_gets_its_place_from_the_owner() -> None:
    """Nothing is decided before the owner has heard of it, and it hears when the place is left."""
    owner = Owner()
    side = Side(owner)
    asked = side.ask()
    assert side.answers == {}
    side.deliver()
    answer = side.answers[asked.id]
    assert isinstance(answer, Admit)
    assert (answer.backend, answer.ticket_id, owner.live()) == ("a", asked.id, 1)
    side.leave(asked)
    side.deliver()
    owner.assert_empty()


async def test_workers_share_the_room() -> None:
    """What one of them holds is not there for the other, until it is left."""
    owner = Owner()
    first, second = Side(owner), Side(owner)
    one = first.ask()
    first.deliver()
    other = second.ask()
    second.deliver()
    assert (list(first.answers), list(second.answers)) == ([one.id], [])
    first.leave(one)
    first.deliver()
    second.deliver()
    assert isinstance(second.answers[other.id], Admit)
    second.leave(other)
    second.deliver()
    owner.assert_empty()


async def test_a_place_that_comes_too_late() -> None:
    """Who asked has gone while the answer was on its way: the place goes back, and the worker remembers nothing."""
    owner = Owner()
    side = Side(owner)
    asked = side.ask()
    side.deliver_up()
    assert owner.live() == 1
    side.gate.withdraw(asked.id)
    side.deliver()
    assert (side.answers, side.admission._running, side.admission._waiting) == ({}, set(), set())
    owner.assert_empty()


async def test_a_refusal_that_comes_too_late() -> None:
    """Likewise."""
    owner = Owner()
    owner.gate.hear(DrainStarted())
    side = Side(owner)
    asked = side.ask()
    side.deliver_up()
    side.gate.withdraw(asked.id)
    side.deliver()
    assert side.answers == {}
    owner.assert_empty()


async def test_progress_is_told_while_somebody_runs() -> None:
    """At most each tenth of a second, and by no timer when nobody is there."""
    owner = Owner()
    side = Side(owner)
    asked = side.ask()
    side.deliver()
    place = side.places[asked.id]
    place.output_tokens = 7
    owner.clock.advance(PROGRESS_EVERY_S)
    side.deliver()
    assert [place.output_tokens for place in owner.gate._places.values()] == [7]
    side.leave(asked)
    side.deliver()
    owner.clock.advance(2 * PROGRESS_EVERY_S)
    assert (side.admission.next_timer(), list(side.up)) == (None, [])


async def test_a_dry_run_is_the_owners() -> None:
    """Its answer goes to who asked first; who does not wait any more gets none, and the next one's is not his."""
    owner = Owner()
    side = Side(owner)
    small, large = ticket(side.gate, blocks=2), ticket(side.gate, blocks=500)
    async with asyncio.TaskGroup() as group:
        gone = group.create_task(side.gate.consider(small))
        waits = group.create_task(side.gate.consider(large))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        side.deliver()
    assert waits.result().decision == "never_fits"
    owner.assert_empty()


async def test_nobody_waits_for_an_owner_that_is_gone() -> None:
    """Who waits is turned away, who asks gets an answer, and so does who comes later."""
    side = Side(Owner())
    waits = side.ask()
    async with asyncio.TaskGroup() as group:
        asks = group.create_task(side.gate.consider(ticket(side.gate)))
        await asyncio.sleep(0)
        side.gate.told(side.admission.lost())
    late = side.ask()
    assert {side.refusal(one).refusal.reason for one in (waits, late)} == {Reason.SHUTDOWN}
    assert asks.result().reason is (await side.gate.consider(ticket(side.gate))).reason is Reason.SHUTDOWN


async def test_what_a_worker_has_not() -> None:
    """Books and what other gateways are told are the owner's, and so is the reading of engines."""
    side = Side(Owner())
    with pytest.raises(TypeError, match="books"):
        side.gate.snapshot()
    with pytest.raises(TypeError, match="ledger"):
        side.gate.holding("a")
    with pytest.raises(TypeError, match="DrainStarted"):
        side.gate.start_drain()


async def test_what_is_known_of_models() -> None:
    side = Side(Owner())
    assert (side.gate.models(), side.gate.is_known) == ({"m": ServedModel(1, 8192)}, True)
    assert (side.gate.served("m"), side.gate.served("other")) == (ServedModel(1, 8192), None)


async def test_backends_that_failed_are_told_of() -> None:
    """A backend that asked to be left alone, or that could not be reached, is so for all workers."""
    owner = Owner()
    side, other = Side(owner), Side(owner)
    side.gate.busy("a", 60.0)
    side.deliver()
    asked = other.ask()
    other.deliver()
    assert other.answers == {}
    side.gate.unreachable("a")
    side.deliver()
    other.gate.withdraw(asked.id)
    other.deliver()
    owner.assert_empty()


@given(st.randoms(use_true_random=False))
async def test_whatever_crosses_nothing_is_lost_or_given_twice(chance: random.Random) -> None:  # noqa: C901  # dice
    """Two workers, messages on their way for any time, clients that leave at any moment, and a worker that dies."""
    owner = Owner()
    sides = [Side(owner), Side(owner)]
    asked: list[tuple[Side, Ticket]] = []
    for _ in range(60):
        side = chance.choice(sides)
        match chance.randrange(7):
            case 0 | 1:
                asked.append((side, side.ask(chance.choice((10, 20, 60)))))
            case 2 if side.up:
                side.deliver_up()
            case 3 if side.down:
                side.deliver_down()
            case 4 if asked:
                _leave(*asked.pop(chance.randrange(len(asked))), chance)
            case 5:
                owner.clock.advance(chance.choice((0.05, 1.0)))
            case 6 if chance.random() < 0.1:
                side.die()
                sides[sides.index(side)] = Side(owner)
                asked = [(whose, ticket_) for whose, ticket_ in asked if whose is not side]
            case _:
                pass
        assert owner.gate.snapshot().backends[0].reserved_tokens <= 64 * 16
    for _ in range(3):
        for side in sides:
            side.deliver()
        for whose, ticket_ in asked:
            _leave(whose, ticket_, chance)
        asked = []
    assert all(not side.admission._running and not side.admission._waiting for side in sides)
    assert all((side.guest._waiting, side.guest._places) == ({}, {}) for side in sides)
    owner.admission.check()
    assert (owner.gate._waiting, owner.gate._places) == ({}, {})


def _leave(side: Side, ticket_: Ticket, chance: random.Random) -> None:
    if ticket_.id in side.places:
        side.leave(ticket_, chance.choice((Outcome.FINISHED, Outcome.NOT_SENT)))
    elif ticket_.id not in side.answers:
        side.gate.withdraw(ticket_.id)


async def test_words_are_the_workers_own_numbers() -> None:
    """Two workers count their tickets alike; neither hears of the other's."""
    owner = Owner()
    sides = [Side(owner), Side(owner)]
    tickets = [side.ask(20) for side in sides]
    assert tickets[0].id == tickets[1].id
    for side in sides:
        side.deliver()
        assert list(side.places) == [tickets[0].id]
    sides[0].say(Progress(((tickets[0].id, 3),)))
    sides[0].say(Leave(tickets[0].id + 1, Outcome.FINISHED, None, None))
    sides[0].deliver()
    assert [place.output_tokens for place in owner.gate._places.values()] == [3, 0]
    assert sides[1].admission.commands(Admitted(Admit(99, "a", Reason.OK, 16)), 0.0) == []
