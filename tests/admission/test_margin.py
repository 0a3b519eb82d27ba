"""What is held back after preemptions, and how a level moves."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from gateway.admission.margin import DECAY_SHARE_PER_S, MOST_SHARE, STEP_SHARE, WINDOW_S, Margin, Trend


def preempting(margin: Margin, count: int, now: float, *, dispatches: int = 0) -> float:
    """So many of so many requests, told as one look; the margin after it."""
    for _ in range(dispatches):
        margin.dispatched()
    margin.preempted(count, now)
    return margin.share(now)


def started() -> Margin:
    """One whose first window began at 0."""
    margin = Margin()
    margin.preempted(0, 0.0)
    return margin


def test_a_few_preemptions_are_what_the_risk_allows() -> None:
    """One, or one in a hundred requests: nothing is held back."""
    assert preempting(started(), 1, WINDOW_S) == 0.0
    assert preempting(started(), 5, WINDOW_S, dispatches=500) == 0.0


def test_more_raise_the_margin_once_per_window() -> None:
    """However the looks fall into it."""
    margin = started()
    assert preempting(margin, 3, WINDOW_S / 2) == 0.0
    assert preempting(margin, 3, WINDOW_S, dispatches=500) == STEP_SHARE
    assert preempting(margin, 100, WINDOW_S + 1) == pytest.approx(STEP_SHARE, abs=1e-4)
    assert preempting(margin, 0, 2 * WINDOW_S) == pytest.approx(2 * STEP_SHARE, abs=2e-3)


def test_it_has_a_bound_and_fades() -> None:
    """A tenth of the pool at most; a hundredth less every ten minutes; nothing in the end."""
    margin = started()
    for window in range(1, 20):
        preempting(margin, 1000, window * WINDOW_S)
    now = 19 * WINDOW_S
    assert margin.share(now) == MOST_SHARE
    assert margin.share(now + 600) == pytest.approx(MOST_SHARE - 0.01)
    assert margin.share(now + 2 * MOST_SHARE / DECAY_SHARE_PER_S) == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 200), st.floats(0, 300)), max_size=40))
def test_it_stays_within_its_bounds(looks: list[tuple[int, int, float]]) -> None:
    """And never rises but at a look that closes a window."""
    margin, now = Margin(), 0.0
    for count, dispatches, seconds in looks:
        before = margin.share(now)
        now += seconds
        assert margin.share(now) <= before
        assert 0 <= preempting(margin, count, now, dispatches=dispatches) <= MOST_SHARE


def test_a_level_that_rises_says_when_there_is_no_room_left() -> None:
    """Ten a second for long, 500 left: 50 seconds."""
    trend = Trend()
    assert trend.until(100) == math.inf
    for second in range(600):
        trend.note(10.0 * second, float(second))
    assert trend.until(500) == pytest.approx(50, rel=0.05)
    assert trend.until(0) == trend.until(-5) == 0.0


def test_a_level_that_stands_or_falls_never_fills_up() -> None:
    """Infinity."""
    for slope in (0.0, -3.0):
        trend = Trend()
        for second in range(100):
            trend.note(1000 + slope * second, float(second))
        assert trend.until(500) == math.inf


def test_the_first_note_is_the_level_and_a_second_at_the_same_time_changes_nothing() -> None:
    trend = Trend()
    trend.note(100, 5.0)
    trend.note(900, 5.0)
    assert (trend.fast, trend.slow) == (100, 100)
