"""How long answers get: life tables learnt from them as they grow and end, and the forecasts read from these.

What is learnt of a model's answers is counted in bins of length, in two memories. The long one holds thousands of
answers and is pulled towards a log-normal prior; the short one follows what came in the last minutes and is pulled
towards the long one, so that in the tail, where a few hundred answers say little, the long one decides. On traces whose
mix of users drifts, the long memory alone has up to 57 % of the answers within what it takes for the median.

An answer counts in each bin as it passes it, while it still runs: a shift to long answers is seen before any of them
has ended. What was cut off, by `max_tokens` or by its client, has passed its bins like any other and ended in none. An
answer cut off inside a bin counts there with the part that it did pass: with none, a common `max_tokens` would look
like an end; with all of it, ends in the bin would be missed.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from estimator.life_table import LifeCounts, LifeTable

PRIOR_MEDIAN_TOKENS = 1000.0
PRIOR_SIGMA = 1.5
"""Spread of the logarithm. With the median it covers both chat (a few hundred tokens) and reasoning (many thousand)."""
PRIOR_WEIGHT = 20.0
"""Answers that the prior counts as in each bin of the long memory."""
PRIOR_ANSWERS = 5.0
"""Answers after which a log-normal of the model's own median and spread is as likely as the stated prior."""
PRIOR_CHANCE_LEAST = 0.003
"""Chance that the prior keeps. It decides for answers far longer than any seen: they may run to their limit."""
SIGMA_LEAST = 0.3
FIT_WEIGHT = 2.0
"""Answers that the prior counts as where median and spread are read off."""
LONG_WEIGHT = 40.0
"""Answers that the long memory counts as in each bin of the short one. Less would let the first few answers of a model
decide sooner than they should: what one memory takes from the prior the other takes again."""
HALF_LIFE = 2000
"""Answers after which an old one counts half in the long memory."""
SHORT_HALF_LIFE = 300
"""The same in the short one."""
REFRESH_MAX = 16
"""Answers between two forecasts at most, once there are many: one more answer among many moves nothing."""
NEWS_OF_A_BIN = 1 / 16
"""An answer that passes a bin and runs on says so much of what one says that ends."""
SEED_ANSWERS_MAX = 200.0
"""Answers that an engine's histogram counts as at most: its buckets are coarse, and those cut off count as ended."""
RESTORED_ANSWERS_MAX = 500.0
"""Answers that a saved memory counts as at most: services change while nobody looks."""
LENGTH_MAX = 2**62
"""Stands for a length of which nothing is known but that it is beyond the table."""
KEPT_MAX = 256
"""Means, and quantiles, that one forecast keeps."""
_TABLE_END_TOKENS = 131_072
_BIN_GROWTH = 1.06
_NORMAL_P90 = 1.2815515655446004

Key = TypeVar("Key")
Value = TypeVar("Value")


def _bin_edges() -> tuple[int, ...]:
    edges = [0]
    while edges[-1] < _TABLE_END_TOKENS:
        edges.append(min(_TABLE_END_TOKENS, max(edges[-1] + 1, round(edges[-1] * _BIN_GROWTH))))
    return tuple(edges)


EDGES = _bin_edges()
_BINS = len(EDGES) - 1
"""Bin k holds the lengths above `EDGES[k]` up to and including `EDGES[k + 1]`; the shortest have a bin each."""


_LOG_EDGES = tuple(math.log(edge) for edge in EDGES[1:])


_WIDTHS_FROM_LAST = tuple(after - before for before, after in pairwise(EDGES))[::-1]


def _log_normal(median_tokens: float, sigma: float) -> list[float]:
    """Per bin edge: the chance to get beyond it."""
    erfc, log_median, scale = math.erfc, math.log(median_tokens), 1 / (sigma * math.sqrt(2))
    return [1.0, *[0.5 * erfc((log_edge - log_median) * scale) for log_edge in _LOG_EDGES]]


def _hazards(reached: Sequence[float]) -> tuple[float, ...]:
    return tuple([1 - after / before for before, after in pairwise(reached)])


def _cumulative(hazards: Iterable[float]) -> list[float]:
    """Per bin edge: minus the logarithm of the chance to get beyond it."""
    log1p, total, cumulative = math.log1p, 0.0, [0.0]
    for hazard in hazards:
        total -= log1p(-hazard)
        cumulative.append(total)
    return cumulative


def _quantile(hazards: Sequence[float], cumulative: Sequence[float], target: float) -> int:
    """The length beyond which answers get with a chance whose logarithm is minus `target`."""
    k = bisect_left(cumulative, target) - 1
    if k >= _BINS:
        return LENGTH_MAX
    part = -math.expm1(cumulative[k] - target) / hazards[k]
    return math.ceil(EDGES[k] + part * (EDGES[k + 1] - EDGES[k]) - 1e-9)


_PRIOR = tuple(_log_normal(PRIOR_MEDIAN_TOKENS, PRIOR_SIGMA))
_PRIOR_HAZARDS = _hazards(_PRIOR)


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
    _means: dict[int | None, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of whole answers, by where they are cut off: limits that clients set are few, and the same all the time."""
    _quantiles: dict[float, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Of whole answers."""

    @classmethod
    def from_hazards(cls, hazards: tuple[float, ...]) -> OutputForecast:
        """Build the tables. One hazard per bin, each at least 0 and below 1."""
        rest, remaining = 0.0, [0.0]
        for width, hazard in zip(_WIDTHS_FROM_LAST, reversed(hazards), strict=True):
            rest = width * (1 - hazard / 2) + (1 - hazard) * rest
            remaining.append(rest)
        remaining.reverse()
        return cls(hazards, tuple(_cumulative(hazards)), tuple(remaining))

    def survival(self, t: int, generated: int = 0) -> float:
        """Chance that an answer with `generated` tokens and no end yet gets beyond `t` tokens."""
        if t <= generated:
            return 1.0
        return math.exp(self.log_survival(t) - self.log_survival(generated) if generated else self.log_survival(t))

    def chances(self, tokens: int) -> tuple[float, float]:
        """Of an answer to stay below so many tokens, and to get no further than these."""
        if tokens < 1:
            return 0.0, 0.0
        if tokens > _TABLE_END_TOKENS:
            beyond = 1 - math.exp(-self.cumulative[-1])
            return beyond, beyond
        k = bisect_left(EDGES, tokens) - 1
        reached, part = math.exp(-self.cumulative[k]), self.hazards[k] / (EDGES[k + 1] - EDGES[k])
        done = tokens - EDGES[k]
        return 1 - reached * (1 - part * (done - 1)), 1 - reached * (1 - part * done)

    def log_survival(self, tokens: int) -> float:
        """Logarithm of the chance to get beyond so many tokens: differences of it are what is conditional."""
        if tokens >= _TABLE_END_TOKENS:
            return -self.cumulative[-1]
        k = bisect_right(EDGES, tokens) - 1
        part = (tokens - EDGES[k]) / (EDGES[k + 1] - EDGES[k])
        return math.log1p(-self.hazards[k] * part) - self.cumulative[k]

    def quantile(self, q: float, generated: int = 0) -> int:
        """Length that an answer with `generated` tokens and no end yet stays within with chance `q`.

        At least `generated + 1`; `LENGTH_MAX` where the table cannot tell.
        """
        if not generated and (known := self._quantiles.get(q)) is not None:
            return known
        least = generated + 1
        if q <= 0:
            return least
        if q >= 1 or generated >= _TABLE_END_TOKENS:
            return LENGTH_MAX
        target = -self.log_survival(generated) - math.log1p(-q)
        tokens = max(least, _quantile(self.hazards, self.cumulative, target))
        if not generated:
            _keep(self._quantiles, q, tokens)
        return tokens

    def mean(self, generated: int = 0, cap: int | None = None) -> float:
        """Mean length of an answer with `generated` tokens and no end yet, if it is cut off at `cap` tokens.

        Beyond the table's end nothing is counted.
        """
        if not generated and (known := self._means.get(cap)) is not None:
            return known
        end = _TABLE_END_TOKENS if cap is None else min(cap, _TABLE_END_TOKENS)
        if end <= generated:
            return float(generated)
        beyond = self.survival(end, generated) * self._remaining_at(end)
        tokens = generated + self._remaining_at(generated) - beyond
        if not generated:
            _keep(self._means, cap, tokens)
        return tokens

    def _remaining_at(self, tokens: int) -> float:
        if tokens >= _TABLE_END_TOKENS:
            return 0.0
        k = bisect_right(EDGES, tokens) - 1
        width, hazard = EDGES[k + 1] - EDGES[k], self.hazards[k]
        part = (tokens - EDGES[k]) / width
        alive = 1 - hazard * part
        in_bin = (1 - part) * width * (alive + 1 - hazard) / 2
        return (in_bin + (1 - hazard) * self.remaining[k + 1]) / alive


def _keep(known: dict[Key, Value], key: Key, value: Value) -> None:
    if len(known) >= KEPT_MAX:
        known.clear()
    known[key] = value


PRIOR_FORECAST = OutputForecast.from_hazards(_PRIOR_HAZARDS)
"""What is expected of a model that has not answered yet."""
ENDLESS = OutputForecast.from_hazards((0.0,) * _BINS)
"""An answer that does not end by itself: only its limit ends it (`ignore_eos`)."""


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """Lengths of answers as an engine publishes them: of each bucket its upper bound, and the answers within it."""

    bounds: tuple[float, ...]
    """Tokens, ascending; the last bucket has none."""
    counts: tuple[float, ...]
    """Answers per bucket, not cumulated; one more than there are bounds."""


class OutputLengths:
    """Learns the lengths of one model's answers. Learning costs O(1) per bin passed, a new forecast O(bins)."""

    __slots__ = ("_forecast", "_learnt", "_long", "_news", "_short", "answers_between_max")

    def __init__(self) -> None:
        self.answers_between_max = REFRESH_MAX
        """Answers between two forecasts at most. Whoever sees that there are too many forecasts may raise it."""
        self._long = LifeTable(_BINS, HALF_LIFE)
        self._short = LifeTable(_BINS, SHORT_HALF_LIFE)
        self._learnt = 0
        self._news = 0.0
        self._forecast = PRIOR_FORECAST

    @property
    def learnt(self) -> int:
        """Answers that ended or were cut off so far; those that a saved memory stands for are among them."""
        return self._learnt

    def grown(self, tokens: int, counted: int) -> int:
        """An answer that still runs has got to so many tokens.

        Args:
            tokens: its length so far, as far as it was seen.
            counted: bins of it that were counted before: 0, then what this method returned last.

        Returns:
            Bins that are counted now; to be given to `learn` in the end.
        """
        passed = bisect_right(EDGES, tokens) - 1
        if passed > counted:
            self._count(counted, passed)
            self._news += NEWS_OF_A_BIN * (passed - counted)
            return passed
        return counted

    def forget(self, counted: int) -> None:
        """Nobody will ever say how an answer ended: what `grown` counted of it is taken back."""
        self._count(counted, 0)

    def learn(self, tokens: int, *, ended: bool, counted: int = 0) -> None:
        """Take in one answer at its end.

        Args:
            tokens: its length. Where it is less than was counted of the answer, the difference is taken back.
            ended: it came to its own end; False if it was cut off, by `max_tokens`, its client or a failure.
            counted: what `grown` said of it last.
        """
        if ended and tokens <= _TABLE_END_TOKENS:
            k = max(0, bisect_left(EDGES, tokens) - 1)
            if counted > k:
                self._count(counted, k)
                counted = k
            self._long.ended_in(k, since=counted)
            self._short.ended_in(k, since=counted)
        else:
            k = max(0, bisect_right(EDGES, tokens) - 1)
            self._count(counted, k)
            if k < _BINS:
                self._count(k, k + 1, (tokens - EDGES[k]) / (EDGES[k + 1] - EDGES[k]))
        self._long.fade()
        self._short.fade()
        self._learnt += 1
        self._news += 1

    def seed(self, histogram: LengthHistogram) -> bool:
        """Start from what an engine counted before anything was learnt here, as weak evidence; whether it was taken.

        Within a bucket, answers are spread as the prior has it; those of the last one count as longer than its start.
        """
        answers = sum(histogram.counts)
        if self._long.size or not 0 < answers < math.inf:
            return False
        weight = min(answers, SEED_ANSWERS_MAX) / answers
        low = 0.0
        for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
            self._spread(low, min(bound, _TABLE_END_TOKENS), count * weight)
            low = bound
        self._long.passed(0, bisect_right(EDGES, low) - 1, histogram.counts[-1] * weight)
        self._started(round(answers * weight))
        return True

    def counts(self) -> LifeCounts:
        """What is remembered, to be saved. The short memory is not: what came last is stale after a restart."""
        return self._long.counts()

    def restore(self, counts: LifeCounts) -> None:
        """Start from a saved memory.

        Raises:
            ValueError: it was saved over other bins, or cannot be.
        """
        self._long.restore(counts, RESTORED_ANSWERS_MAX)
        self._started(round(self._long.size))

    def forecast(self) -> OutputForecast:
        """The distribution as known now; the same object until enough was learnt to matter."""
        if self._news >= self.answers_between_max or self._news >= 1 + self._learnt // 8:
            long = self._long.hazards(self._parent(), PRIOR_WEIGHT)
            self._forecast = OutputForecast.from_hazards(self._short.hazards(long, LONG_WEIGHT))
            self._news = 0.0
        return self._forecast

    def _parent(self) -> tuple[float, ...]:
        """What is taken for lengths of which little was seen: first the prior, then mostly the model's own shape."""
        hazards = self._long.hazards(_PRIOR_HAZARDS, FIT_WEIGHT)
        cumulative = _cumulative(hazards)
        median, tenth = (max(1, _quantile(hazards, cumulative, -math.log1p(-q))) for q in (0.5, 0.9))
        sigma = math.log(max(tenth / median, 1.0)) / _NORMAL_P90
        own = _log_normal(median, min(max(sigma, SIGMA_LEAST), PRIOR_SIGMA))
        chance = max(PRIOR_CHANCE_LEAST, PRIOR_ANSWERS / (self._long.size + PRIOR_ANSWERS))
        rest = 1 - chance
        return _hazards([rest * mine + chance * prior for mine, prior in zip(own, _PRIOR, strict=True)])

    def _count(self, first: int, last: int, part: float = 1.0) -> None:
        self._long.passed(first, last, part)
        self._short.passed(first, last, part)

    def _started(self, answers: int) -> None:
        self._learnt = answers
        self._news = math.inf

    def _spread(self, low: float, high: float, count: float) -> None:
        """Count answers of which only two bounds are known: above `low`, up to `high`."""
        start, end = math.floor(low), math.floor(high)
        chance = PRIOR_FORECAST.survival(start) - PRIOR_FORECAST.survival(end)
        if count <= 0 or chance <= 0:
            return
        for k in range(bisect_right(EDGES, start) - 1, bisect_left(EDGES, end)):
            first, last = max(start, EDGES[k]), min(end, EDGES[k + 1])
            part = (PRIOR_FORECAST.survival(first) - PRIOR_FORECAST.survival(last)) / chance
            self._long.passed(0, k, count * part)
            self._long.ended_in(k, count * part)
