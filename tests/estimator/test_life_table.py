"""A table of who lived through which bin, and who ended where."""

import math
import random

import pytest
from hypothesis import given, settings, strategies as st

from estimator.life_table import LifeCounts, LifeTable

NOTHING = (0.0, 0.0, 0.0)


def test_hazards_are_the_share_that_ends_of_those_that_reach_a_bin() -> None:
    """Four reach the first bin; one ends there, one in the second, one leaves the table alive, one is not seen on."""
    table = LifeTable(3, half_life=math.inf)
    table.ended_in(0)
    table.passed(0, 1)
    table.ended_in(1)
    table.passed(0, 3)
    table.passed(0, 1)
    assert table.hazards(NOTHING, 0.0) == (0.25, 0.5, 0.0)
    assert table.size == 4
    assert table.counts() == LifeCounts((4.0, 2.0, 1.0), (1.0, 1.0, 0.0))


def test_a_parent_counts_as_so_many_observations() -> None:
    """Ten without an end against ten of the parent's with half ending; where nobody was, the parent decides."""
    table = LifeTable(2, half_life=math.inf)
    table.passed(0, 1, 10.0)
    assert table.hazards((0.5, 0.4), 10.0) == (0.25, 0.4)


def test_what_is_old_counts_less() -> None:
    """After one half-life, one that ended now weighs twice one that ended then."""
    table = LifeTable(2, half_life=8)
    table.ended_in(0)
    for _ in range(8):
        table.fade()
    table.ended_in(1)
    table.passed(0, 1)
    assert table.hazards((0.0, 0.0), 0.0)[0] == pytest.approx(1 / 3)
    assert table.size == pytest.approx(1.5)
    assert table.counts().reached[1] == pytest.approx(1)


def test_counts_stay_finite() -> None:
    """Weights that have grown too large are scaled back; nothing else moves."""
    table = LifeTable(2, half_life=1)
    for k in range(2000):
        table.ended_in(k % 2)
        table.passed(0, k % 2)
        table.fade()
    # The newest one half a half-life old: 1/2 + 1/4 + ... of all, thirds and two thirds of it by turns.
    assert table.size == pytest.approx(1)
    assert table.hazards((0.0, 0.0), 0.0) == pytest.approx((1 / 3, 1.0))


def test_bins_counted_too_much_are_taken_back() -> None:
    """But never more than is left beside those that ended there."""
    table = LifeTable(3, half_life=math.inf)
    table.passed(0, 3)
    table.passed(3, 1)
    assert table.counts().reached == (1.0, 0.0, 0.0)
    table.ended_in(2)
    table.passed(3, 0)
    table.passed(3, 0)
    assert table.counts() == LifeCounts((0.0, 0.0, 1.0), (0.0, 0.0, 1.0))


STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4), st.booleans(), st.floats(0, 1)), max_size=60
)


@given(STEPS)
@settings(deadline=None)
def test_what_is_saved_comes_back(steps: list[tuple[int, int, int, bool, float]]) -> None:
    """Whatever was counted: hazards are chances, and a table restored from its counts has the same ones."""
    table = LifeTable(5, half_life=3)
    for first, last, k, fades, count in steps:
        table.passed(first, last, count)
        table.ended_in(k, count)
        if fades:
            table.fade()
    parent = (0.1, 0.2, 0.3, 0.4, 0.5)
    hazards = table.hazards(parent, 2.0)
    assert all(0 <= hazard <= 1 for hazard in hazards)
    again = LifeTable(5, half_life=3)
    again.restore(table.counts())
    assert again.hazards(parent, 2.0) == pytest.approx(hazards)


def test_a_restored_table_can_be_made_lighter() -> None:
    """Its shares stay, its weight does not."""
    rng = random.Random(1)
    heavy, light = LifeTable(3, half_life=math.inf), LifeTable(3, half_life=math.inf)
    for _ in range(3000):
        k = rng.choice((0, 1, 1, 2))
        heavy.passed(0, k)
        heavy.ended_in(k)
    light.restore(heavy.counts(), size_max=500)
    assert light.size == pytest.approx(500)
    assert light.hazards(NOTHING, 0.0) == pytest.approx(heavy.hazards(NOTHING, 0.0))


@pytest.mark.parametrize(
    "counts",
    [
        LifeCounts((1.0,), (0.0,)),
        LifeCounts((1.0, 1.0), (0.0,)),
        LifeCounts((1.0, -1.0), (0.0, -2.0)),
        LifeCounts((1.0, math.inf), (0.0, 0.0)),
        LifeCounts((1.0, math.nan), (0.0, 0.0)),
        LifeCounts((1.0, 0.0), (0.0, 1.0)),
    ],
    ids=["bins", "sides", "negative", "infinite", "nan", "more end than come"],
)
def test_what_cannot_be_is_refused(counts: LifeCounts) -> None:
    """And the table keeps what it had."""
    table = LifeTable(2, half_life=8)
    table.ended_in(0)
    with pytest.raises(ValueError, match=r"other bins|cannot be"):
        table.restore(counts)
    assert table.size == 1


class BinByBin:
    """The same table, counted the plain way."""

    def __init__(self, bins: int, half_life: float) -> None:
        self.reached, self.ended = [0.0] * bins, [0.0] * bins
        self.keep = 0.5 ** (1 / half_life)

    def passed(self, first: int, last: int, count: float) -> None:
        for k in range(first, last):
            self.reached[k] += count
        for k in range(last, first):
            self.reached[k] = max(self.ended[k], self.reached[k] - count)

    def ended_in(self, k: int, count: float, since: int) -> None:
        self.passed(since, k + 1, count)
        self.ended[k] += count

    def fade(self) -> None:
        self.reached = [count * self.keep for count in self.reached]
        self.ended = [count * self.keep for count in self.ended]


@given(STEPS)
@settings(deadline=None)
def test_sums_are_those_of_counting_bin_by_bin(steps: list[tuple[int, int, int, bool, float]]) -> None:
    """Whatever passes, is taken back, ends in one bin or across several; and never do more end than come."""
    table, plain = LifeTable(5, half_life=3), BinByBin(5, half_life=3)
    for first, last, k, fades, count in steps:
        table.passed(first, last, count)
        plain.passed(first, last, count)
        since = min(first, k)
        table.ended_in(k, count, since)
        plain.ended_in(k, count, since)
        shares = [count / 4] * (4 - k)
        table.ended_across(k, shares)
        for i, share in enumerate([*shares, 1 - sum(shares)], k):
            plain.ended_in(i, share, 0)
        if fades:
            table.fade()
            plain.fade()
    counts = table.counts()
    assert counts.reached == pytest.approx(plain.reached)
    assert counts.ended == pytest.approx(plain.ended)
    assert table.size == pytest.approx(plain.reached[0])
    assert all(ended <= reached for reached, ended in zip(counts.reached, counts.ended, strict=True))
    assert all(0 <= hazard <= 1 for hazard in table.hazards((0.0,) * 5, 0.0))
