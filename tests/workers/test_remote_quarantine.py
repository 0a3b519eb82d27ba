"""Poison is poison for all workers: an engine dies of it twice, not twice per worker."""

from __future__ import annotations

from gateway.routing.quarantine import DEATHS, fingerprint
from gateway.workers.messages import Cleared, Died, ToOwner
from gateway.workers.remote_quarantine import RemoteQuarantine

BODY = b'{"model":"m"}'
NAME = fingerprint("/v1/completions", BODY)


def test_deaths_at_two_workers_add_up() -> None:
    told: list[ToOwner] = []
    first, second = RemoteQuarantine(told.append), RemoteQuarantine(lambda _: None)
    assert not first.died(NAME, BODY, 10.0)
    (died,) = told
    assert isinstance(died, Died)
    second.hear(died, 10.0)
    assert DEATHS == 2
    assert second.died(NAME, BODY, 20.0)
    assert second.held_s("/v1/completions", BODY, 21.0) > 0


def test_an_answer_clears_it_everywhere_and_is_told_once() -> None:
    told: list[ToOwner] = []
    first, second = RemoteQuarantine(lambda _: None), RemoteQuarantine(told.append)
    for suspects in (first, second):
        suspects.hear(Died(NAME, len(BODY)), 0.0)
    second.answered("/v1/completions", BODY)
    second.answered("/v1/completions", BODY)
    assert told == [Cleared(NAME)]
    first.hear(Cleared(NAME), 1.0)
    assert (len(first), len(second)) == (0, 0)
