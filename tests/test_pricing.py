"""What is priced per model, and what is learned from requests as they grow and end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from estimator.demand import End, Shape
from estimator.output_length import ENDLESS, PRIOR_FORECAST, LengthHistogram, OutputForecast
from gateway.domain import Usage
from gateway.learned_file import remembered
from gateway.pricing import CONTEXT_UNKNOWN_TOKENS, FITS_AT_ONCE, QUANTILES, Answer, ModelPricing, Pricing

SHAPE = Shape(400, messages=1, max_tokens=1_000)


class Told:
    """Who is told of new forecasts."""

    def __init__(self) -> None:
        self.forecasts: list[tuple[str, OutputForecast]] = []

    def __call__(self, model: str, forecast: OutputForecast) -> None:
        self.forecasts.append((model, forecast))


@dataclass
class Streamed:
    """How far a request has come."""

    output_tokens: int = 0


@pytest.fixture
def told() -> Told:
    return Told()


def teach(pricing: Pricing, count: int, output_tokens: int = 20, *, end: End = End.STOP, events: int = 0) -> None:
    """So many requests of model a that ended alike."""
    for _ in range(count):
        answer = pricing.follow("a", SHAPE, Streamed(), runs_to_max=False)
        pricing.learn(answer, Usage(100, output_tokens), end, events=events)
        pricing.unfollow(answer)


def test_models_are_priced_apart(told: Told) -> None:
    """What is learned of one says nothing of another."""
    pricing = Pricing(told)
    fresh = pricing.demand("b", SHAPE, context_tokens=4096, runs_to_max=False)
    teach(pricing, 100)
    assert pricing.demand("b", SHAPE, context_tokens=4096, runs_to_max=False) == fresh
    learned = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    assert learned.output_bound(0.5) < fresh.output_bound(0.5)
    assert abs(learned.prompt_tokens - 100) < abs(fresh.prompt_tokens - 100)


def test_admission_is_told_when_a_forecast_changes(told: Told) -> None:
    """Of the model that it changed for, and with the forecast that requests are priced by from then on."""
    pricing = Pricing(told)
    teach(pricing, 100)
    assert {model for model, _ in told.forecasts} == {"a"}
    priced = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    assert told.forecasts[-1][1] is priced.output
    forecasts = [forecast for _, forecast in told.forecasts]
    assert all(before is not after for before, after in pairwise(forecasts))


def test_many_answers_at_once_are_not_forecast_from_each_time_again(told: Told) -> None:
    """Else forecasts would cost more the more answers there are; the next look at the running ones ends that."""
    pricing = Pricing(told)
    teach(pricing, 1_000)
    pricing.refresh(0.0)
    before = len(told.forecasts)
    teach(pricing, 10_000)
    hurried = len(told.forecasts) - before
    assert FITS_AT_ONCE < hurried < 8 * FITS_AT_ONCE
    pricing.refresh(1.0)
    before = len(told.forecasts)
    teach(pricing, 16 * FITS_AT_ONCE)
    assert len(told.forecasts) - before >= FITS_AT_ONCE


def test_a_request_that_runs_to_its_end_is_priced_so_and_teaches_no_length(told: Told) -> None:
    """Its length is a setting, not an observation, even while it runs; its prompt still counts."""
    pricing = Pricing(told)
    demand = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=True)
    assert demand.output is ENDLESS
    assert demand.output_bound(0.5) == demand.output_tokens_max == 1_000
    answer = pricing.follow("a", SHAPE, Streamed(900), runs_to_max=True)
    pricing.refresh(1.0)
    pricing.learn(answer, Usage(400, 1_000), End.LENGTH, events=0)
    pricing.learn_cut(answer, 900)
    pricing.unfollow(answer)
    assert told.forecasts == []
    assert pricing.of("a").calibration.samples == 0
    assert pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=True).prompt_tokens > demand.prompt_tokens


def test_an_unknown_context_bounds_the_forecast_only(told: Told) -> None:
    """A hosted model does not tell its own."""
    demand = Pricing(told).demand("a", Shape(400), context_tokens=None, runs_to_max=False)
    assert demand.output_tokens_max + max(demand.prompts) == CONTEXT_UNKNOWN_TOKENS


def test_tokens_per_event_follow_what_streams_carry(told: Told) -> None:
    """Slowly, and only from streams that say how many tokens they had."""
    pricing = Pricing(told)
    teach(pricing, 1, 40, events=10)
    assert pricing.of("a").tokens_per_event == pytest.approx(1.15)
    teach(pricing, 1, 40, events=0)
    teach(pricing, 1, 0, events=10)
    assert pricing.of("a").tokens_per_event == pytest.approx(1.15)
    teach(pricing, 200, 40, events=10)
    assert pricing.of("a").tokens_per_event == pytest.approx(4, rel=0.01)


def test_a_request_that_was_cut_teaches_that_answers_get_at_least_so_long(told: Told) -> None:
    """But one cut before anything came teaches nothing."""
    pricing = Pricing(told)
    pricing.learn_cut(Answer("a", SHAPE), 0)
    assert told.forecasts == []
    teach(pricing, 300)
    before = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    for _ in range(100):
        pricing.learn_cut(Answer("a", SHAPE), 900)
    after = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    assert after.output_bound(0.05) > before.output_bound(0.05)


def test_running_requests_teach_before_they_end(told: Told) -> None:
    """A hundred that have got to 600 tokens where 20 were usual; admission hears of it."""
    pricing = Pricing(told)
    teach(pricing, 300)
    streams = [Streamed(600) for _ in range(100)]
    for stream in streams:
        pricing.follow("a", SHAPE, stream, runs_to_max=False)
    heard = len(told.forecasts)
    before = told.forecasts[-1][1]
    pricing.refresh(1.0)
    assert len(told.forecasts) == heard + 1
    assert told.forecasts[-1][1].survival(500) > 10 * before.survival(500)
    pricing.refresh(2.0)
    assert len(told.forecasts) == heard + 1  # nothing moved


@pytest.mark.parametrize("seen", [0, 50, 80, 700])
def test_a_request_counts_once_however_it_was_seen(told: Told, seen: int) -> None:
    """Its stream looked shorter or longer than it was: what its engine counted is what is learned."""
    watched, unwatched = Pricing(told), Pricing(told)
    answer = watched.follow("a", SHAPE, Streamed(seen), runs_to_max=False)
    watched.refresh(1.0)
    watched.learn(answer, Usage(100, 80), End.STOP, events=0)
    watched.refresh(2.0)
    watched.unfollow(answer)
    teach(unwatched, 1, 80)
    counts = [pricing.of("a").demand.output_lengths.counts() for pricing in (watched, unwatched)]
    assert counts[0] == counts[1]


def test_a_request_that_nobody_counted_leaves_no_trace(told: Told) -> None:
    """Its engine gave no usage, or failed: what had been counted of it is taken back."""
    pricing = Pricing(told)
    blank = pricing.of("a").demand.output_lengths.counts()
    answer = pricing.follow("a", SHAPE, Streamed(300), runs_to_max=False)
    pricing.refresh(1.0)
    assert pricing.of("a").demand.output_lengths.counts() != blank
    pricing.unfollow(answer)
    pricing.unfollow(answer)
    assert pricing.of("a").demand.output_lengths.counts() == blank


def test_sequences_count_by_their_mean_and_stay_out_of_the_calibration(told: Told) -> None:
    """Four that together have 400 tokens are seen at 100."""
    pricing = Pricing(told)
    shape = Shape(400, messages=1, n=4)
    answer = pricing.follow("a", shape, Streamed(400), runs_to_max=False)
    pricing.refresh(1.0)
    single = Pricing(told)
    single.follow("a", SHAPE, Streamed(100), runs_to_max=False)
    single.refresh(1.0)
    assert pricing.of("a").demand.output_lengths.counts() == single.of("a").demand.output_lengths.counts()
    pricing.learn(answer, Usage(100, 400), End.STOP, events=0)
    assert pricing.of("a").demand.output_lengths.learnt == 1
    assert pricing.of("a").calibration.samples == 0


def test_embeddings_are_not_followed(told: Told) -> None:
    """They have no output."""
    pricing = Pricing(told)
    answer = pricing.follow("a", Shape(400, output=False), Streamed(5), runs_to_max=False)
    pricing.refresh(1.0)
    pricing.learn(answer, Usage(100, 0), End.STOP, events=0)
    assert pricing.of("a").demand.output_lengths.learnt == 0
    assert pricing.of("a").calibration.samples == 0


def test_forecasts_are_compared_as_they_were_when_a_request_was_sent(told: Told) -> None:
    """An answer that is short for the prior is not for what was learned while it ran."""
    pricing = Pricing(told)
    answer = pricing.follow("a", SHAPE, Streamed(), runs_to_max=False)
    teach(pricing, 300)
    assert answer.forecast is PRIOR_FORECAST
    before = pricing.of("a").calibration.counts()
    pricing.learn(answer, Usage(100, 25), End.STOP, events=0)
    after = pricing.of("a").calibration.counts()
    grown = [k for k, (old, new) in enumerate(zip(before.ended, after.ended, strict=True)) if new > old]
    assert grown == [0]


def test_the_snapshot_shows_each_model(told: Told) -> None:
    """Forecast, coverage and how new that is; nothing is claimed of what has not answered."""
    pricing = Pricing(told)
    pricing.of("z")
    teach(pricing, 200)
    pricing.refresh(7.0)
    a, z = pricing.snapshot()
    assert (a.model, a.learnt, a.compared) == ("a", 200, 200)
    assert [shown.q for shown in a.quantiles] == list(QUANTILES)
    assert a.quantiles[0].tokens == pytest.approx(20, abs=1)
    assert [shown.tokens for shown in a.quantiles] == sorted(shown.tokens for shown in a.quantiles)
    assert all(shown.coverage is not None and 0 <= shown.coverage <= 1 for shown in a.quantiles)
    assert (a.fits, a.fitted_at) == (len(told.forecasts), 7.0)
    assert (z.model, z.learnt, z.compared, z.fits, z.fitted_at) == ("z", 0, 0, 0, None)
    assert {shown.coverage for shown in z.quantiles} == {None}
    pricing.refresh(8.0)
    assert pricing.snapshot()[0].fitted_at == 7.0


def test_an_engines_histogram_seeds_a_model_once(told: Told) -> None:
    """What was learned or restored since stays."""
    pricing = Pricing(told)
    pricing.seed("a", LengthHistogram((10.0, 20.0), (0.0, 100.0, 0.0)))
    assert [model for model, _ in told.forecasts] == ["a"]
    assert told.forecasts[-1][1].quantile(0.5) <= 20
    pricing.seed("a", LengthHistogram((1000.0,), (0.0, 100.0)))
    assert len(told.forecasts) == 1


def test_what_was_saved_takes_its_place(told: Told) -> None:
    """And admission hears of it."""
    pricing, saved = Pricing(told), ModelPricing()
    saved.demand.output_lengths.learn(30, ended=True)
    pricing.restored("a", saved)
    assert pricing.of("a") is saved
    assert [model for model, _ in told.forecasts] == ["a"]
    assert pricing.models() == {"a": saved}


class Held:
    """A gatherer that waits until it is asked."""

    def __init__(self) -> None:
        self.reports: list[Callable[[], None]] = []

    def add(self, report: Callable[[], None]) -> None:
        self.reports.append(report)

    def tell(self) -> None:
        reports, self.reports = self.reports, []
        for report in reports:
            report()


def test_what_is_gathered_is_learned_by_whoever_looks(told: Told) -> None:
    """A demand may be older; but a request is followed no further from its end on."""
    held = Held()
    pricing = Pricing(told, held)
    lengths = pricing.of("a").demand.output_lengths
    looks: list[Callable[[], object]] = [
        pricing.snapshot,
        pricing.models,
        lambda: pricing.refresh(1.0),
        lambda: pricing.seed("b", LengthHistogram((10.0,), (0.0, 1.0))),
    ]
    for learnt, look in enumerate(looks):
        streamed = Streamed()
        answer = pricing.follow("a", SHAPE, streamed, runs_to_max=False)
        pricing.learn(answer, Usage(100, 20), End.STOP, events=2)
        pricing.unfollow(answer)
        streamed.output_tokens = 20
        assert (lengths.learnt, len(held.reports)) == (learnt, 1)
        look()
        assert (lengths.learnt, held.reports, answer.counted) == (learnt + 1, [], 0)


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_gathered_or_not_the_same_is_learned(seed: int) -> None:
    """To the last bit: the order of ends, of those that are taken back, and of looks at who runs is kept."""
    held = Held()
    pricings = [Pricing(lambda *_: None), Pricing(lambda *_: None, held)]
    for pricing in pricings:
        dice = random.Random(seed)
        running: list[tuple[Answer, Streamed]] = []
        for step in range(400):
            streamed = Streamed()
            running.append((pricing.follow("a", SHAPE, streamed, runs_to_max=dice.random() < 0.1), streamed))
            for _, some in dice.sample(running, len(running) // 2):
                some.output_tokens += dice.randrange(100)
            if len(running) > 8:
                answer, streamed = running.pop(dice.randrange(8))
                # What was expected of it may be older, and only its calibration is measured by that.
                answer.forecast = PRIOR_FORECAST
                how = dice.random()
                if how < 0.6:
                    usage = Usage(dice.randrange(1, 300), dice.randrange(500))
                    pricing.learn(answer, usage, dice.choice([End.STOP, End.LENGTH]), events=dice.randrange(9))
                elif how < 0.8:
                    pricing.learn_cut(answer, streamed.output_tokens)
                pricing.unfollow(answer)
            if dice.random() < 0.05:
                pricing.refresh(float(step))
    at_once, gathered = (remembered(pricing) for pricing in pricings)
    assert at_once == gathered
    assert pricings[0].snapshot() == pricings[1].snapshot()
