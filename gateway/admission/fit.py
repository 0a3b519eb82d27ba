"""How large a request is on a pool: what it is predicted to need, what it could come to need, and what would just fit.

Three kinds of numbers. What admission reserves is computed with bounds of the prompts, what a client is advised of with
their expected lengths. What is refused for good is computed with what they have for certain: no request is turned away
for ever because of an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from estimator.output_length import OutputForecast
from gateway.domain import Capacity, Ticket


@dataclass(slots=True)
class Size:
    """One request on one pool, reckoned once: every decision asks for several of these. In blocks."""

    fits: bool
    """See `could_fit`."""
    most: int
    output_tokens: float
    """Mean of each sequence's output."""
    need: int | None = None
    """See `need_blocks`; None until it was asked for."""
    bound_tokens: int | None = None
    """See `reserved_output`; likewise."""

    @property
    def steps(self) -> float:
        """Steps for which it is expected to hold memory."""
        return max(1.0, self.output_tokens)


def size_of(capacity: Capacity, ticket: Ticket) -> Size:
    """All that costs little to know."""
    demand, allowed = ticket.demand, ticket.max_tokens
    prompts, end = demand.prompts, demand.output_tokens_max
    most = _blocks(capacity, ticket, prompts, end)
    longest = prompts[0] if len(prompts) == 1 else max(prompts, default=0)
    # What fits with bounds fits with what is certain.
    is_small = most <= capacity.blocks and longest + end <= capacity.sequence_tokens_max
    fits = (is_small and (allowed is None or allowed <= end or not end)) or could_fit(capacity, ticket)
    return Size(fits, most, demand.output.mean(cap=end))


def blocks_at(capacity: Capacity, ticket: Ticket, generated: int) -> int:
    """Blocks that a request holds when each of its sequences has generated so much."""
    return _blocks(capacity, ticket, ticket.demand.prompts, generated)


def reserved_output(capacity: Capacity, ticket: Ticket, risk: float) -> int:
    """Output per sequence that memory is reserved for: exceeded with no more than the accepted risk.

    Where an overflow would end everybody's answers, all that the client's own limit allows.
    """
    if capacity.overflow_is_fatal and ticket.max_tokens is not None:
        return ticket.demand.output_tokens_max
    return ticket.demand.output_bound(risk)


def need_blocks(capacity: Capacity, ticket: Ticket, risk: float) -> int:
    """Blocks that it is predicted to hold at its end."""
    return blocks_at(capacity, ticket, reserved_output(capacity, ticket, risk))


def most_growth(capacity: Capacity, ticket: Ticket) -> int:
    """Blocks that it holds at its hard end."""
    return blocks_at(capacity, ticket, ticket.demand.output_tokens_max)


def first_blocks(capacity: Capacity, ticket: Ticket) -> int:
    """Blocks without which it cannot even begin: its prompts and a first token."""
    return _blocks(capacity, ticket, _certain_prompts(ticket), min(1, ticket.demand.output_tokens_max))


def most_blocks(capacity: Capacity, ticket: Ticket) -> int:
    """Blocks that it could come to hold by its client's own bound."""
    return _blocks(capacity, ticket, _certain_prompts(ticket), _longest_output(ticket))


def could_fit(capacity: Capacity, ticket: Ticket) -> bool:
    """Whether an empty pool takes the request at the longest that its client allows."""
    prompts, output = _certain_prompts(ticket), _longest_output(ticket)
    if max(prompts, default=0) + output > capacity.sequence_tokens_max:
        return False
    return _blocks(capacity, ticket, prompts, output) <= capacity.blocks


def takes_tokens(capacity: Capacity) -> int:
    """Longest single sequence: by the engine's own limit and by its pool."""
    return min(capacity.sequence_tokens_max, capacity.layout.tokens_in(capacity.blocks))


def largest_output(capacity: Capacity, ticket: Ticket) -> int:
    """Largest output per sequence with which the request fits an empty pool; -1 if its prompt alone does not."""
    prompts = expected_prompts(ticket)
    low, high = -1, max(-1, takes_tokens(capacity) - max(prompts, default=0))
    while low < high:
        middle = (low + high + 1) // 2
        if _blocks(capacity, ticket, prompts, middle) <= capacity.blocks:
            low = middle
        else:
            high = middle - 1
    return low


def excess(capacity: Capacity, ticket: Ticket) -> tuple[int, int]:
    """Tokens that a request which can never fit asks for, and the limit they exceed: the pool's or a sequence's."""
    most = most_blocks(capacity, ticket)
    if most > capacity.blocks:
        return most * capacity.layout.block_tokens, capacity.tokens
    return _longest(ticket), capacity.sequence_tokens_max


def priced(ticket: Ticket, output: OutputForecast | None) -> Ticket:
    """The request with what is expected of its answer by now; as it is if that is not known, or does not apply."""
    if output is None or output is ticket.demand.output or ticket.runs_to_max:
        return ticket
    return replace(ticket, demand=replace(ticket.demand, output=output))


def cut(ticket: Ticket, output: int) -> Ticket:
    """The request with a shorter answer."""
    demand = replace(ticket.demand, output_tokens_max=min(ticket.demand.output_tokens_max, output))
    return replace(ticket, demand=demand, max_tokens=output, clamped=True)


def expected_prompts(ticket: Ticket) -> tuple[int, ...]:
    """Prompt tokens as expected, not as bounded."""
    return _scaled(ticket.demand.prompts, ticket.demand.prompt_tokens)


def _certain_prompts(ticket: Ticket) -> tuple[int, ...]:
    """Prompt tokens that are there whatever the estimate is worth."""
    least = ticket.demand.prompt_tokens_least
    return expected_prompts(ticket) if least is None else _scaled(ticket.demand.prompts, least)


def _scaled(prompts: tuple[int, ...], total: int) -> tuple[int, ...]:
    """The prompts in their proportions, so that together they have no more than this total."""
    if len(prompts) == 1:
        return prompts if prompts[0] <= total else (total,)
    bound = sum(prompts)
    return prompts if bound <= total else tuple(-(-prompt * total // bound) for prompt in prompts)


def _blocks(capacity: Capacity, ticket: Ticket, prompts: tuple[int, ...], output: int) -> int:
    blocks, n = capacity.layout.blocks, ticket.demand.n
    if len(prompts) == 1:
        return n * blocks(prompts[0] + output)
    return n * sum([blocks(prompt + output) for prompt in prompts])


def _longest(ticket: Ticket) -> int:
    return max(_certain_prompts(ticket), default=0) + _longest_output(ticket)


def _longest_output(ticket: Ticket) -> int:
    """Output per sequence that its client allows at least: one token if it set no bound, none for embeddings."""
    if ticket.demand.output_tokens_max == 0:
        return 0
    return 1 if ticket.max_tokens is None else ticket.max_tokens
