"""What requests of each served model are expected to need, and what is learned from how they grow and end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from estimator.calibration import Calibration
from estimator.demand import Demand, DemandModel, End, Shape
from estimator.output_length import ENDLESS, PRIOR_FORECAST, REFRESH_MAX, LengthHistogram, OutputForecast
from gateway.domain import Usage

CONTEXT_UNKNOWN_TOKENS = 131_072
"""Context of a model whose backends do not tell: the longest that is common. Only ever bounds a forecast."""
TOKENS_PER_EVENT_WEIGHT = 0.05
FITS_AT_ONCE = 4
"""Forecasts of one model between two calls of `Pricing.refresh` that are made as usual; for each so many more, twice as
many answers must have ended before the next. So the cost of forecasting does not grow with the answers per second."""
QUANTILES = (0.5, 0.9, 0.99)
"""Quantiles of the length of answers that are shown, with their coverage."""


class Progress(Protocol):
    """Who counts what a request has generated so far."""

    @property
    def output_tokens(self) -> int:
        """In all its sequences, as far as it has streamed; 0 where that is not seen."""
        ...


class Gatherer(Protocol):
    """Who does what nobody waits for, in its order, but some at a time."""

    def add(self, report: Callable[[], None]) -> None:
        """To be called soon."""

    def tell(self) -> None:
        """Call all of them now."""


class _AtOnce:
    """Gathers nothing."""

    def add(self, report: Callable[[], None]) -> None:
        report()

    def tell(self) -> None:
        pass


_AT_ONCE = _AtOnce()


@dataclass(slots=True, eq=False)
class Answer:
    """A request that an engine works on, in the eyes of who learns from it."""

    model: str
    shape: Shape
    forecast: OutputForecast = PRIOR_FORECAST
    """What was expected of its length when it was sent."""
    runs_to_max: bool = False
    """It is not free to end, so its length tells nothing."""
    counted: int = 0
    """What `OutputLengths.grown` said last."""


@dataclass(slots=True)
class ModelPricing:
    """One model's demand model, and how many tokens one event of its streams carries."""

    demand: DemandModel = field(default_factory=DemandModel)
    calibration: Calibration = field(default_factory=Calibration)
    tokens_per_event: float = 1.0
    """Engines may put several tokens in an event, or none; learned from the usage at the end."""
    told: OutputForecast = PRIOR_FORECAST
    """The forecast that admission was told of last."""
    fits: int = 0
    """Forecasts made since the start."""
    fitted_at: float | None = None
    """When the newest one was seen, on the clock of `Pricing.refresh`."""
    shown_fits: int = 0


@dataclass(frozen=True, slots=True)
class QuantileShown:
    """One quantile of a model's answers."""

    q: float
    tokens: int
    """The length that it is forecast as; `output_length.LENGTH_MAX` where that is beyond all bounds."""
    coverage: float | None
    """Share of answers that stayed within what was forecast for them; None while too little is known."""


@dataclass(frozen=True, slots=True)
class PricingShown:
    """What is known of one model's answers, for people and metrics."""

    model: str
    learnt: int
    """Answers that the forecast rests on, saved and seeded ones included."""
    compared: int
    """Answers that were held against their forecast."""
    quantiles: tuple[QuantileShown, ...]
    """Those of `QUANTILES`."""
    fits: int
    """Forecasts made since the start."""
    fitted_at: float | None
    """When the newest one was seen, on the clock that `Pricing.refresh` is given; None: never."""


class Pricing:
    """Demand models by public model name. Only models that are served have one, so their number is bounded.

    Args:
        on_learned: told when a model's answers are expected to be of another length than before.
        gatherer: learns from requests that are over some at a time; so demands may lag behind them for a moment, and
            what this shows does not.
    """

    def __init__(self, on_learned: Callable[[str, OutputForecast], None], gatherer: Gatherer = _AT_ONCE) -> None:
        self._models: dict[str, ModelPricing] = {}
        self._following: dict[Answer, Progress] = {}
        self._on_learned = on_learned
        self._gatherer = gatherer

    def of(self, model: str) -> ModelPricing:
        """The pricing of a served model."""
        pricing = self._models.get(model)
        if pricing is None:
            pricing = self._models[model] = ModelPricing()
        return pricing

    def models(self) -> dict[str, ModelPricing]:
        """All that there are, with all that was learned."""
        self._gatherer.tell()
        return dict(self._models)

    def demand(self, model: str, shape: Shape, *, context_tokens: int | None, runs_to_max: bool) -> Demand:
        """Price a request."""
        context = context_tokens or CONTEXT_UNKNOWN_TOKENS
        demand = self.of(model).demand.estimate(shape, context_tokens=context)
        if not runs_to_max:
            return demand
        return replace(demand, output=ENDLESS)

    def follow(self, model: str, shape: Shape, progress: Progress, *, runs_to_max: bool) -> Answer:
        """A request is sent to an engine: its output counts as it grows, until it is learned or `unfollow`ed."""
        answer = Answer(model, shape, self.of(model).demand.output_lengths.forecast(), runs_to_max)
        if shape.output and not runs_to_max:
            self._following[answer] = progress
        return answer

    def unfollow(self, answer: Answer) -> None:
        """A request is over. If it was not learned, what was counted of it is taken back.

        Ends that are never told would make answers look longer than they are.
        """
        if self._following.pop(answer, None) is not None:
            self._gatherer.add(partial(self._forget, answer))

    def refresh(self, now: float) -> None:
        """Count how far the running answers have come: about once a second.

        Args:
            now: seconds on any clock; `PricingShown.fitted_at` is on the same.
        """
        self._gatherer.tell()
        for answer, progress in self._following.items():
            demand = self._models[answer.model].demand
            answer.counted = demand.grown(answer.shape, progress.output_tokens, answer.counted)
        for model, pricing in self._models.items():
            shown, pricing.shown_fits = pricing.shown_fits, pricing.fits
            pricing.demand.output_lengths.answers_between_max = REFRESH_MAX
            self._tell(model, pricing)
            if pricing.fits != shown:
                pricing.shown_fits, pricing.fitted_at = pricing.fits, now

    def learn(self, answer: Answer, usage: Usage, end: End, *, events: int) -> None:
        """A request ended and its engine counted its tokens.

        Args:
            answer: as it was followed.
            usage: what the engine counted.
            end: why its output stopped.
            events: events that its stream had, 0 if it did not stream.
        """
        self._following.pop(answer, None)
        self._gatherer.add(partial(self._learn, answer, usage.prompt_tokens, usage.output_tokens, end, events))

    def learn_cut(self, answer: Answer, output_tokens: int) -> None:
        """A request was cut off when so many tokens had come."""
        if output_tokens and not answer.runs_to_max:
            self._following.pop(answer, None)
            self._gatherer.add(partial(self._learn, answer, None, output_tokens, End.CUT, 0))

    def seed(self, model: str, histogram: LengthHistogram) -> None:
        """An engine has counted answers of a model before; taken where nothing else is known."""
        self._gatherer.tell()
        pricing = self.of(model)
        if pricing.demand.output_lengths.seed(histogram):
            self._tell(model, pricing)

    def restored(self, model: str, pricing: ModelPricing) -> None:
        """What was saved of a model takes the place of what is known of it."""
        self._models[model] = pricing
        self._tell(model, pricing)

    def snapshot(self) -> tuple[PricingShown, ...]:
        """Every model of which anything is known, by name."""
        self._gatherer.tell()
        return tuple(_shown(model, pricing) for model, pricing in sorted(self._models.items()))

    def _learn(self, answer: Answer, prompt_tokens: int | None, output_tokens: int, end: End, events: int) -> None:
        """Learn from a request that is not followed any more."""
        pricing = self.of(answer.model)
        told = None if answer.runs_to_max else output_tokens
        pricing.demand.learn(
            answer.shape, prompt_tokens=prompt_tokens, output_tokens=told, end=end, counted=answer.counted
        )
        # The mean of several sequences varies less than any one of them: it says nothing about quantiles.
        if told is not None and answer.shape.output and answer.shape.sequences == 1:
            pricing.calibration.observe(answer.forecast, told, ended=end is End.STOP)
        if events and output_tokens:
            pricing.tokens_per_event += TOKENS_PER_EVENT_WEIGHT * (output_tokens / events - pricing.tokens_per_event)
        self._tell(answer.model, pricing)

    def _forget(self, answer: Answer) -> None:
        self._models[answer.model].demand.output_lengths.forget(answer.counted)

    def _tell(self, model: str, pricing: ModelPricing) -> None:
        lengths = pricing.demand.output_lengths
        forecast = lengths.forecast()
        if forecast is not pricing.told:
            pricing.told = forecast
            pricing.fits += 1
            recent = pricing.fits - pricing.shown_fits
            lengths.answers_between_max = REFRESH_MAX * 2 ** (recent // FITS_AT_ONCE)
            self._on_learned(model, forecast)


def _shown(model: str, pricing: ModelPricing) -> PricingShown:
    return PricingShown(
        model=model,
        learnt=pricing.demand.output_lengths.learnt,
        compared=pricing.calibration.samples,
        quantiles=tuple(QuantileShown(q, pricing.told.quantile(q), pricing.calibration.coverage(q)) for q in QUANTILES),
        fits=pricing.fits,
        fitted_at=pricing.fitted_at,
    )
