"""Arithmetic of the outlook over arrays."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from estimator.demand import Demand
from estimator.kv_cache import KvGroup, KvLayout
from gateway.admission.curves import (
    FEW_SHARE,
    GRID,
    HARD_ENDS,
    UNSEEN_SHARE,
    UNSEEN_TOKENS,
    Floats,
    blocks_of,
    curves_of,
    deviations,
    distinct_prompts,
    generated_unseen,
    horizons_of,
    peak_of,
)
from gateway.admission.ledger import Lease, Pool
from tests.admission.words import BLOCK, NEVER_ENDING, capacity, ticket


def lease(*, streamed: bool = True, demand: Demand | None = None) -> Lease:
    """One that began at 0."""
    what = ticket(1, 10, output=100, streamed=streamed)
    return Lease(replace(what, demand=demand or what.demand), Pool(capacity(), "1"), 0.0, 100)


def test_a_stream_that_lags_is_taken_to_have_more_than_it_shows() -> None:
    """As far as most of the fastest one's pace, but for a few tokens; who shows more has shown it."""
    likely = int(UNSEEN_SHARE * 80) - UNSEEN_TOKENS
    assert generated_unseen(lease(), 10, 4.0, 20.0) == likely - 10
    assert generated_unseen(lease(), 200, 10.0, 20.0) == 0
    assert generated_unseen(lease(), 0, 0.0, 20.0) == generated_unseen(lease(), 0, 5.0, 0.0) == 0
    assert generated_unseen(lease(streamed=False), 10, 10.0, 20.0) == 0


def test_no_stream_is_taken_to_have_more_than_its_client_allows() -> None:
    """One that hangs somewhere else must not hide what somebody else holds in the engine."""
    assert generated_unseen(lease(), 2, 1_000.0, 20.0) == 100 - 2


def test_prompts_of_one_length_are_one_curve() -> None:
    """Each with all its sequences."""
    assert distinct_prompts(Demand(3, (50,), 50, 10, NEVER_ENDING)) == {50: 3}
    assert distinct_prompts(Demand(2, (50, 7, 50), 107, 0, NEVER_ENDING)) == {50: 4, 7: 2}


@given(st.lists(st.integers(1, 100_000), max_size=60))
def test_horizons_are_the_grid_and_some_ends(ends: list[int]) -> None:
    """Ascending, without repeats; first and last end are among them."""
    horizons = horizons_of(np.array(ends, dtype=np.float64))
    assert set(GRID) <= set(horizons)
    assert len(horizons) <= len(GRID) + HARD_ENDS
    assert (np.diff(horizons) > 0).all()
    assert {float(end) for end in (min(ends), max(ends))} <= set(horizons) if ends else True
    assert len(set(ends)) > HARD_ENDS or set(horizons) == {*map(float, ends), *GRID}


def sums(most: list[float], mean: list[float], variance: list[float]) -> Floats:
    """Of all curves."""
    return np.array([most, mean, variance])


def test_the_peak_is_the_worst_of_the_horizons_and_never_more_than_all_hold() -> None:
    """Mean plus deviations, cut at the sum of the hard ends; a variance below zero is a rounding error."""
    most, mean = [10.0, 30.0, 5.0], [10.0, 20.0, 1.0]
    assert peak_of(sums(most, mean, [0.0, 16.0, 0.0]), 2.0) == (28, 1)
    assert peak_of(sums(most, mean, [0.0, 400.0, 0.0]), 2.0) == (30, 1)
    assert peak_of(sums(most, mean, [-1e-9, -1e-9, 0.0]), 2.0) == (20, 1)
    assert peak_of(sums([0.0], [-1e-12], [0.0]), 2.0) == (0, 0)


def curves(most: list[float], chance: list[float], excess: int) -> Floats:
    """Of one request."""
    out = np.empty((3, len(most)))
    curves_of(np.array(most), np.array(chance), excess, out=out)
    return out


def test_a_curve_is_a_coin_toss_of_what_is_expected() -> None:
    """And of the prompt's length where only a bound is known; who has surely ended holds nothing."""
    most, mean, variance = curves([10.0, 20.0, 0.0], [1.0, 0.5, 0.3], 0)
    assert (most.tolist(), mean.tolist(), variance.tolist()) == ([10, 20, 0], [10, 10, 0], [0, 100, 0])
    _, lower, wider = curves([10.0, 20.0, 0.0], [1.0, 0.5, 0.3], 4)
    assert lower.tolist() == [6, 8, 0]
    assert wider[0] > 0
    assert wider.min() >= 0


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                KvGroup("full", 1, BLOCK, 0),
                KvGroup("sliding", 2, 32, 0, window=100),
                KvGroup("state", 1, BLOCK, 0, state_blocks=3),
            ]
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.integers(0, 5000), min_size=1, max_size=8),
)
def test_blocks_are_those_of_the_layout(groups: list[KvGroup], tokens: list[int]) -> None:
    """For every number of tokens, and without touching the array that was given."""
    layout, given_tokens = KvLayout(tuple(groups)), np.array(tokens, dtype=np.float64)
    assert blocks_of(layout, given_tokens).tolist() == [layout.blocks(count) for count in tokens]
    assert given_tokens.tolist() == pytest.approx(tokens)


def test_few_requests_take_a_larger_margin() -> None:
    """Their sum is no normal one; that of many is."""
    assert deviations(2.0, 1) == deviations(2.0, 0) == 2.0 * (1 + FEW_SHARE)
    assert deviations(2.0, 1) > deviations(2.0, 10) > deviations(2.0, 10_000) > 2.0
