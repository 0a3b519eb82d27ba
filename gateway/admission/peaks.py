"""The horizons at which a pool may be fullest: their sums are brought up to date one by one, when a decision asks.

A pool of many requests is tight at very few horizons. Whoever comes or goes is written down; a horizon takes that in
when it is looked at. And it is looked at only if its sum may be the largest: no request raises it by more than
what it holds there at most. So what decides is a handful of numbers, however many requests run and horizons there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from estimator.demand import Demand
from estimator.kv_cache import KvLayout
from estimator.output_length import OutputForecast
from estimator.prompt_length import BOUND_SDS
from gateway.admission.curves import Floats, distinct_prompts, excess_blocks
from gateway.admission.expectation import chance_of

SLACK_TOKENS = 4
"""A lease is held this much longer than its hard end: sequences that started some steps late end some steps late."""
PREFILL_TOKENS_PER_STEP = 1024
"""A prompt is read in chunks while others generate; its sequence starts that many steps late (a cautious figure)."""
ROUNDED_BLOCKS = 1e-6
"""More than any rounding error of the sums."""
CHANCE_LEAST = 1e-250
"""Below it a ratio of two chances is none."""

Held = tuple[float, float, float]
"""Blocks at one horizon: the most, the mean, and the variance."""


@dataclass(slots=True, eq=False)
class Newcomer:
    """A request that has no rows in the table: it came a moment ago, or is on trial."""

    demand: Demand
    output: OutputForecast
    ahead: float
    """Tokens after the last refresh at which it is counted in: its own horizons begin there."""
    generated: int
    """By then."""
    parts: list[tuple[int, int, int, int]]
    """Per length of its prompts: tokens, sequences, blocks by which the bound exceeds what is expected, and the tokens
    after which nothing is held any more."""
    blocks: int
    """Held when it is counted in, at most."""
    growth: int
    """Blocks that one of its sequences adds to that, at most."""
    held: dict[int, Held] = field(default_factory=dict)
    """At the horizons that have taken it in."""

    @classmethod
    def of(cls, layout: KvLayout, demand: Demand, output: OutputForecast, ahead: float, generated: int = 0) -> Newcomer:
        """Reckon what does not depend on the horizon."""
        parts, blocks = [], 0
        to_come = max(0, demand.output_tokens_max - generated)
        for prompt, sequences in distinct_prompts(demand).items():
            late = 0 if generated else prompt // PREFILL_TOKENS_PER_STEP
            excess = excess_blocks(layout, demand, prompt, sequences)
            parts.append((prompt, sequences, excess, to_come + SLACK_TOKENS + late))
            blocks += sequences * layout.blocks(prompt + generated)
        return cls(demand, output, ahead, generated, parts, blocks, layout.blocks(to_come))

    def at(self, layout: KvLayout, start: float, end: float) -> Held:
        """What it holds at a horizon that stands for the tokens from `start` to `end`; see `curves.curves_of`."""
        length = max(self.demand.output_tokens_max, self.generated)
        reach = min(self.generated + max(0.0, end - self.ahead), length)
        chance, whole = self._chance(reach), math.ceil(reach)
        most = mean = variance = 0.0
        for prompt, sequences, excess, live in self.parts:
            if start - self.ahead < live:
                bound = sequences * layout.blocks(prompt + whole)
                likely = max(0, bound - excess)
                expected = likely * chance
                most += bound
                mean += expected
                variance += expected * (likely - expected)
                if excess:
                    variance += chance * ((bound - likely) / BOUND_SDS) ** 2
        return most, mean, variance

    def _chance(self, reach: float) -> float:
        """That it gets beyond this length, having got so far."""
        chance = chance_of(self.output, reach)
        if not self.generated:
            return chance
        before = chance_of(self.output, self.generated)
        return chance / before if before > CHANCE_LEAST else 1.0


@dataclass(slots=True, eq=False)
class Gone:
    """A request that has ended: it had rows in the table, or was a newcomer."""

    rows: list[int]
    newcomer: Newcomer | None


@dataclass(slots=True, eq=False)
class Horizon:
    """The sums at one, with so many of the changes taken in."""

    start: float
    end: float
    growth: float
    """Blocks of an answer that long: no sequence grows by more until then."""
    most: float
    mean: float
    variance: float
    changes: int = 0


class Peaks:
    """The horizons of a table as it was settled last, and what has changed since."""

    def __init__(self, layout: KvLayout, horizons: list[Horizon], curves: Floats, z: float) -> None:
        """Begin without changes.

        Args:
            layout: of the pool.
            horizons: all of them, in order.
            curves: of the table, by kind, row and horizon; not changed while this is in use.
            z: more standard deviations than will be asked for.
        """
        self._layout, self._horizons, self._curves = layout, horizons, curves
        levels = [horizon.mean + z * math.sqrt(max(0.0, horizon.variance)) for horizon in horizons]
        self._ranked = sorted(zip(levels, range(len(levels)), strict=True), reverse=True)
        """Horizons with mean plus `z` deviations, the fullest first."""
        self._rise = (1.0 + math.hypot(1.0, z)) / 2.0
        """Blocks by which mean plus `z` deviations grow per block: the largest s + z * sqrt(s * (1 - s))."""
        self.changes: list[Newcomer | Gone] = []
        self.newcomers: dict[int, Newcomer] = {}
        """By ticket id: those among the changes that are still there."""
        self._blocks = self._sequences = self._growth = 0
        """Of all that have come; the last is that of the longest of them."""

    def came(self, ticket_id: int, newcomer: Newcomer) -> None:
        """One more."""
        self.newcomers[ticket_id] = newcomer
        self.changes.append(newcomer)
        self._blocks += newcomer.blocks
        self._sequences += newcomer.demand.sequences
        self._growth = max(self._growth, newcomer.growth)

    def left(self, ticket_id: int, rows: list[int]) -> None:
        """One less; its rows in the table if it has any."""
        newcomer = self.newcomers.pop(ticket_id, None)
        if rows or newcomer is not None:
            self.changes.append(Gone(rows, newcomer))

    def peak_with(self, trial: Newcomer, allowed: float, z: float) -> float:
        """Most blocks with one more request, as `curves.peak_of` has it; infinite if that is more than allowed."""
        peak, layout, ahead, last = -math.inf, self._layout, trial.ahead, self._horizons[-1]
        # No level rises by more, at any horizon; and at one horizon by no more than sequences can grow until there.
        begin = self._rise * (self._blocks + trial.blocks)
        sequences = self._rise * (self._sequences + trial.demand.sequences)
        rise = begin + sequences * max(self._growth, trial.growth)
        for level, k in self._ranked:
            if level + rise <= peak:
                break
            horizon = self._horizons[k]
            if level + begin + sequences * horizon.growth <= peak or (horizon.end < ahead and horizon is not last):
                continue
            if horizon.changes < len(self.changes):
                self._take_in(horizon, k)
            most, mean, variance = trial.at(layout, horizon.start, horizon.end)
            risky = horizon.mean + mean + z * math.sqrt(max(0.0, horizon.variance + variance))
            here = min(horizon.most + most, risky)
            if here > allowed + ROUNDED_BLOCKS:
                return math.inf
            peak = max(peak, here)
        return math.ceil(peak - ROUNDED_BLOCKS)

    def _take_in(self, horizon: Horizon, k: int) -> None:
        """Bring one horizon up to date."""
        for change in self.changes[horizon.changes :]:
            if isinstance(change, Newcomer):
                change.held[k] = held = change.at(self._layout, horizon.start, horizon.end)
                _add(horizon, held, 1)
            elif change.newcomer is not None:
                _add(horizon, change.newcomer.held[k], -1)
            else:
                for row in change.rows:
                    _add(horizon, self._curves[:, row, k].tolist(), -1)
        horizon.changes = len(self.changes)


def _add(horizon: Horizon, held: Held, sign: int) -> None:
    most, mean, variance = held
    horizon.most += sign * most
    horizon.mean += sign * mean
    horizon.variance += sign * variance
