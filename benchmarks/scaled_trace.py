"""A recorded trace made small enough for a toy engine: its lengths divided, its arrivals stretched or squeezed.

How long an answer gets is told to the engine alone, as it is in life by the model and not by the client: the last two
tokens of a prompt spell it, and `ends_as_asked.py` makes the model end there. What stands in the request, and what a
gateway sees of it, is a `max_tokens` as clients set it: mostly all the room that is left, sometimes a power of two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.simulation.workload import Request, Row, Trace, at_rate
from tests.engines.tiny_model import FIRST_TEXT_TOKEN

BYTES = 256
MARK_TOKENS = 2
ROUND_MAX_TOKENS_SHARE = 0.25
"""Part of the clients that set `max_tokens` to the next power of two above what they get. The others leave it wide."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How lengths are made to fit a context."""

    prompt_divisor: float
    output_divisor: float
    context_tokens: int

    def requests(self, trace: Trace, seed: int) -> list[Request]:
        """All requests of the trace that were answered."""
        source = random.Random(seed)
        first_s = trace.rows[0].arrived_s
        return [
            self._fitted(row, row.output_tokens, row.arrived_s - first_s, source)
            for row in trace.rows
            if row.output_tokens is not None
        ]

    def _fitted(self, row: Row, output_tokens: int, arrives_s: float, source: random.Random) -> Request:
        """What is still too long is cut, prompts to half of the context."""
        prompt = min(max(round(row.prompt_tokens / self.prompt_divisor), MARK_TOKENS), self.context_tokens // 2)
        room = self.context_tokens - prompt
        output = min(max(round(output_tokens / self.output_divisor), 1), room)
        is_round = source.uniform(0, 1) < ROUND_MAX_TOKENS_SHARE
        max_tokens = min(room, 1 << output.bit_length()) if is_round else room
        return Request(arrives_s, prompt, output, max_tokens)


def first_of(requests: list[Request], requests_per_s: float, duration_s: float) -> list[Request]:
    """So many requests as come at this mean rate in this time, with the bursts and lulls that they had.

    Raises:
        ValueError: there are too few.
    """
    count = round(requests_per_s * duration_s)
    if not 1 < count <= len(requests):
        raise ValueError(f"the trace has {len(requests)} requests, and {count} are needed")
    return at_rate(requests[:count], requests_per_s)


def held_tokens(request: Request, block_tokens: int) -> float:
    """KV tokens that a request holds on average over the time in which it generates."""
    return request.prompt_tokens + (request.output_tokens + block_tokens) / 2


def prompt_ids(request: Request, source: random.Random) -> list[int]:
    """A prompt of the right length, unlike any other, which spells how long its answer gets."""
    text = source.choices(range(FIRST_TEXT_TOKEN, FIRST_TEXT_TOKEN + BYTES), k=request.prompt_tokens - MARK_TOKENS)
    return [*text, *(FIRST_TEXT_TOKEN + digit for digit in divmod(request.output_tokens, BYTES))]


def spelt_output_tokens(prompt: Sequence[int]) -> int:
    """How long the answer to a prompt of `prompt_ids` gets."""
    high, low = prompt[-MARK_TOKENS:]
    return (high - FIRST_TEXT_TOKEN) * BYTES + low - FIRST_TEXT_TOKEN
