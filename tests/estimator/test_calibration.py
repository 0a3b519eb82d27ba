"""Measured coverage: right where the truth is known, whatever was cut off."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from estimator.calibration import LEVELS, Calibration
from estimator.output_length import ENDLESS, PRIOR_FORECAST, OutputForecast, OutputLengths
from tests.estimator.answers import learnt, lognormal

QUANTILES = (0.5, 0.9, 0.99)
SAMPLE = lognormal(200, 0.8, 4000)
KNOWN = learnt(SAMPLE)


def share_within(q: float, forecast: OutputForecast, answers: list[int]) -> float:
    """The plain count."""
    return sum(tokens <= forecast.quantile(q) for tokens in answers) / len(answers)


def observed(forecast: OutputForecast, answers: list[int], caps: list[int] | None = None) -> Calibration:
    """What is measured where all answers had one forecast; `caps` are `max_tokens`."""
    calibration = Calibration(half_life=1e9)
    for i, tokens in enumerate(answers):
        cap = caps[i % len(caps)] if caps else tokens + 1
        calibration.observe(forecast, min(tokens, cap), ended=tokens < cap)
    return calibration


def test_levels_rise_from_nothing_to_all() -> None:
    """And have a border at each quantile that is shown."""
    assert (LEVELS[0], LEVELS[-1]) == (0, 1)
    assert all(low < high for low, high in pairwise(LEVELS))
    assert set(QUANTILES) <= set(LEVELS)


@pytest.mark.parametrize("q", QUANTILES)
def test_a_right_forecast_covers_what_it_says(q: float) -> None:
    """New answers of the kind that it was learnt from."""
    assert observed(KNOWN, lognormal(200, 0.8, 4000, seed=2)).coverage(q) == pytest.approx(q, abs=0.02)


@pytest.mark.parametrize("q", QUANTILES)
@pytest.mark.parametrize(("median", "sigma"), [(100, 0.8), (400, 0.8), (200, 0.3), (200, 1.2)])
def test_a_wrong_forecast_is_measured_as_wrong_as_it_is(q: float, median: float, sigma: float) -> None:
    """Answers turned out longer, shorter, more or less alike: the measure is the plain share within the bound."""
    answers = lognormal(median, sigma, 4000, seed=3)
    assert observed(KNOWN, answers).coverage(q) == pytest.approx(share_within(q, KNOWN, answers), abs=0.01)


@pytest.mark.parametrize("q", QUANTILES)
def test_answers_that_were_cut_off_do_not_spoil_it(q: float) -> None:
    """Two in three have a cap, at the median or below the 90th percentile: the measure is that of the whole answers."""
    answers = lognormal(300, 0.8, 9000, seed=4)
    measured = observed(KNOWN, answers, caps=[200, 500, 10**6]).coverage(q)
    assert measured == pytest.approx(share_within(q, KNOWN, answers), abs=0.02)


def test_what_caps_hide_is_not_told() -> None:
    """All end at the forecast's median or before: nothing says where they would have."""
    answers = lognormal(200, 0.8, 1000, seed=5)
    calibration = observed(KNOWN, answers, caps=[KNOWN.quantile(0.6)])
    assert calibration.coverage(0.5) == pytest.approx(0.5, abs=0.05)
    assert calibration.coverage(0.9) is None


def test_little_evidence_tells_nothing() -> None:
    """A median takes 20 answers, a 99th percentile a hundred."""
    calibration = Calibration()
    for count, known in ((0, (False, False)), (19, (False, False)), (40, (True, False)), (120, (True, True))):
        while calibration.samples < count:
            calibration.observe(KNOWN, 50, ended=True)
        assert tuple(calibration.coverage(q) is not None for q in (0.5, 0.99)) == known


def test_all_answers_far_too_short_are_all_within() -> None:
    """Nobody gets as far as the median: that is known, not hidden."""
    assert observed(PRIOR_FORECAST, [5] * 200).coverage(0.5) == pytest.approx(1)


def test_answers_of_one_length_count_in_part() -> None:
    """A forecast that knows the three lengths there are is right, though no bound has half of the answers within."""
    answers = [7, 8, 9] * 1000
    random.Random(1).shuffle(answers)
    forecast = learnt(answers)
    assert share_within(0.5, forecast, answers) == pytest.approx(2 / 3)
    assert observed(forecast, answers).coverage(0.5) == pytest.approx(0.5, abs=0.02)


def test_new_answers_count_most() -> None:
    """After two half-lives, a quarter of what is remembered is old."""
    calibration = Calibration(half_life=500)
    for answers in (SAMPLE[:1000], [100_000] * 1000):
        for tokens in answers:
            calibration.observe(KNOWN, tokens, ended=True)
    assert calibration.samples == 2000
    measured = calibration.coverage(0.9)
    assert measured is not None
    assert 0.12 < measured < 0.25


@given(
    st.lists(st.tuples(st.integers(0, 200_000), st.booleans(), st.booleans()), min_size=30, max_size=80),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
@settings(deadline=None)
def test_coverage_is_a_share_that_rises_with_its_quantile(
    answers: list[tuple[int, bool, bool]], a: float, b: float
) -> None:
    """Whatever was observed, of forecasts that end or do not; and what was saved says the same."""
    calibration = Calibration()
    for tokens, ended, endless in answers:
        calibration.observe(ENDLESS if endless else KNOWN, tokens, ended=ended)
    low, high = (calibration.coverage(q) for q in sorted((a, b)))
    again = Calibration()
    again.restore(calibration.counts(), calibration.samples)
    assert again.samples == len(answers)
    assert again.coverage(a) == pytest.approx(calibration.coverage(a))
    if low is not None and high is not None:
        assert 0 <= low <= high + 1e-9 <= 1 + 2e-9


def test_what_was_saved_takes_the_place_of_what_was_observed() -> None:
    """Of all of it, however new."""
    saved, calibration = observed(KNOWN, SAMPLE[:100]), Calibration()
    calibration.observe(KNOWN, 50, ended=True)
    calibration.restore(saved.counts(), saved.samples)
    assert calibration.counts().reached == pytest.approx(saved.counts().reached)
    assert calibration.samples == 100


def test_learning_while_measuring() -> None:
    """Forecasts made on the way, from the first answer on, end up calibrated."""
    lengths, calibration = OutputLengths(), Calibration()
    for tokens in lognormal(300, 1.0, 6000, seed=6):
        calibration.observe(lengths.forecast(), tokens, ended=True)
        lengths.learn(tokens, ended=True)
    for q in QUANTILES:
        assert calibration.coverage(q) == pytest.approx(q, abs=0.03)
