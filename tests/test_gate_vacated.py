"""Waiting for a backend to be empty, and for places that were given to be taken."""

from __future__ import annotations

import asyncio

from gateway.admission.events import BackendDraining
from gateway.domain import Outcome
from tests.shell import add_backend, settle, ticket
from tests.test_gate import House, visit


async def test_a_backend_is_vacated_when_nobody_has_a_place_there() -> None:
    """Nor was told of one; places elsewhere and the queue do not count."""
    house = House()
    add_backend(house.gate, "b")
    async with asyncio.TaskGroup() as group, house.visitor() as first, house.visitor() as second:
        waiting = group.create_task(visit(house.gate, ticket(house.gate, blocks=60), asyncio.Event()))
        await settle()
        vacated = group.create_task(house.gate.vacated(first.backend))
        await settle()
        house.gate.hear(BackendDraining(first.backend))
        assert not vacated.done()
        first.end(Outcome.FINISHED)
        await settle()
        assert vacated.done()
        assert second.backend != first.backend
        waiting.cancel()


async def test_who_was_told_of_a_place_has_not_left_yet() -> None:
    """Until its task has run, a place that was given counts as taken."""
    house = House()
    async with asyncio.TaskGroup() as group, house.visitor() as first:
        stay = asyncio.Event()
        next_ = group.create_task(visit(house.gate, ticket(house.gate, blocks=60), stay))
        await settle()
        first.end(Outcome.FINISHED)
        handed_over, vacated = (group.create_task(wait) for wait in (house.gate.handed_over(), house.gate.vacated("a")))
        await settle()
        assert handed_over.done()
        assert not vacated.done()
        stay.set()
    assert next_.result() == "served"
