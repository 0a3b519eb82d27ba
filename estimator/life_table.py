"""A life table with a fading memory: over bins in a row, how many lived through each and how many ended in it.

The chance to end in a bin, given that it was reached, is the second count over both together. That is the actuarial
life table (Cutler and Ederer, 1958): what was last seen going on counts in the bins that it did live through, and
nothing is claimed about the rest. Counts are taken when things happen, so those still going on are counted as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add

_WEIGHT_MAX = 2.0**40
"""Weights grow instead of all counts being made smaller; at this size everything is scaled back."""


@dataclass(frozen=True, slots=True)
class LifeCounts:
    """What a table remembers, an observation of now counting 1."""

    reached: tuple[float, ...]
    """Per bin: lived through it, or ended in it."""
    ended: tuple[float, ...]
    """Per bin: ended in it."""


class LifeTable:
    """See the module. To count costs O(1) however many bins are passed; how many reached each is summed when asked."""

    __slots__ = ("_ended", "_growth", "_left", "_weight")

    def __init__(self, bins: int, half_life: float) -> None:
        self._ended = [0.0] * bins
        self._left = [0.0] * (bins + 1)
        """Per bin: so many lived through those before it and were not seen further. Who is counted from a bin on, but
        not before it, is taken off there, so that sums from further ahead hold nothing of it."""
        self._weight = 1.0
        self._growth = 2 ** (1 / half_life)

    @property
    def size(self) -> float:
        """Observations in memory: those that began."""
        return (sum(self._ended) + sum(self._left[1:])) / self._weight

    def passed(self, first: int, last: int, count: float = 1.0) -> None:
        """So many lived through the bins from `first` up to, not including, `last`.

        Bins counted too much are taken back by giving them the other way round.
        """
        count *= self._weight
        left = self._left
        if first <= last:
            left[last] += count
            left[first] -= count
            return
        reached = self._reached()
        for k in range(last, first):
            taken = min(count, reached[k] - self._ended[k])
            left[k + 1] -= taken
            left[k] += taken

    def ended_in(self, k: int, count: float = 1.0, since: int | None = None) -> None:
        """So many ended in a bin; they had lived through those from `since` on, if that is given."""
        count *= self._weight
        self._ended[k] += count
        self._left[k if since is None else since] -= count

    def ended_across(self, first: int, shares: Sequence[float]) -> None:
        """One ended somewhere in the bins from `first` on, having lived through those before.

        Args:
            first: the first bin in which it may have ended.
            shares: of it, in each bin from there on; what is left ended in the next.
        """
        weight, ended, last = self._weight, self._ended, first + len(shares)
        each = zip(ended[first:last], shares, strict=True)
        ended[first:last] = [before + weight * share for before, share in each]
        ended[last] += weight * max(0.0, 1 - sum(shares))

    def fade(self) -> None:
        """What was counted so far is older by one observation."""
        self._weight *= self._growth
        if self._weight > _WEIGHT_MAX:
            self._ended = [count / self._weight for count in self._ended]
            self._left = [count / self._weight for count in self._left]
            self._weight = 1.0

    def hazards(self, parent: Sequence[float], pull: float) -> tuple[float, ...]:
        """Per bin the chance to end in it, given that it was reached.

        Args:
            parent: chances that are taken where nothing was seen.
            pull: observations that these count as in each bin; may be 0, then a bin without any has hazard 0.
        """
        pull *= self._weight
        each = zip(self._reached(), self._ended, parent, strict=True)
        if pull:
            return tuple([(ended + pull * of_parent) / (reached + pull) for reached, ended, of_parent in each])
        return tuple([ended / max(reached, ended) if ended else 0.0 for reached, ended, _ in each])

    def counts(self) -> LifeCounts:
        """What is remembered, to be kept elsewhere."""
        reached = map(max, self._reached(), self._ended)
        return LifeCounts(
            tuple(count / self._weight for count in reached), tuple(count / self._weight for count in self._ended)
        )

    def restore(self, counts: LifeCounts, size_max: float = math.inf) -> None:
        """Take over what another table remembered, made so light that its size is at most `size_max`.

        Raises:
            ValueError: it is not a table of this size, or its numbers cannot be counts.
        """
        if not len(counts.reached) == len(counts.ended) == len(self._ended):
            raise ValueError("a table of other bins")
        if not all(
            0 <= ended <= reached < math.inf for reached, ended in zip(counts.reached, counts.ended, strict=True)
        ):
            raise ValueError("counts that cannot be")
        lightest = max(1.0, max(counts.reached) / size_max)
        reached = [count / lightest for count in counts.reached]
        self._ended = [count / lightest for count in counts.ended]
        each = zip(reached, self._ended, [*reached[1:], 0.0], strict=True)
        self._left = [0.0, *[here - ended - after for here, ended, after in each]]
        self._weight = 1.0

    def _reached(self) -> list[float]:
        """Per bin: all that ended in it or behind it, or were not seen further than behind it.

        By rounding a little less than ended in it, where nobody lived through it.
        """
        each = list(map(add, self._ended, self._left[1:]))
        each.reverse()
        reached = list(accumulate(each))
        reached.reverse()
        return reached
