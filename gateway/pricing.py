"""What requests of each served model are expected to need, and what is learned from how they ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from estimator.demand import Demand, DemandModel, End, Shape
from estimator.output_length import ENDLESS, OutputForecast
from gateway.domain import Usage

CONTEXT_UNKNOWN_TOKENS = 131_072
"""Context of a model whose backends do not tell: the longest that is common. Only ever bounds a forecast."""
TOKENS_PER_EVENT_WEIGHT = 0.05


@dataclass(slots=True)
class ModelPricing:
    """One model's demand model, and how many tokens one event of its streams carries."""

    demand: DemandModel = field(default_factory=DemandModel)
    tokens_per_event: float = 1.0
    """Engines may put several tokens in an event, or none; learned from the usage at the end."""
    told: OutputForecast | None = None
    """The forecast that admission was told of last."""


class Pricing:
    """Demand models by public model name. Only models that are served have one, so their number is bounded.

    Args:
        on_learned: told when a model's answers are expected to be of another length than before.
    """

    def __init__(self, on_learned: Callable[[str, OutputForecast], None]) -> None:
        self._models: dict[str, ModelPricing] = {}
        self._on_learned = on_learned

    def of(self, model: str) -> ModelPricing:
        """The pricing of a served model."""
        pricing = self._models.get(model)
        if pricing is None:
            pricing = self._models[model] = ModelPricing()
        return pricing

    def demand(self, model: str, shape: Shape, *, context_tokens: int | None, runs_to_max: bool) -> Demand:
        """Price a request."""
        context = context_tokens or CONTEXT_UNKNOWN_TOKENS
        demand = self.of(model).demand.estimate(shape, context_tokens=context)
        if not runs_to_max:
            return demand
        return replace(demand, output=ENDLESS)

    def learn(self, model: str, shape: Shape, usage: Usage, end: End, *, events: int, runs_to_max: bool) -> None:
        """A request ended and its engine counted its tokens.

        Args:
            events: events that its stream had, 0 if it did not stream.
            runs_to_max: it was not free to end, so its length tells nothing.
        """
        pricing = self.of(model)
        output_tokens = None if runs_to_max else usage.output_tokens
        pricing.demand.learn(shape, prompt_tokens=usage.prompt_tokens, output_tokens=output_tokens, end=end)
        if events and usage.output_tokens:
            sample = usage.output_tokens / events
            pricing.tokens_per_event += TOKENS_PER_EVENT_WEIGHT * (sample - pricing.tokens_per_event)
        self._tell(model, pricing)

    def learn_cut(self, model: str, shape: Shape, output_tokens: int, *, runs_to_max: bool) -> None:
        """A request was cut off when so many tokens had come."""
        if output_tokens and not runs_to_max:
            pricing = self.of(model)
            pricing.demand.learn(shape, prompt_tokens=None, output_tokens=output_tokens, end=End.CUT)
            self._tell(model, pricing)

    def _tell(self, model: str, pricing: ModelPricing) -> None:
        forecast = pricing.demand.output_lengths.forecast()
        if forecast is not pricing.told:
            pricing.told = forecast
            self._on_learned(model, forecast)
