"""The numbers of a refusal."""

import math

import pytest

from gateway.admission.events import BackendAdded
from gateway.admission.limits import AdmissionLimits
from gateway.admission.queue import Waiting
from gateway.admission.refusals import (
    JITTER_SHARE,
    PROMISED_MAX_S,
    RETRY_MIN_S,
    Needs,
    Promises,
    need_tokens,
    refusal,
    wait_s,
)
from gateway.admission.roster import Roster
from gateway.domain import BackendLimits, BackendSpec, Outcome, Reading, Reason
from tests.admission.words import BLOCK, MODEL, reading, ticket

RUNNING = ticket(1, 90, output=600)
NOBODY = (0, 0.0)
"""Ahead in line, and their work."""


def roster(**engines: int) -> Roster:
    """Engines that are up, with so many blocks."""
    made = Roster(AdmissionLimits())
    for name, blocks in engines.items():
        made.configure(BackendAdded(BackendSpec(name)), 0.0)
        made.engines[name].observe(reading(0.0, backend=name, blocks=blocks), 0.0)
    return made


def test_need_and_capacity_are_those_of_the_largest_backend() -> None:
    """Headroom too is the largest that any has."""
    backends = roster(a=100, b=200)
    backends.engines["b"].admit(ticket(1, 150), 0.0, backlog=1)
    answer = refusal(Waiting(ticket(2, 60), 1.0), Reason.QUEUE_FULL, backends, NOBODY, Promises(), 3.0)
    assert (answer.need_tokens, answer.capacity_tokens, answer.headroom_tokens) == (60 * BLOCK, 3200, 1600)
    assert answer.waited_s == 2.0
    assert need_tokens(ticket(2, 60), Roster(AdmissionLimits())) == 0


def test_the_wait_is_until_the_running_make_room() -> None:
    """600 tokens to come at 30 a second."""
    backends = roster(a=100)
    backends.engines["a"].admit(RUNNING, 0.0, backlog=1)
    assert wait_s(Waiting(ticket(2, 60), 0.0), backends, 0.0, 0.0) == pytest.approx(20.0, rel=0.05)
    assert wait_s(Waiting(ticket(2, 10), 0.0), backends, 0.0, 0.0) == 0.0


def test_who_stands_before_it_takes_time_too() -> None:
    """By the work of each, over the pool."""
    backends = roster(a=100)
    waiting = Waiting(ticket(9, 60), 0.0)
    waits = [wait_s(waiting, backends, Waiting(RUNNING, 0.0).work * count, 0.0) or 0.0 for count in range(4)]
    assert waits[0] == 0.0
    assert waits[3] == pytest.approx(3 * waits[1])
    assert waits[1] > 5.0


def test_a_backend_that_could_never_take_it_predicts_nothing() -> None:
    """A free small engine is no consolation for a large request."""
    backends = roster(a=20, b=100)
    backends.engines["b"].admit(RUNNING, 0.0, backlog=1)
    assert (wait_s(Waiting(ticket(2, 60), 0.0), backends, 0.0, 0.0) or 0.0) > 15.0


def test_the_first_of_several_to_have_room_counts() -> None:
    """A provider's minute as well."""
    backends = roster(a=100)
    backends.engines["a"].admit(RUNNING, 0.0, backlog=1)
    backends.configure(BackendAdded(BackendSpec("c", hosted=True, limits=BackendLimits(requests_per_minute=6))), 0.0)
    backends.hosted["c"].observe(Reading("c", 0.0, frozenset({MODEL})), 0.0)
    for number in range(6):
        backends.hosted["c"].admit(ticket(10 + number), 0.0)
    assert wait_s(Waiting(ticket(2, 60), 0.0), backends, 0.0, 0.0) == pytest.approx(10.0)


@pytest.mark.parametrize(("pause_s", "expected"), [(8.0, 8.0), (0.1, 1.0)])
def test_a_busy_backend_is_waited_for(pause_s: float, expected: float) -> None:
    """Not shorter than a second."""
    backends = roster(a=100)
    backends.engines["a"].standing.asked_for_pause(pause_s)
    assert wait_s(Waiting(ticket(2), 0.0), backends, 0.0, 0.0) == expected


def test_a_frozen_backend_is_waited_for_until_its_next_probe() -> None:
    """Nothing else can be said of it."""
    backends = Roster(AdmissionLimits())
    backends.configure(BackendAdded(BackendSpec("a")), 0.0)
    for now in (0.0, 9.0):
        backends.engines["a"].observe(reading(now, used=99, running=2), now)
    backends.engines["a"].probe_at = 12.5
    assert wait_s(Waiting(ticket(2), 11.0), backends, 0.0, 11.0) == 1.5
    assert wait_s(Waiting(ticket(2), 12.0), backends, 0.0, 12.0) == 1.0


def test_draining_memory_is_waited_for_as_long_as_a_drain_takes() -> None:
    """Nobody knows when the engine will show it free; at the latest then."""
    backends = roster(a=100)
    engine = backends.engines["a"]
    lease = engine.admit(RUNNING, 0.0, backlog=1)
    assert lease.pool.end(lease, Outcome.BROKEN, 0.0, generated=0)
    assert wait_s(Waiting(ticket(2, 60), 0.0), backends, 0.0, 0.0) == AdmissionLimits().drain_max_s


def test_sequences_are_waited_for() -> None:
    """Memory is free, places are not."""
    backends = Roster(AdmissionLimits())
    backends.configure(BackendAdded(BackendSpec("a")), 0.0)
    backends.engines["a"].observe(reading(0.0, sequences_max=2), 0.0)
    for number in (1, 2):
        backends.engines["a"].admit(ticket(number, 30, output=300), 0.0, backlog=1)
    assert (wait_s(Waiting(ticket(3, 20, output=300), 0.0), backends, 0.0, 0.0) or 0.0) == pytest.approx(5.0)


def test_those_turned_away_together_are_sent_to_different_moments() -> None:
    """Each after the work of those before it, not beyond what clients obey; after a while all is forgotten."""
    backends = roster(a=100)
    backends.engines["a"].admit(RUNNING, 0.0, backlog=1)
    promises = Promises()
    times = [
        refusal(
            Waiting(ticket(k, 60, output=300), 0.0), Reason.QUEUE_FULL, backends, NOBODY, promises, 0.0
        ).retry_after_s
        or 0.0
        for k in range(40)
    ]
    spread = [time / (1 + JITTER_SHARE) for time in times]
    assert spread[10] > times[0]
    assert max(times) < (20.0 + PROMISED_MAX_S) * (1 + JITTER_SHARE) * 1.05
    assert promises.make(MODEL, 1.0, 1000.0) == 0.0


def test_no_retry_is_advised_at_once() -> None:
    """Even where room seems to be there by now."""
    answer = refusal(Waiting(ticket(1), 0.0), Reason.QUEUE_TIMEOUT, roster(a=100), NOBODY, Promises(), 0.0)
    assert answer.retry_after_s is not None
    assert answer.retry_after_s >= RETRY_MIN_S


@pytest.mark.parametrize("output", [16, 300, 600])
def test_a_bound_of_the_wait_is_never_shorter(output: int) -> None:
    """Whatever it needs, and also while memory drains."""
    backends = roster(a=100, b=120)
    assert backends.waits_at_most(ticket(2, 500), 0.0, 0.0) == math.inf
    for name in ("a", "b"):
        backends.engines[name].admit(RUNNING, 0.0, backlog=1)
    for _ in range(2):
        for now in (0.0, 3.0):
            waiting = Waiting(ticket(2, 60, output=output), now)
            predicted = wait_s(waiting, backends, 1000.0, now)
            assert predicted is not None
            assert predicted <= backends.waits_at_most(waiting.ticket, 1000.0, now)
        backends.engines["a"].reconciliation.foreign_blocks = 30


def test_needs_are_reckoned_once() -> None:
    """Until the pool is another one; of those who are gone nothing is kept."""
    backends, needs = roster(a=100), Needs()
    waits, excluded = ticket(1, 10), ticket(2, 10, excluded=["a"])
    assert [needs.look(backends)(each) for each in (waits, excluded)] == [10 * BLOCK, 0]
    assert needs.look(backends)(waits) == need_tokens(waits, backends)
    assert list(needs.known) == [1]
    needs.look(backends)
    assert not needs.known
    assert Needs().look(Roster(AdmissionLimits()))(waits) == 0
