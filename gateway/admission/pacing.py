"""How fast a pool gives room: what a request costs it over time, and how far starts should lie apart under a backlog.

The unit of work is the token-step: one token's memory for the time of one engine step.
"""

from __future__ import annotations

from gateway.domain import Ticket

PACE_FILL = 0.95
"""Part of the pool that evenly spaced starts aim to fill: whole blocks keep the sum from standing at the brim."""


def work_token_steps(ticket: Ticket, steps: float | None = None) -> float:
    """What a request is expected to hold, summed over the steps that it takes: it grows evenly from prompt to end.

    Args:
        ticket: the request.
        steps: see `hold_steps`; where it is known already.
    """
    demand = ticket.demand
    steps = hold_steps(ticket) if steps is None else steps
    return (demand.n * demand.prompt_tokens + demand.sequences * steps / 2) * steps


def hold_steps(ticket: Ticket) -> float:
    """Steps for which a request is expected to hold memory."""
    demand = ticket.demand
    return max(1.0, demand.output.mean(cap=demand.output_tokens_max))


def spacing_steps(first_blocks: int, last_blocks: int, steps: float, allowed_blocks: int) -> float:
    """Steps between starts of requests of one kind that keep a pool full and no fuller.

    Requests that start together end together: at their end the pool is full, before that it is not. Started at the
    rate at which the pool can serve them (its blocks over the block-steps that one needs), they stand at all stages of
    growth at once, and their sum stays near the pool's size all the time.
    """
    return (first_blocks + last_blocks) / 2 * steps / (PACE_FILL * max(1, allowed_blocks))
