"""What a request will ask of the KV pool, before it is sent: prompt tokens with a bound, and a forecast of its output.

`Shape` is what can be seen of a request without a tokenizer; a `DemandModel` per served model turns it into a `Demand`
and learns from how requests ended. Both are values that nobody changes; one that is made for each request is not frozen
all the same, which would take three times as long.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from estimator.output_length import OutputForecast, OutputLengths
from estimator.prompt_length import PromptLengths, Terms

LEAST_SHARE = 0.5
"""Part of an estimated prompt that is taken to be there for certain; of an image nothing is, engines scale them."""


@dataclass(slots=True)
class Shape:
    """A request's size as it stands in its body."""

    text_bytes: int
    """Bytes of prompt text as it stands in the JSON, tool definitions in, image data out; 0 with `token_prompts`."""
    messages: int = 0
    images: int = 0
    token_prompts: tuple[int, ...] = ()
    """Lengths of prompts given as token ids: exact."""
    prompts: int = 1
    n: int = 1
    max_tokens: int | None = None
    """What the client set, or the endpoint's own default; None where the engine generates to the end of its context."""
    stream: bool = False
    output: bool = True
    """False for embeddings: nothing is generated."""
    counted_tokens: int | None = None
    """Tokens of all prompts together as a tokenizer counted them, if one is configured: exact."""

    @property
    def sequences(self) -> int:
        """Sequences that the engine runs for the request."""
        return self.n * (len(self.token_prompts) or self.prompts)

    @property
    def terms(self) -> Terms:
        """What the prompt's length is learnt from."""
        return (self.text_bytes, self.messages, self.prompts, self.images)


class End(enum.Enum):
    """Why an answer stopped growing."""

    STOP = "stop"
    """It came to its own end."""
    LENGTH = "length"
    """It hit `max_tokens`: it would have been longer."""
    CUT = "cut"
    """Its client left or its engine failed: it might have been longer."""


@dataclass(slots=True)
class Demand:
    """What admission reserves memory by."""

    n: int
    """Sequences generated per prompt."""
    prompts: tuple[int, ...]
    """Per prompt, a number of tokens that it rarely exceeds; its exact length where that is known."""
    prompt_tokens: int
    """Expected tokens of all prompts together."""
    output_tokens_max: int
    """Hard end of each sequence's output: with its prompt's bound never beyond the context."""
    output: OutputForecast
    prompt_tokens_least: int | None = None
    """So many tokens all prompts together have for certain; None where their length is known exactly."""

    @property
    def sequences(self) -> int:
        """Sequences that the engine runs for the request."""
        return self.n * len(self.prompts)

    def output_bound(self, risk: float, generated: int = 0) -> int:
        """Tokens that one sequence's output stays within, but for a chance of `risk`.

        Args:
            risk: 0 to 1; 0 gives the hard end.
            generated: tokens of it that are there already, without an end.
        """
        if generated >= self.output_tokens_max:
            return generated
        return min(self.output_tokens_max, self.output.quantile(1 - risk, generated))

    def output_bounds(self, *risks: float) -> list[int]:
        """`output_bound` of what has not begun yet, for several risks."""
        most, quantile = self.output_tokens_max, self.output.quantile
        return [min(most, quantile(1 - risk)) for risk in risks]


class DemandModel:
    """Prices the requests of one served model, and learns from those that ended."""

    __slots__ = ("output_lengths", "prompt_lengths")

    def __init__(
        self, prompt_lengths: PromptLengths | None = None, output_lengths: OutputLengths | None = None
    ) -> None:
        self.prompt_lengths = prompt_lengths or PromptLengths()
        self.output_lengths = output_lengths or OutputLengths()

    def estimate(self, shape: Shape, *, context_tokens: int) -> Demand:
        """Price a request on a model that takes `context_tokens` of prompt and output together.

        An exact length is passed on even where it exceeds the context. An estimated one is not: the engine itself
        turns longer prompts away at no cost, so they never hold memory, and a guess must not refuse a request.
        """
        least: int | None = None
        if shape.token_prompts:
            prompts = shape.token_prompts
            expected, longest = sum(prompts), max(prompts)
        elif shape.counted_tokens is not None:
            expected = shape.counted_tokens
            longest = -(-expected // shape.prompts)
            prompts = (longest,) * shape.prompts
        else:
            lengths, count = self.prompt_lengths, shape.prompts
            certain = estimate = lengths.expected(shape.terms)
            if shape.images:
                certain = lengths.expected((shape.text_bytes, shape.messages, count, 0))
            room = max(1, context_tokens - 1 if shape.output else context_tokens)
            longest = min(lengths.bound(estimate / count), room)
            prompts = (longest,) * count
            expected = min(math.ceil(estimate), longest * count)
            least = min(int(certain * LEAST_SHARE), expected)
        output_max = max(1, context_tokens - longest) if shape.output else 0
        if shape.max_tokens is not None and shape.max_tokens < output_max:
            output_max = max(1, shape.max_tokens)
        return Demand(shape.n, prompts, expected, output_max, self.output_lengths.forecast(), least)

    def grown(self, shape: Shape, output_tokens: int, counted: int) -> int:
        """A request that still runs has generated so many tokens in all its sequences; see `OutputLengths.grown`."""
        return self.output_lengths.grown(output_tokens // shape.sequences, counted)

    def learn(
        self, shape: Shape, *, prompt_tokens: int | None, output_tokens: int | None, end: End, counted: int = 0
    ) -> None:
        """Take in how a request ended.

        Args:
            shape: as it was estimated.
            prompt_tokens: of all prompts together, as the engine counted them; None if it did not say.
            output_tokens: of all sequences together, or so many as arrived; None if unknown.
            end: why its output stopped.
            counted: what `grown` said of it last.
        """
        if prompt_tokens is not None and not shape.token_prompts:
            self.prompt_lengths.learn(shape.terms, prompt_tokens)
        if output_tokens is None or not shape.output:
            return
        # Engines count all sequences of a request in one sum. Its mean is one observation, however many there were:
        # counted once per sequence it would make answers look more alike than they are.
        sequences = shape.sequences
        tokens = output_tokens if sequences == 1 else round(output_tokens / sequences)
        self.output_lengths.learn(tokens, ended=end is End.STOP, counted=counted)
