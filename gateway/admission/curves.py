"""Arithmetic of the outlook over arrays: blocks, peaks, and the horizons at which they are looked at."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from estimator.demand import Demand
from estimator.kv_cache import KvGroup, KvLayout
from estimator.prompt_length import BOUND_SDS
from gateway.admission.ledger import Lease

Floats = NDArray[np.float64]

GRID = (0, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 10240, 16384, 32768)
"""Horizons that are always looked at; the last stands for all that lies beyond."""
HARD_ENDS = 16
"""Most horizons beside the grid."""
UNSEEN_SHARE = 0.9
"""Of the fastest sequence's pace: what every other one is taken to have kept, whatever its stream shows."""
UNSEEN_TOKENS = 8
"""Behind that pace without anything being held back: a prompt that took some steps to read, a report under way."""
FEW_SHARE = 0.75
"""So much more, over the root of their number, is a deviation of a few requests worth: their sum is no normal one."""


def generated_unseen(lease: Lease, generated: int, now: float, fastest_tokens_per_s: float) -> int:
    """Tokens per sequence that a stream has likely generated beyond those it has shown; see `Outlook.refresh`.

    Never past its hard end: an engine that shows more memory than that holds it for somebody else.
    """
    if not lease.ticket.streamed:
        return 0
    likely = int(UNSEEN_SHARE * fastest_tokens_per_s * (now - lease.started_at)) - UNSEEN_TOKENS
    return max(0, min(likely, lease.ticket.demand.output_tokens_max) - generated)


def distinct_prompts(demand: Demand) -> dict[int, int]:
    """Sequences by the length of their prompt."""
    if len(demand.prompts) == 1:
        return {demand.prompts[0]: demand.n}
    counts: dict[int, int] = {}
    for prompt in demand.prompts:
        counts[prompt] = counts.get(prompt, 0) + demand.n
    return counts


def rows_of(lease: Lease) -> int:
    """Different lengths of its prompts."""
    prompts = lease.ticket.demand.prompts
    return 1 if len(prompts) == 1 else len(set(prompts))


def excess_blocks(layout: KvLayout, demand: Demand, prompt: int, sequences: int) -> int:
    """By how many blocks the bound of a prompt exceeds what is expected of it; 0 where its length is known."""
    bound = sum(demand.prompts)
    if demand.prompt_tokens >= bound:
        return 0
    return sequences * (layout.blocks(prompt) - layout.blocks(prompt * demand.prompt_tokens // bound))


def horizons_of(live_until: Floats) -> Floats:
    ends = np.unique(live_until)
    if len(ends) > HARD_ENDS:
        ends = ends[np.arange(HARD_ENDS) * (len(ends) - 1) // (HARD_ENDS - 1)]
    return np.union1d(GRID, ends)


def curves_of(most: Floats, chance: Floats, excess: Floats | int, *, out: Floats) -> None:
    """The most blocks that requests hold at each horizon, their mean, and their variance.

    Args:
        most: blocks with the bound of their prompts, if they are still there.
        chance: that they are.
        excess: blocks by which that bound exceeds what is expected of the prompts.
        out: the three, one after the other.
    """
    out[0] = most
    mean, variance = out[1], out[2]
    if not (excess if isinstance(excess, int) else excess.any()):
        np.multiply(most, chance, out=mean)
        np.subtract(most, mean, out=variance)
        variance *= mean
        return
    likely = most - excess
    np.maximum(likely, 0.0, out=likely)
    np.multiply(likely, chance, out=mean)
    # Of a coin toss, y*y*s*(1-s); and of the prompt's length, where it is only estimated.
    np.subtract(likely, mean, out=variance)
    variance *= mean
    most -= likely
    most /= BOUND_SDS
    most *= most
    most *= chance
    variance += most


def peak_of(sums: Floats, z: float) -> tuple[int, int]:
    """The largest mean plus `z` deviations, but at no horizon more than the most; and at which horizon that is.

    Args:
        sums: most, mean and variance; not changed.
        z: see above.
    """
    most, mean, variance = sums
    # Adding and taking away leaves a rounding error; a variance must not go below zero for it.
    levels = np.maximum(variance, 0.0)
    np.sqrt(levels, out=levels)
    levels *= z
    levels += mean
    np.minimum(most, levels, out=levels)
    highest = int(levels.argmax())
    return math.ceil(levels.item(highest) - 1e-6), highest


def blocks_of(layout: KvLayout, tokens: Floats) -> Floats:
    """`KvLayout.blocks` over an array."""
    if len(layout.distinct) == 1:
        group, count = layout.distinct[0]
        blocks = _group_blocks(group, tokens)
        return blocks if count == 1 else count * blocks
    blocks = np.zeros_like(tokens)
    for group, count in layout.distinct:
        blocks = blocks + count * _group_blocks(group, tokens)
    return blocks


def _group_blocks(group: KvGroup, tokens: Floats) -> Floats:
    if group.grows:
        blocks: Floats = tokens / group.block_tokens
        return np.ceil(blocks, out=blocks)
    if group.blocks_max <= 0:
        return np.zeros_like(tokens)
    if not group.window:
        return np.where(tokens > 0, float(group.blocks_max), 0.0)
    return np.minimum(np.ceil(tokens / group.block_tokens), float(group.blocks_max))


def deviations(z: float, requests: int) -> float:
    """Standard deviations above the mean that a peak of so many requests stands at."""
    return z * (1.0 + FEW_SHARE / math.sqrt(max(1, requests)))
