"""How long answers are expected to get, in the forms in which the outlook looks it up, for many at once."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np

from estimator.output_length import EDGES, OutputForecast
from gateway.admission.curves import Floats

BIN_EDGES = np.array(EDGES, dtype=np.float64)
LOOKED_UP_MORE = 512
"""Tokens by which a table of survival is longer than it need be: so it serves for longer."""
SURVIVAL_LEAST = 1e-250
"""Below it a ratio of two survivals is none."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How long answers are expected to get, for the rows that share it."""

    model: str
    """Empty for requests that were told not to end by themselves: nothing learned applies to them."""
    output: OutputForecast
    cumulative: Floats
    _survivals: list[Floats] = field(default_factory=list)

    @classmethod
    def of(cls, model: str, output: OutputForecast) -> Expectation:
        return cls(model, output, np.array(output.cumulative))

    def chance(self, generated: Floats, reached: Floats) -> Floats:
        """That answers which have got so far get beyond the other length: one row each."""
        before = np.interp(generated, BIN_EDGES, self.cumulative)[:, None]
        return np.exp(before - np.interp(reached, BIN_EDGES, self.cumulative))

    def chance_of_whole(self, generated: Floats, reached: Floats) -> Floats:
        """The same for whole tokens, which are looked up."""
        longest = int(reached.max(initial=0.0))
        if not self._survivals or len(self._survivals[0]) <= longest:
            tokens = np.arange(float(longest + LOOKED_UP_MORE))
            self._survivals[:] = [np.exp(-np.interp(tokens, BIN_EDGES, self.cumulative))]
        survival = self._survivals[0]
        if survival[longest] < SURVIVAL_LEAST:
            return self.chance(generated, reached)
        chance: Floats = survival[reached.astype(np.intp)]
        chance /= survival[generated.astype(np.intp)][:, None]
        return chance


def chance_of(output: OutputForecast, tokens: float) -> float:
    """That an answer gets beyond so many tokens, as the curves have it: between edges, hazards are spread evenly."""
    k = bisect_right(EDGES, tokens) - 1
    if k >= len(EDGES) - 1:
        return math.exp(-output.cumulative[-1])
    before, after = output.cumulative[k], output.cumulative[k + 1]
    return math.exp(-(before + (after - before) * (tokens - EDGES[k]) / (EDGES[k + 1] - EDGES[k])))
