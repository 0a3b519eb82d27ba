"""How far forecasts of answers' lengths can be believed: measured coverage of their quantiles.

A forecast is calibrated if half of all answers stay within its median, nine in ten within its 90th percentile, and so
on. Each answer is placed at the chance that its forecast gave to lengths up to its own. These places are counted in a
life table, so that an answer that was cut off counts as what it is: it got past each place before its cut, and what it
would have become is left open. Counting only the answers that ended would measure how soon answers are cut.

Lengths are whole numbers: where one answer in ten has 9 tokens, no bound has exactly half of them within. So an answer
is spread evenly over the chances that its forecast gave to its very length (Czado, Gneiting and Held 2009, "Predictive
model assessment for count data").
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

from estimator.life_table import LifeCounts, LifeTable
from estimator.output_length import EDGES, OutputForecast

HALF_LIFE = 1000
"""Answers after which an old one counts half."""
ANSWERS_MIN = 20.0
"""Answers from which on coverage is told; and so many that one of them is expected beyond the quantile."""
SEEN_SHARE_MIN = 0.2
"""Of the answers that get so far, so many must not have been cut off before: with fewer, the rest is a guess."""
TOGETHER_MAX = 32
"""Answers that are placed at once: many in a row cost a fraction of what each does amid all else of its request."""
LEVELS = (*(k / 20 for k in range(19)), 0.92, 0.94, 0.96, 0.97, 0.98, 0.985, 0.99, 0.993, 0.996, 1.0)
"""Borders of the table's bins."""
_BINS = len(LEVELS) - 1
_WIDTHS = tuple(above - below for below, above in pairwise(LEVELS))
_NO_PARENT = (0.0,) * _BINS


class Calibration:
    """Compares forecasts with what became of them, the newest most.

    Args:
        half_life: answers after which an old one counts half.
    """

    __slots__ = ("_new", "_observed", "_table")

    def __init__(self, half_life: float = HALF_LIFE) -> None:
        self._table = LifeTable(_BINS, half_life)
        self._new: list[tuple[OutputForecast, int, bool]] = []
        """Those that were observed and are not in the table yet."""
        self._observed = 0

    @property
    def samples(self) -> int:
        """Answers compared so far, those before the last restart included."""
        return self._observed

    def observe(self, forecast: OutputForecast, actual: int, *, ended: bool) -> None:
        """An answer is over.

        Args:
            forecast: what was expected when it was sent to its engine.
            actual: its tokens.
            ended: it came to its own end; False if it was cut off there.
        """
        self._new.append((forecast, actual, ended))
        self._observed += 1
        if len(self._new) >= TOGETHER_MAX:
            self._place()

    def coverage(self, q: float) -> float | None:
        """Share of answers within what was forecast as their quantile `q`; None while too little shows it."""
        self._place()
        reached = self._table.counts().reached
        size = reached[0]
        if size < ANSWERS_MIN or size * (1 - q) < 1:
            return None
        beyond = 1.0
        for k, hazard in enumerate(self._table.hazards(_NO_PARENT, 0.0)):
            if LEVELS[k] >= q:
                break
            if size * beyond >= 1 and reached[k] < SEEN_SHARE_MIN * size * beyond:
                return None
            part = min(1.0, (q - LEVELS[k]) / (LEVELS[k + 1] - LEVELS[k]))
            beyond *= 1 - hazard * part
        return 1 - beyond

    def counts(self) -> LifeCounts:
        """What is remembered, to be saved."""
        self._place()
        return self._table.counts()

    def restore(self, counts: LifeCounts, samples: int) -> None:
        """Go on from what was saved.

        Raises:
            ValueError: it was saved over other bins, or cannot be.
        """
        self._table.restore(counts)
        self._new.clear()
        self._observed = samples

    def _place(self) -> None:
        """Count the new ones in the table."""
        table = self._table
        new, self._new = self._new, []
        for forecast, actual, ended in new:
            low, high = forecast.chances(actual)
            first, last = _bin_of(low), _bin_of(high)
            if not ended or actual > EDGES[-1]:
                table.passed(0, last)
                table.passed(last, last + 1, (high - LEVELS[last]) / _WIDTHS[last])
            elif first == last:
                table.ended_in(first, since=0)
            else:
                part = 1 / (high - low)
                between = [width * part for width in _WIDTHS[first + 1 : last]]
                table.ended_across(first, [(LEVELS[first + 1] - low) * part, *between])
            table.fade()


def _bin_of(chance: float) -> int:
    return bisect_right(LEVELS, chance, 0, _BINS) - 1
