"""What is known of a backend apart from memory."""

import pytest

from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendState
from gateway.admission.standing import SPEED_UNKNOWN_TOKENS_PER_S, Speed, Standing
from gateway.domain import BackendSpec
from tests.admission.words import reading


def test_states() -> None:
    """COLD, READY, BUSY, DOWN."""
    standing = Standing.unknown(BackendSpec("a"), AdmissionLimits())
    assert standing.state(0.0) is BackendState.COLD
    assert not standing.serves("m")
    assert standing.answered(reading(0.0), 0.0)
    assert standing.state(0.0) is BackendState.READY
    assert standing.serves("m")
    standing.asked_for_pause(5.0)
    assert (standing.state(4.9), standing.state(5.0)) == (BackendState.BUSY, BackendState.READY)
    standing.missed(reachable=True)
    for _ in range(3):
        standing.missed(reachable=False)
    assert standing.state(0.0) is BackendState.DOWN


def test_only_newer_readings_count_and_none_is_from_the_future() -> None:
    """An answer that claims to be asked for later than now is as old as now."""
    standing = Standing.unknown(BackendSpec("a"), AdmissionLimits())
    assert standing.answered(reading(9.0), 2.0)
    assert standing.read_at == 2.0
    assert not standing.answered(reading(1.0), 3.0)


def test_speed_is_all_tokens_over_all_seconds() -> None:
    """A short answer after a long wait must not look like a slow engine."""
    speed = Speed()
    assert speed.known_or_slow == SPEED_UNKNOWN_TOKENS_PER_S
    speed.learn(0, 1.0)
    speed.learn(5, 0.0)
    assert speed.tokens_per_s is None
    for _ in range(50):
        speed.learn(1000, 10.0)
    assert speed.known_or_slow == pytest.approx(100.0)
    speed.learn(1, 1.0)
    assert speed.known_or_slow > 98
    for _ in range(100):
        speed.learn(500, 10.0)
    assert speed.known_or_slow == pytest.approx(50.0, rel=0.01)


def test_failures_eject_it_and_a_probe_is_all_that_is_sent_then() -> None:
    """EJECTED, then BUSY while a probe is there; what looks say rules over that."""
    standing = Standing.unknown(BackendSpec("a"), AdmissionLimits())
    standing.answered(reading(0.0), 0.0)
    for request in "xyz":
        standing.breaker.failed(1, request, 0.0)
    assert standing.state(0.0) is BackendState.EJECTED
    assert standing.pause_until() == standing.breaker.opened_until
    standing.breaker.tick(standing.breaker.opened_until)
    assert standing.state(1.0) is BackendState.READY
    standing.breaker.sent(2, 1.0)
    assert standing.state(1.0) is BackendState.BUSY
    standing.draining = True
    assert standing.state(1.0) is BackendState.DRAINING
    standing.draining = False
    standing.asked_for_pause(99.0)
    standing.breaker.succeeded(2, 2.0)
    assert (standing.state(98.0), standing.pause_until()) == (BackendState.BUSY, 99.0)


def test_another_process_is_tried_at_once() -> None:
    """The same one is not, whatever it says."""
    standing = Standing.unknown(BackendSpec("a"), AdmissionLimits())
    standing.answered(reading(0.0), 0.0)
    for request in "xyz":
        standing.breaker.failed(1, request, 0.0)
    standing.answered(reading(0.1), 0.1)
    assert standing.state(0.1) is BackendState.EJECTED
    standing.answered(reading(0.2, generation="2"), 0.2)
    assert standing.state(0.2) is BackendState.READY
