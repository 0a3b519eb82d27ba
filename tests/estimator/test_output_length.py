"""How long answers get: the forecast's own laws, and how fast and how rightly it learns."""

import math
from statistics import fmean

import pytest
from hypothesis import given, settings, strategies as st

from estimator.output_length import (
    EDGES,
    LENGTH_MAX,
    PRIOR_FORECAST,
    OutputForecast,
    OutputLengths,
)
from tests.estimator.answers import learnt, lognormal, newest

GENERATED = st.integers(0, 200_000)
PART = st.floats(0, 1)


@st.composite
def forecasts(draw: st.DrawFn) -> OutputForecast:
    """What a model knows after up to 200 answers of any kind."""
    lengths = OutputLengths()
    answers = st.tuples(st.integers(0, 300_000), st.booleans())
    for tokens, ended in draw(st.lists(answers, max_size=200)):
        lengths.learn(tokens, ended=ended)
    return lengths.forecast()


@given(forecasts(), PART, PART, GENERATED)
@settings(deadline=None)
def test_quantiles_are_ordered_and_beyond_what_is_there(f: OutputForecast, a: float, b: float, generated: int) -> None:
    """A higher chance never means a shorter answer; an answer without an end is at least one token longer."""
    low, high = sorted((a, b))
    assert generated + 1 <= f.quantile(low, generated) <= f.quantile(high, generated) <= LENGTH_MAX


@given(forecasts(), st.floats(0.001, 0.999), st.integers(0, 100_000))
@settings(deadline=None)
def test_quantile_and_survival_agree(f: OutputForecast, q: float, generated: int) -> None:
    """At the quantile at most 1 - q are left; a token before it more are."""
    tokens = f.quantile(q, generated)
    if tokens == LENGTH_MAX:
        assert f.survival(131_072, generated) >= (1 - q) * (1 - 1e-9)
        return
    assert f.survival(tokens, generated) <= (1 - q) * (1 + 1e-6)
    assert tokens == generated + 1 or f.survival(tokens - 1, generated) >= (1 - q) * (1 - 1e-6)


@given(forecasts(), st.one_of(GENERATED, st.sampled_from(EDGES)))
@settings(deadline=None)
def test_chances_are_those_of_survival(f: OutputForecast, tokens: int) -> None:
    """To stay below a length, and to get no further: what is left of having got beyond."""
    chances = f.chances(tokens)
    assert chances == pytest.approx((1 - f.survival(max(0, tokens - 1)), 1 - f.survival(tokens)), abs=1e-12)
    assert 0 <= chances[0] <= chances[1] <= 1


@given(forecasts(), GENERATED, GENERATED, GENERATED)
@settings(deadline=None)
def test_survival_falls_and_conditions_as_it_should(f: OutputForecast, a: int, b: int, c: int) -> None:
    """S(c | a) = S(b | a) * S(c | b) for a <= b <= c."""
    a, b, c = sorted((a, b, c))
    assert 0 <= f.survival(c, a) <= f.survival(b, a) <= 1
    assert f.survival(c, a) == pytest.approx(f.survival(b, a) * f.survival(c, b), rel=1e-6, abs=1e-300)


@given(forecasts(), st.integers(0, 50_000), st.integers(0, 50_000))
@settings(deadline=None)
def test_means_lie_between_what_is_there_and_the_cap(f: OutputForecast, generated: int, cap: int) -> None:
    """A capped mean is at most the cap, and at most the mean without."""
    mean = f.mean(generated, cap)
    assert generated <= mean <= max(generated, cap) * (1 + 1e-9)
    assert mean <= f.mean(generated) * (1 + 1e-9)


def test_the_mean_is_the_sum_of_survivals() -> None:
    """Checked against the definition, from the start and in the middle of a bin."""
    for generated, cap in ((0, 700), (333, 700), (650, 5000)):
        total = generated + sum(PRIOR_FORECAST.survival(t, generated) for t in range(generated, cap))
        assert PRIOR_FORECAST.mean(generated, cap) == pytest.approx(total, rel=0.002)


def test_the_prior_is_the_log_normal_it_says() -> None:
    """Median 1,000 and sigma 1.5: 95 % end before 1000 * exp(1.645 * 1.5)."""
    assert PRIOR_FORECAST.quantile(0.5) == pytest.approx(1000, rel=0.02)
    assert PRIOR_FORECAST.quantile(0.95) == pytest.approx(11_800, rel=0.02)
    assert OutputLengths().forecast() is PRIOR_FORECAST


def test_beyond_the_table_nothing_is_claimed() -> None:
    """An end that the table does not show, and answers longer than it, have no length."""
    assert PRIOR_FORECAST.survival(131_072) > 0.0001
    assert PRIOR_FORECAST.quantile(0.9999) == LENGTH_MAX
    assert PRIOR_FORECAST.quantile(0.01, generated=131_072) == LENGTH_MAX
    assert PRIOR_FORECAST.mean(generated=131_072) == 131_072


@pytest.mark.parametrize("answers", [100, 400])
def test_few_short_answers_are_not_expected_to_run_into_thousands(answers: int) -> None:
    """The tail beyond what was seen follows the model's own shape, not the stated prior's."""
    sample = lognormal(80, 0.9, answers)
    assert learnt(sample).mean() < 2 * fmean(sample)
    assert learnt(sample).quantile(0.95) < 1.6 * sorted(sample)[int(0.95 * answers)]


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_many_answers_outweigh_the_prior(sigma: float) -> None:
    """After 3,000 answers, each quantile is within a bin (16 %) of the sample's."""
    sample = lognormal(200, sigma, 3000)
    forecast = learnt(sample)
    for q in (0.5, 0.9, 0.95):
        assert forecast.quantile(q) == pytest.approx(sorted(sample)[int(q * len(sample))], rel=0.16)
    assert forecast.mean() == pytest.approx(fmean(sample), rel=0.1)


def test_answers_cut_off_do_not_shorten_the_forecast() -> None:
    """A cap of 400 hides a third of all lengths; up to it, inside its bin too, the rest is as without it."""
    sample = lognormal(300, 0.8, 4000)
    uncut, cut = learnt(sample), learnt(sample, cap=400)
    assert cut.quantile(0.5) == pytest.approx(uncut.quantile(0.5), rel=0.03)
    assert cut.survival(390) == pytest.approx(uncut.survival(390), rel=0.05)
    naive = learnt([min(tokens, 400) for tokens in sample])
    assert naive.quantile(0.9) <= 440 < cut.quantile(0.9)


def test_what_ran_long_is_expected_to_run_on() -> None:
    """Far beyond all answers seen, the prior's tail decides, not the last bin that had data."""
    forecast = learnt(lognormal(100, 0.3, 5000))
    assert forecast.quantile(0.95) < 220
    assert forecast.quantile(0.5, generated=2000) > 2500


def test_a_shift_is_followed_within_a_half_life() -> None:
    """After 2,000 short answers, 4,000 long ones: they count four times as much."""
    before = learnt(lognormal(50, 0.3, 2000))
    after = learnt([*lognormal(50, 0.3, 2000), *lognormal(800, 0.3, 4000, seed=2)])
    assert before.quantile(0.5) < 60
    assert after.quantile(0.5) == pytest.approx(740, rel=0.1)


def test_a_forecast_is_kept_until_enough_is_new() -> None:
    """The first answers show at once; later 16 make a new forecast."""
    lengths = OutputLengths()
    lengths.learn(5, ended=True)
    first = lengths.forecast()
    assert first is not PRIOR_FORECAST
    assert lengths.forecast() is first
    for _ in range(200):
        lengths.learn(5, ended=True)
        lengths.forecast()
    settled = lengths.forecast()
    kept = 0
    while lengths.forecast() is settled:
        lengths.learn(5, ended=True)
        kept += 1
    assert 2 <= kept <= 16
    assert lengths.learnt == 201 + kept


def test_a_common_cap_does_not_look_like_an_end() -> None:
    """Nine in ten requests stop at 400: the tenth, with a longer cap, is still expected to pass the cap's bin."""
    sample = lognormal(500, 1.0, 5000)
    lengths = OutputLengths()
    for i, tokens in enumerate(sample):
        cap = 4000 if i % 10 == 0 else 400
        lengths.learn(min(tokens, cap), ended=tokens < cap)
    left = sum(tokens > 450 for tokens in sample) / sum(tokens > 350 for tokens in sample)
    assert newest(lengths).survival(450, generated=350) == pytest.approx(left, rel=0.05)


@given(forecasts(), GENERATED, GENERATED)
@settings(deadline=None)
def test_log_survival_is_what_chances_are_made_of(f: OutputForecast, a: int, b: int) -> None:
    """Of what is conditional it is the difference."""
    a, b = sorted((a, b))
    assert math.exp(f.log_survival(b) - f.log_survival(a)) == pytest.approx(f.survival(b, a), rel=1e-9, abs=1e-300)
    assert len(f.cumulative) == len(EDGES)
    assert all(f.log_survival(edge) == pytest.approx(-f.cumulative[k]) for k, edge in enumerate(EDGES))


def test_a_shift_is_seen_before_any_long_answer_has_ended() -> None:
    """After 2,000 answers of about 50 tokens, 200 run and have got to 400: more are expected to."""
    lengths = OutputLengths()
    for tokens in lognormal(50, 0.3, 2000):
        lengths.learn(tokens, ended=True)
    before = newest(lengths)
    counted = [0] * 200
    for tokens in range(50, 401, 50):
        counted = [lengths.grown(tokens, bins) for bins in counted]
    after = newest(lengths)
    assert before.survival(300) < 0.02
    assert after.survival(300) > 0.2
    assert after.quantile(0.9) > 400 > before.quantile(0.9)


def test_answers_that_were_seen_as_they_grew_count_once() -> None:
    """Watched or not, from chunks that were counted right, too high or too low: what `usage` says in the end holds."""
    sample = lognormal(300, 0.8, 600)
    unwatched = OutputLengths()
    for tokens in sample:
        unwatched.learn(tokens, ended=True)
    for factor in (0.5, 1.0, 1.7):
        lengths = OutputLengths()
        for tokens in sample:
            counted = 0
            for seen in range(0, int(tokens * factor), 20):
                counted = lengths.grown(seen, counted)
            lengths.learn(tokens, ended=True, counted=counted)
        assert lengths.counts().ended == pytest.approx(unwatched.counts().ended)
        assert lengths.counts().reached == pytest.approx(unwatched.counts().reached, rel=1e-6, abs=1e-6)


def test_an_answer_of_which_no_end_is_known_leaves_no_trace() -> None:
    """It may have ended where it was last seen, or not."""
    lengths = OutputLengths()
    lengths.forget(lengths.grown(700, 0))
    assert lengths.counts() == OutputLengths().counts()


def test_progress_alone_makes_a_new_forecast() -> None:
    """Nothing has ended, but what runs has passed bins; within a bin nothing is new."""
    lengths = OutputLengths()
    counted = lengths.grown(700, 0)
    first = lengths.forecast()
    assert first is not PRIOR_FORECAST
    assert lengths.grown(EDGES[counted + 1] - 1, counted) == counted
    assert lengths.forecast() is first
