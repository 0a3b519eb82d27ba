"""Buckets of a provider's minute."""

import pytest
from hypothesis import given, strategies as st

from gateway.admission.quota import Bucket


def test_no_limit_never_waits() -> None:
    """0 per minute means that none is known."""
    bucket = Bucket.full(0, 0.0)
    bucket.draw(1e9, 0.0)
    assert bucket.wait_s(1e9, 0.0) == 0.0
    assert bucket.level_share(0.0) == 1.0


def test_a_burst_of_a_minutes_worth_then_evenly() -> None:
    """60 a minute: one a second once they are used up."""
    bucket = Bucket.full(60, 0.0)
    bucket.draw(60, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait_s(1, 0.5) == pytest.approx(0.5)
    assert bucket.level_share(30.0) == pytest.approx(0.5)


def test_it_rises_no_higher_than_full() -> None:
    """Neither with time nor with what is given back."""
    bucket = Bucket.full(60, 0.0)
    bucket.draw(-30, 1000.0)
    assert bucket.level_share(1000.0) == 1.0


def test_more_than_it_holds_goes_when_it_is_full() -> None:
    """And leaves a debt."""
    bucket = Bucket.full(60, 0.0)
    assert bucket.wait_s(90, 0.0) == 0.0
    bucket.draw(90, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(31.0)


@given(st.integers(1, 10**5), st.floats(0, 10**6), st.floats(0, 10**6), st.floats(0, 10**5))
def test_after_the_wait_there_is_no_wait(per_minute: int, used: float, amount: float, now: float) -> None:
    """Rounding must not make a timer due again and again."""
    bucket = Bucket.full(per_minute, now)
    bucket.draw(used, now)
    wait_s = bucket.wait_s(amount, now)
    assert bucket.wait_s(amount, now + wait_s) == 0.0


def test_another_size_leaves_the_same_part() -> None:
    """Also of a bucket without any limit, which is full."""
    bucket = Bucket.full(60, 0.0)
    bucket.draw(45, 0.0)
    assert bucket.resized(100, 0.0).wait_s(25, 0.0) == 0.0
    assert bucket.resized(100, 0.0).wait_s(26, 0.0) > 0.0
    assert Bucket.full(0, 0.0).resized(10, 0.0).level_share(0.0) == 1.0
