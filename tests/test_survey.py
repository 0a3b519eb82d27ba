"""That whoever asks for a model waits for the first looks, and not for more."""

from __future__ import annotations

import asyncio

import pytest

from gateway import survey
from gateway.admission.events import BackendAdded, BackendMissed, BackendRead, BackendRemoved
from gateway.domain import BackendSpec
from gateway.survey import Survey
from tests.admission.words import reading


def added(*names: str) -> Survey:
    """Before any look at these."""
    survey_ = Survey()
    for name in names:
        survey_.note(BackendAdded(BackendSpec(name)))
    return survey_


async def test_every_backend_is_waited_for() -> None:
    """Whatever its look brings; one that is removed meanwhile as well."""
    survey_ = added("a", "b", "c")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(survey_.end())
        for event in (BackendRead(reading(1.0, backend="a")), BackendMissed("b", reachable=False), BackendRemoved("c")):
            await asyncio.sleep(0)
            assert (waiting.done(), survey_.is_over) == (False, False)
            survey_.note(event)
    assert survey_.is_over


async def test_later_ones_are_not() -> None:
    """A reload brings them; what the others serve is known."""
    survey_ = added("a")
    survey_.note(BackendMissed("a", reachable=False))
    survey_.note(BackendAdded(BackendSpec("b")))
    async with asyncio.timeout(1):
        await survey_.end()


async def test_without_backends_there_is_nothing_to_wait_for() -> None:
    """At once."""
    async with asyncio.timeout(1):
        await Survey().end()


async def test_it_is_not_waited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a look takes."""
    monkeypatch.setattr(survey, "SURVEY_MAX_S", 0.01)
    await added("a").end()
