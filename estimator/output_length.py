"""How long answers get: a hazard table learnt from those that ended, and the forecasts read from it.

The state is two counts per bin of lengths: answers that ended in it, and answers that were cut off in it while still
going. The chance to end in a bin, given that it was reached, is the first count over all that reached it, pulled
towards a log-normal prior by `PRIOR_WEIGHT` pseudo-answers. That is the actuarial life table (Cutler and Ederer, 1958).
An answer that was cut off inside a bin counts as having reached it with the part of the bin that it did survive: with
none, a common `max_tokens` would look like an end; with all of it, ends in the bin would be missed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import pairwise

PRIOR_MEDIAN_TOKENS = 1000.0
PRIOR_SIGMA = 1.5
"""Spread of the logarithm. With the median it covers both chat (a few hundred tokens) and reasoning (many thousand)."""
PRIOR_WEIGHT = 20.0
"""Answers that the prior counts as, in each bin."""
HALF_LIFE = 2000
"""Answers after which an old one counts half."""
REFRESH_MAX = 16
"""Answers between two forecasts at most, once there are many: one more answer among many moves nothing."""
LENGTH_MAX = 2**62
"""Stands for a length of which nothing is known but that it is beyond the table."""
_TABLE_END_TOKENS = 131_072
_BIN_GROWTH = 1.16
_WEIGHT_MAX = 2.0**40
"""Weights grow instead of all counts being made smaller; at this size everything is scaled back."""


def _bin_edges() -> tuple[int, ...]:
    edges = [0, 8]
    while edges[-1] < _TABLE_END_TOKENS:
        edges.append(min(_TABLE_END_TOKENS, max(edges[-1] + 1, round(edges[-1] * _BIN_GROWTH))))
    return tuple(edges)


_EDGES = _bin_edges()
_BINS = len(_EDGES) - 1
"""Bin k holds the lengths above `_EDGES[k]` up to and including `_EDGES[k + 1]`."""


def _prior_hazards() -> tuple[float, ...]:
    def survival(tokens: int) -> float:
        if tokens == 0:
            return 1.0
        return 0.5 * math.erfc(math.log(tokens / PRIOR_MEDIAN_TOKENS) / (PRIOR_SIGMA * math.sqrt(2)))

    reached = [survival(edge) for edge in _EDGES]
    return tuple(1 - after / before for before, after in pairwise(reached))


_PRIOR_HAZARDS = _prior_hazards()


@dataclass(frozen=True, slots=True)
class OutputForecast:
    """Distribution of one answer's length in tokens, given how much of it is there. Immutable; reads cost O(log bins).

    Within a bin, ends are spread evenly. Everything conditional is computed from sums of hazards, so that it stays
    exact far out in the tail where the survival itself is next to nothing.
    """

    hazards: tuple[float, ...]
    """Per bin: the chance to end in it, given that it was reached."""
    cumulative: tuple[float, ...]
    """Per bin edge: minus the logarithm of the chance to get beyond it."""
    remaining: tuple[float, ...]
    """Per bin edge: mean tokens still to come, counted up to the table's end."""

    @classmethod
    def from_hazards(cls, hazards: tuple[float, ...]) -> OutputForecast:
        """Build the tables. One hazard per bin, each at least 0 and below 1."""
        cumulative = [0.0]
        for hazard in hazards:
            cumulative.append(cumulative[-1] - math.log1p(-hazard))
        remaining = [0.0]
        for k in range(_BINS - 1, -1, -1):
            width = _EDGES[k + 1] - _EDGES[k]
            remaining.append(width * (1 - hazards[k] / 2) + (1 - hazards[k]) * remaining[-1])
        return cls(hazards, tuple(cumulative), tuple(reversed(remaining)))

    def survival(self, t: int, generated: int = 0) -> float:
        """Chance that an answer with `generated` tokens and no end yet gets beyond `t` tokens."""
        if t <= generated:
            return 1.0
        return math.exp(self._cumulative_at(generated) - self._cumulative_at(t))

    def quantile(self, q: float, generated: int = 0) -> int:
        """Length that an answer with `generated` tokens and no end yet stays within with chance `q`.

        At least `generated + 1`; `LENGTH_MAX` where the table cannot tell.
        """
        least = generated + 1
        if q <= 0:
            return least
        if q >= 1 or generated >= _TABLE_END_TOKENS:
            return LENGTH_MAX
        target = self._cumulative_at(generated) - math.log1p(-q)
        k = bisect_left(self.cumulative, target) - 1
        if k >= _BINS:
            return LENGTH_MAX
        part = -math.expm1(self.cumulative[k] - target) / self.hazards[k]
        tokens = math.ceil(_EDGES[k] + part * (_EDGES[k + 1] - _EDGES[k]) - 1e-9)
        return max(least, tokens)

    def mean(self, generated: int = 0, cap: int | None = None) -> float:
        """Mean length of an answer with `generated` tokens and no end yet, if it is cut off at `cap` tokens.

        Beyond the table's end nothing is counted.
        """
        end = _TABLE_END_TOKENS if cap is None else min(cap, _TABLE_END_TOKENS)
        if end <= generated:
            return float(generated)
        beyond = self.survival(end, generated) * self._remaining_at(end)
        return generated + self._remaining_at(generated) - beyond

    def _cumulative_at(self, tokens: int) -> float:
        if tokens >= _TABLE_END_TOKENS:
            return self.cumulative[-1]
        k = bisect_right(_EDGES, tokens) - 1
        part = (tokens - _EDGES[k]) / (_EDGES[k + 1] - _EDGES[k])
        return self.cumulative[k] - math.log1p(-self.hazards[k] * part)

    def _remaining_at(self, tokens: int) -> float:
        if tokens >= _TABLE_END_TOKENS:
            return 0.0
        k = bisect_right(_EDGES, tokens) - 1
        width, hazard = _EDGES[k + 1] - _EDGES[k], self.hazards[k]
        part = (tokens - _EDGES[k]) / width
        alive = 1 - hazard * part
        in_bin = (1 - part) * width * (alive + 1 - hazard) / 2
        return (in_bin + (1 - hazard) * self.remaining[k + 1]) / alive


PRIOR_FORECAST = OutputForecast.from_hazards(_PRIOR_HAZARDS)
"""What is expected of a model that has not answered yet."""
ENDLESS = OutputForecast.from_hazards((0.0,) * _BINS)
"""An answer that does not end by itself: only its limit ends it (`ignore_eos`)."""


class OutputLengths:
    """Learns the lengths of one model's answers. Learning costs O(1), a new forecast O(bins)."""

    __slots__ = ("_cut", "_cut_part", "_ended", "_forecast", "_learnt", "_unseen", "_weight")

    def __init__(self) -> None:
        self._ended = [0.0] * _BINS
        self._cut = [0.0] * (_BINS + 1)
        self._cut_part = [0.0] * _BINS
        self._weight = 1.0
        self._learnt = 0
        self._unseen = 0
        self._forecast = PRIOR_FORECAST

    @property
    def learnt(self) -> int:
        """Answers seen so far."""
        return self._learnt

    def learn(self, tokens: int, *, ended: bool, weight: float = 1.0) -> None:
        """Take in one answer.

        Args:
            tokens: its length.
            ended: it came to its own end; False if it was cut off, by `max_tokens`, its client or a failure.
            weight: what it counts, 1 for an ordinary answer.
        """
        if ended and tokens <= _TABLE_END_TOKENS:
            self._ended[max(0, bisect_left(_EDGES, tokens) - 1)] += self._weight * weight
        else:
            self._learn_cut(tokens, self._weight * weight)
        self._learnt += 1
        self._unseen += 1
        self._weight *= 2 ** (1 / HALF_LIFE)
        if self._weight > _WEIGHT_MAX:
            self._scale_back()

    def _learn_cut(self, tokens: int, weight: float) -> None:
        k = max(0, bisect_right(_EDGES, tokens) - 1)
        self._cut[k] += weight
        if k < _BINS:
            self._cut_part[k] += weight * (tokens - _EDGES[k]) / (_EDGES[k + 1] - _EDGES[k])

    def forecast(self) -> OutputForecast:
        """The distribution as known now; the same object until enough was learnt to matter."""
        if self._unseen and self._unseen >= min(REFRESH_MAX, 1 + self._learnt // 8):
            self._forecast = OutputForecast.from_hazards(self._hazards())
            self._unseen = 0
        return self._forecast

    def _hazards(self) -> tuple[float, ...]:
        prior_weight = PRIOR_WEIGHT * self._weight
        hazards = [0.0] * _BINS
        passed = self._cut[_BINS]
        for k in range(_BINS - 1, -1, -1):
            ended = self._ended[k]
            reached = passed + ended + self._cut_part[k]
            hazards[k] = (ended + prior_weight * _PRIOR_HAZARDS[k]) / (reached + prior_weight)
            passed += ended + self._cut[k]
        return tuple(hazards)

    def _scale_back(self) -> None:
        for counts in (self._ended, self._cut, self._cut_part):
            counts[:] = [count / self._weight for count in counts]
        self._weight = 1.0
