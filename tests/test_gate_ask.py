"""A place that is asked for without waiting: for requests whose tasks are in another process."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.events import Arrived, DrainStarted, Left
from gateway.domain import Outcome
from tests.shell import settle, ticket
from tests.test_gate import House, admit, refuse, scripted


class Cancelled:
    """Who carries a request elsewhere."""

    count = 0

    def cancel(self) -> object:
        self.count += 1
        return None


async def test_an_answer_at_once_and_one_that_comes_later() -> None:
    """Who asks is called exactly once, whenever that is; then the place is opened and left as any other."""
    house = House()
    first, second = ticket(house.gate, blocks=60), ticket(house.gate, blocks=60)
    answers: list[Command] = []
    house.gate.ask(first, answers.append)
    house.gate.ask(second, answers.append)
    assert [answer.ticket_id for answer in answers] == [first.id]
    assert isinstance(answers[0], Admit)
    place = house.gate.occupy(answers[0], Cancelled())
    place.end(Outcome.FINISHED)
    assert [answer.ticket_id for answer in answers] == [first.id, second.id]
    assert isinstance(answers[1], Admit)
    house.gate.occupy(answers[1], Cancelled()).end(Outcome.FINISHED)
    house.assert_empty()


async def test_a_refusal_needs_no_end() -> None:
    house = House()
    house.gate.hear(DrainStarted())
    answers: list[Command] = []
    house.gate.ask(ticket(house.gate), answers.append)
    assert [type(answer) for answer in answers] == [Refuse]
    await house.gate.drained()
    house.assert_empty()


async def test_who_withdraws_is_not_called() -> None:
    """It has left the queue, and the gate is empty when nobody else is there."""
    house = House()
    full, waits = ticket(house.gate, blocks=60), ticket(house.gate, blocks=60)
    answers: list[Command] = []
    house.gate.ask(full, answers.append)
    house.gate.ask(waits, answers.append)
    house.gate.withdraw(waits.id)
    with pytest.raises(KeyError):
        house.gate.withdraw(waits.id)
    assert isinstance(answers[0], Admit)
    house.gate.occupy(answers[0], Cancelled()).end(Outcome.FINISHED)
    assert len(answers) == 1
    await house.gate.drained()
    house.assert_empty()


async def test_drained_waits_for_who_asks() -> None:
    gate, admission, _ = scripted()
    asked = ticket(gate)
    gate.ask(asked, lambda _: None)
    drained = asyncio.ensure_future(gate.drained())  # noqa: TID251  # awaited below
    await settle()
    assert not drained.done()
    gate.withdraw(asked.id)
    await drained
    assert admission.events == [Arrived(asked), Left(asked.id, Outcome.NOT_SENT)]


async def test_commands_may_come_long_after_their_events() -> None:
    """Whoever waits is told, in whichever way it waits; for who has left in between there is nothing."""
    gate, _, _ = scripted()
    waits, asks, gone = (ticket(gate) for _ in range(3))
    answers: list[Command] = []
    waiting = asyncio.ensure_future(gate.admit(waits))  # noqa: TID251  # awaited below
    await settle()
    gate.ask(asks, answers.append)
    gate.ask(gone, answers.append)
    gate.withdraw(gone.id)
    gate.told([refuse(gone.id), admit(waits.id), refuse(asks.id)])
    assert await waiting == admit(waits.id)
    assert answers == [refuse(asks.id)]


async def test_a_cut_reaches_who_carries_it_elsewhere() -> None:
    house = House()
    carrier = Cancelled()
    asked = ticket(house.gate)
    house.gate.ask(asked, lambda command: None if isinstance(command, Refuse) else _occupy(house, command, carrier))
    house.gate.cut()
    assert carrier.count == 1
    house.gate._places[asked.id].end(Outcome.CANCELLED)
    await house.gate.drained()


def _occupy(house: House, command: Admit, carrier: Cancelled) -> None:
    house.gate.occupy(command, carrier)
