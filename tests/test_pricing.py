from __future__ import annotations

from itertools import pairwise

import pytest

from estimator.demand import End, Shape
from estimator.output_length import ENDLESS, OutputForecast
from gateway.domain import Usage
from gateway.pricing import CONTEXT_UNKNOWN_TOKENS, Pricing

SHAPE = Shape(400, messages=1, max_tokens=1_000)


class Told:
    """Who is told of new forecasts."""

    def __init__(self) -> None:
        self.forecasts: list[tuple[str, OutputForecast]] = []

    def __call__(self, model: str, forecast: OutputForecast) -> None:
        self.forecasts.append((model, forecast))


@pytest.fixture
def told() -> Told:
    return Told()


def test_models_are_priced_apart(told: Told) -> None:
    """What is learned of one says nothing of another."""
    pricing = Pricing(told)
    fresh = pricing.demand("b", SHAPE, context_tokens=4096, runs_to_max=False)
    for _ in range(100):
        pricing.learn("a", SHAPE, Usage(100, 20), End.STOP, events=0, runs_to_max=False)
    assert pricing.demand("b", SHAPE, context_tokens=4096, runs_to_max=False) == fresh
    learned = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    assert learned.output_bound(0.5) < fresh.output_bound(0.5)
    assert abs(learned.prompt_tokens - 100) < abs(fresh.prompt_tokens - 100)


def test_admission_is_told_when_a_forecast_changes(told: Told) -> None:
    """Of the model that it changed for, and with the forecast that requests are priced by from then on."""
    pricing = Pricing(told)
    for _ in range(100):
        pricing.learn("a", SHAPE, Usage(100, 20), End.STOP, events=0, runs_to_max=False)
    assert {model for model, _ in told.forecasts} == {"a"}
    priced = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    assert told.forecasts[-1][1] is priced.output
    forecasts = [forecast for _, forecast in told.forecasts]
    assert all(before is not after for before, after in pairwise(forecasts))


def test_a_request_that_runs_to_its_end_is_priced_so_and_teaches_no_length(told: Told) -> None:
    """Its length is a setting, not an observation; its prompt still counts."""
    pricing = Pricing(told)
    demand = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=True)
    assert demand.output is ENDLESS
    assert demand.output_bound(0.5) == demand.output_tokens_max == 1_000
    before = pricing.of("a").demand.output_lengths.forecast()
    pricing.learn("a", SHAPE, Usage(100, 1_000), End.LENGTH, events=0, runs_to_max=True)
    pricing.learn_cut("a", SHAPE, 900, runs_to_max=True)
    assert pricing.of("a").demand.output_lengths.forecast() is before


def test_an_unknown_context_bounds_the_forecast_only(told: Told) -> None:
    """A hosted model does not tell its own."""
    demand = Pricing(told).demand("a", Shape(400), context_tokens=None, runs_to_max=False)
    assert demand.output_tokens_max + max(demand.prompts) == CONTEXT_UNKNOWN_TOKENS


def test_tokens_per_event_follow_what_streams_carry(told: Told) -> None:
    """Slowly, and only from streams that say how many tokens they had."""
    pricing = Pricing(told)
    pricing.learn("a", SHAPE, Usage(100, 40), End.STOP, events=10, runs_to_max=False)
    assert pricing.of("a").tokens_per_event == pytest.approx(1.15)
    for usage, events in ((Usage(100, 40), 0), (Usage(100, 0), 10)):
        pricing.learn("a", SHAPE, usage, End.STOP, events=events, runs_to_max=False)
    assert pricing.of("a").tokens_per_event == pytest.approx(1.15)
    for _ in range(200):
        pricing.learn("a", SHAPE, Usage(100, 40), End.STOP, events=10, runs_to_max=False)
    assert pricing.of("a").tokens_per_event == pytest.approx(4, rel=0.01)


def test_a_request_that_was_cut_teaches_that_answers_get_at_least_so_long(told: Told) -> None:
    """But one cut before anything came teaches nothing."""
    pricing = Pricing(told)
    pricing.learn_cut("a", SHAPE, 0, runs_to_max=False)
    assert told.forecasts == []
    for _ in range(300):
        pricing.learn("a", SHAPE, Usage(100, 20), End.STOP, events=0, runs_to_max=False)
    before = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    for _ in range(100):
        pricing.learn_cut("a", SHAPE, 900, runs_to_max=False)
    after = pricing.demand("a", SHAPE, context_tokens=4096, runs_to_max=False)
    assert after.output_bound(0.05) > before.output_bound(0.05)
