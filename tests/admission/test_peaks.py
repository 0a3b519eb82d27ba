"""The horizons that decide, against all of them over arrays."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from estimator.demand import Demand
from estimator.kv_cache import KvLayout
from estimator.output_length import OutputForecast, OutputLengths
from gateway.admission.curves import blocks_of, deviations, peak_of
from gateway.admission.peaks import SLACK_TOKENS, Horizon, Newcomer, Peaks
from tests.admission.words import NEVER_ENDING

LAYOUT = KvLayout.uniform(16)
ENDS = (0.0, 8.0, 64.0, 256.0, 1024.0)
STARTS = (0.0, *ENDS[:-1])
Z = deviations(2.33, 1)


def learned() -> OutputForecast:
    lengths = OutputLengths()
    for k in range(100):
        lengths.learn(3 * k, ended=True)
    return lengths.forecast()


LEARNED = learned()
DEMANDS = st.builds(
    lambda n, prompts, sure, end, known: Demand(
        n, prompts, round(sure * sum(prompts)), end, LEARNED if known else NEVER_ENDING
    ),
    st.integers(1, 2),
    st.lists(st.integers(1, 3000), min_size=1, max_size=3).map(tuple),
    st.sampled_from([0.6, 1.0]),
    st.integers(0, 900),
    st.booleans(),
)
NEWCOMERS = st.builds(
    lambda demand, ahead, generated: Newcomer.of(LAYOUT, demand, demand.output, ahead, generated),
    DEMANDS,
    st.sampled_from([0.0, 3.5, 70.0]),
    st.sampled_from([0, 0, 40, 1000]),
)


def peaks(curves: np.ndarray, z: float = Z) -> Peaks:
    """Of a table with these rows."""
    growths = blocks_of(LAYOUT, np.array(ENDS)).tolist()
    horizons = list(map(Horizon, STARTS, ENDS, growths, *curves.sum(axis=1).tolist()))
    return Peaks(LAYOUT, horizons, curves, z)


def rows(count: int) -> np.ndarray:
    """Of requests of different lengths, as whole numbers: adding and taking away leaves no error."""
    curves = np.zeros((3, count, len(ENDS)))
    for row in range(count):
        curves[0, row] = [40, 41, 44, 56, 104][: 1 + row % 5] + [0] * (4 - row % 5)
        curves[1, row] = np.floor(curves[0, row] * np.array([1.0, 0.9, 0.7, 0.4, 0.1]))
        curves[2, row] = 3 * curves[1, row]
    return curves


def held(newcomer: Newcomer) -> np.ndarray:
    """At all horizons."""
    return np.array([newcomer.at(LAYOUT, start, end) for start, end in zip(STARTS, ENDS, strict=True)]).T


def everywhere(sums: np.ndarray, trial: Newcomer) -> float:
    """The peak by looking at every horizon that has not passed."""
    first = min(len(ENDS) - 1, int(np.searchsorted(ENDS, trial.ahead)))
    return peak_of((sums + held(trial))[:, first:], Z)[0]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 12), st.lists(st.tuples(st.booleans(), st.integers(0, 20), NEWCOMERS), max_size=10), NEWCOMERS)
def test_no_horizon_that_decides_is_left_out(
    count: int, steps: list[tuple[bool, int, Newcomer]], trial: Newcomer
) -> None:
    """Whoever came and went before, and however often it was asked."""
    table = rows(count)
    known, sums, there = peaks(table), table.sum(axis=1), dict.fromkeys(range(count))
    newcomers: dict[int, Newcomer] = {}
    for number, (asked, gone, newcomer) in enumerate(steps):
        known.came(100 + number, newcomer)
        newcomers[100 + number] = newcomer
        sums = sums + held(newcomer)
        if asked:
            assert known.peak_with(trial, math.inf, Z) == everywhere(sums, trial)
        if gone in there:
            del there[gone]
            known.left(gone, [gone])
            sums = sums - table[:, gone]
        elif (leaver := newcomers.pop(100 + gone, None)) is not None:
            known.left(100 + gone, [])
            sums = sums - held(leaver)
    expected = everywhere(sums, trial)
    assert known.peak_with(trial, math.inf, Z) == expected
    assert known.peak_with(trial, expected, Z) == expected
    assert known.peak_with(trial, expected - 1, Z) == math.inf
    assert known.newcomers == newcomers


def test_horizons_that_cannot_decide_take_nothing_in() -> None:
    """One that is far from being the fullest is left as it was."""
    known = peaks(rows(500))
    trial = Newcomer.of(LAYOUT, Demand(1, (100,), 100, 50, LEARNED), LEARNED, 0.0)
    known.came(1, trial)
    known.peak_with(trial, math.inf, Z)
    assert [horizon.changes for horizon in known._horizons] == [1, 0, 0, 0, 0]


def test_what_has_come_may_make_another_horizon_the_fullest() -> None:
    """Each of them grows: far beyond what one request alone would add there."""
    curves = np.zeros((3, 1, len(ENDS)))
    curves[:2, 0, :2] = 200.0
    known, trial = peaks(curves), Newcomer.of(LAYOUT, Demand(1, (16,), 16, 1, LEARNED), LEARNED, 0.0)
    long = Demand(1, (16,), 16, 900, NEVER_ENDING)
    for number in range(6):
        known.came(number, Newcomer.of(LAYOUT, long, NEVER_ENDING, 0.0))
    assert known.peak_with(trial, math.inf, Z) == 6 * 58


def test_who_left_before_it_was_taken_in_never_counts() -> None:
    """And is nobody's memory afterwards; one who is not known leaves without a trace."""
    known, trial = peaks(rows(3)), Newcomer.of(LAYOUT, Demand(1, (100,), 100, 50, LEARNED), LEARNED, 0.0)
    before = known.peak_with(trial, math.inf, Z)
    known.came(7, replace(trial, held={}))
    known.left(7, [])
    known.left(8, [])
    assert len(known.changes) == 2
    assert known.peak_with(trial, math.inf, Z) == before
    assert not known.newcomers


def test_what_one_holds_ends_with_its_longest_answer() -> None:
    """A little later than that, since a prompt takes time; and it is no less likely to be there for having got far."""
    short = Newcomer.of(LAYOUT, Demand(2, (100,), 100, 56, NEVER_ENDING), NEVER_ENDING, 0.0)
    assert short.at(LAYOUT, 8.0, 64.0) == pytest.approx((20.0, 20.0, 0.0), abs=1e-6)
    assert short.at(LAYOUT, 56.0 + SLACK_TOKENS, 1e4) == (0.0, 0.0, 0.0)
    far = Newcomer.of(LAYOUT, short.demand, NEVER_ENDING, 0.0, 50)
    assert far.blocks == 2 * 10
    assert far.at(LAYOUT, 6.0 + SLACK_TOKENS, 64.0) == (0.0, 0.0, 0.0)
    hopeless = OutputForecast.from_hazards((0.999,) * len(LEARNED.hazards))
    outlived = Newcomer.of(LAYOUT, Demand(1, (16,), 16, 4000, hopeless), hopeless, 0.0, 3000)
    assert outlived.at(LAYOUT, 0.0, 0.0)[0] == outlived.at(LAYOUT, 0.0, 0.0)[1] == 189
