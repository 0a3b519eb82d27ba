"""Where a model starts that has no answers yet: from an engine's own histogram, or from what was saved."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from estimator.output_length import PRIOR_FORECAST, LengthHistogram, OutputLengths
from tests.estimator.answers import lognormal, newest

HISTOGRAM = LengthHistogram((10.0, 100.0, 200.0), (100.0, 300.0, 500.0, 100.0))


def test_an_engines_histogram_is_where_a_model_may_start() -> None:
    """Its shares hold at its bounds, pulled a little towards the prior; within them, the prior's shape does."""
    lengths = OutputLengths()
    assert lengths.seed(HISTOGRAM)
    forecast = lengths.forecast()
    for bound, share in ((10, 0.9), (100, 0.6), (200, 0.1)):
        assert forecast.survival(bound) == pytest.approx(share, abs=0.15)
    assert forecast.survival(100) > forecast.survival(150) > forecast.survival(200)
    assert lengths.learnt == 200


def test_a_seed_is_weak() -> None:
    """It counts as 200 answers, though the engine counted a thousand: 1,000 real ones outweigh it."""
    lengths = OutputLengths()
    lengths.seed(HISTOGRAM)
    assert lengths.counts().reached[0] == pytest.approx(200)
    for tokens in lognormal(800, 0.3, 1000):
        lengths.learn(tokens, ended=True)
    assert lengths.forecast().quantile(0.5) == pytest.approx(790, rel=0.05)


@pytest.mark.parametrize(
    "histogram",
    [
        LengthHistogram((), (0.0,)),
        LengthHistogram((10.0,), (0.0, 0.0)),
        LengthHistogram((10.0,), (math.inf, 1.0)),
    ],
    ids=["no buckets", "no answers", "no number"],
)
def test_a_histogram_that_says_nothing_is_not_taken(histogram: LengthHistogram) -> None:
    """The prior goes on."""
    lengths = OutputLengths()
    assert not lengths.seed(histogram)
    assert lengths.forecast() is PRIOR_FORECAST


def test_who_has_learned_takes_no_seed() -> None:
    """Real answers, watched or ended, are better; so is what was saved."""
    ended, watched, restored = OutputLengths(), OutputLengths(), OutputLengths()
    ended.learn(5, ended=True)
    watched.grown(5, 0)
    restored.restore(ended.counts())
    assert not any(lengths.seed(HISTOGRAM) for lengths in (ended, watched, restored))


@given(
    st.lists(st.floats(0, 1e6), max_size=8).map(sorted),
    st.lists(st.floats(0, 1e12), min_size=9, max_size=9),
)
@settings(deadline=None)
def test_any_histogram_makes_a_sound_forecast(bounds: list[float], counts: list[float]) -> None:
    """Bounds that fall between tokens, together or beyond the table: chances stay chances, and no weight is made."""
    lengths = OutputLengths()
    lengths.seed(LengthHistogram(tuple(bounds), tuple(counts[: len(bounds) + 1])))
    assert all(0 <= hazard < 1 for hazard in lengths.forecast().hazards)
    assert lengths.counts().reached[0] <= 200 * (1 + 1e-9)


def test_a_saved_memory_comes_back_lighter() -> None:
    """It counts as 500 answers at most; the forecast is nearly the same until new ones come."""
    sample = lognormal(200, 0.5, 4000)
    before = OutputLengths()
    for tokens in sample:
        before.learn(tokens, ended=True)
    after = OutputLengths()
    after.restore(before.counts())
    assert after.counts().reached[0] == pytest.approx(500)
    assert after.learnt == 500
    for q in (0.5, 0.9):
        assert after.forecast().quantile(q) == pytest.approx(newest(before).quantile(q), rel=0.12)
