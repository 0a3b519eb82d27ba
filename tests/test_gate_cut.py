"""Ends that say more than others: a backend's failure, and the end of the gateway itself."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission.events import Arrived, Left
from gateway.domain import Outcome
from tests.shell import settle, ticket
from tests.test_gate import House, admit, scripted


async def test_a_failure_is_told_with_the_end() -> None:
    """In one event: nobody may be sent there in between."""
    gate, admission, _ = scripted()
    asked = ticket(gate)
    admission.commands[Arrived] = [admit(asked.id)]
    async with gate.enter(asked) as place:
        place.end(Outcome.BROKEN, failure=b"r")
    assert admission.events[1:] == [Left(asked.id, Outcome.BROKEN, None, b"r")]


async def test_a_cut_ends_whoever_is_inside() -> None:
    """They can see who wanted it, and leave like everybody else."""
    house = House()
    seen: list[bool] = []

    async def stay() -> None:
        async with house.gate.enter(ticket(house.gate)) as place:
            place.sent = True
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                seen.append(house.gate.is_cut)

    inside = asyncio.ensure_future(stay())  # noqa: TID251  # awaited below
    await settle()
    assert not house.gate.is_cut
    house.gate.cut()
    with pytest.raises(asyncio.CancelledError):
        await inside
    assert seen == [True]
    await house.gate.drained()
