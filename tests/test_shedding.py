"""When the process itself turns requests away: only when it is in earnest, and not back and forth."""

from __future__ import annotations

import pytest

from gateway.shedding import GATEWAY_OVERLOADED, RETRY_AFTER_S, RETRY_SPREAD_S, Shedding, ShedLimits, Strain

LIMITS = ShedLimits(lag_max_s=0.25, lag_calm_s=0.1, lag_samples=3, memory_max_ratio=0.9, memory_calm_ratio=0.85)


def strains(lags: list[float]) -> list[bool]:
    """Whether it sheds after each of these samples."""
    shedding = Shedding(LIMITS)
    shed = []
    for lag_s in lags:
        shedding.on_lag(lag_s)
        shed.append(shedding.strain is Strain.LAG)
    return shed


@pytest.mark.parametrize(
    ("lags", "shed"),
    [
        ([5.0, 0.0, 5.0, 5.0, 0.0, 5.0], [False] * 6),
        ([0.24] * 5, [False] * 5),
        ([0.3] * 4, [False, False, True, True]),
        ([0.3, 0.3, 0.3, 0.0, 0.2, 0.0, 0.0, 0.0], [False, False, True, True, True, True, True, False]),
        ([0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2], [False, False, True, True, True, True, True]),
    ],
    ids=["single pauses", "just below", "late again and again", "calm again", "neither late nor calm"],
)
def test_a_late_event_loop(lags: list[float], shed: list[bool]) -> None:
    """Several samples in a row must say so, and as many that it is over."""
    assert strains(lags) == shed


def test_a_machine_that_stalls_once_sheds_nothing() -> None:
    """By default: ten seconds of a stopped process are one sample."""
    shedding = Shedding()
    for lag_s in (10.0, 0.0, 0.3, 0.3, 0.3, 0.3, 0.05):
        shedding.on_lag(lag_s)
    assert shedding.strain is None


def test_memory_that_runs_out() -> None:
    """At once, and until clearly less is used."""
    shedding = Shedding(LIMITS)
    seen = []
    for ratio in (0.89, 0.91, 0.86, 0.84, 0.89):
        shedding.on_memory(ratio)
        seen.append(shedding.strain)
    assert seen == [None, Strain.MEMORY, Strain.MEMORY, None, None]


def test_what_is_answered() -> None:
    """A 503 that says when to come back, to each another moment; nothing while there is no strain."""
    shedding = Shedding(LIMITS)
    assert shedding.refusal() is None
    shedding.on_memory(0.95)
    refusals = [shedding.refusal() for _ in range(8)]
    waits = [error.retry_after_s for error in refusals if error is not None and error.retry_after_s is not None]
    assert {(error.status, error.code, error.should_retry) for error in refusals if error is not None} == {
        (503, GATEWAY_OVERLOADED, True)
    }
    assert len(set(waits)) == 8
    assert min(waits) >= RETRY_AFTER_S
    assert max(waits) <= RETRY_AFTER_S + RETRY_SPREAD_S


def test_another_process_that_cannot_take_more() -> None:
    """Whoever depends on it turns requests away, for as long as it is so."""
    shedding = Shedding(LIMITS)
    shedding.is_told = True
    assert shedding.strain is Strain.LAG
    shedding.is_told = False
    assert shedding.refusal() is None
