"""A life table with a fading memory: over bins in a row, how many lived through each and how many ended in it.

The chance to end in a bin, given that it was reached, is the second count over both together. That is the actuarial
life table (Cutler and Ederer, 1958): what was last seen going on counts in the bins that it did live through, and
nothing is claimed about the rest. Counts are taken when things happen, so those still going on are counted as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    """See the module. Each count costs O(1) per bin."""

    __slots__ = ("_ended", "_growth", "_reached", "_weight")

    def __init__(self, bins: int, half_life: float) -> None:
        self._reached = [0.0] * bins
        self._ended = [0.0] * bins
        self._weight = 1.0
        self._growth = 2 ** (1 / half_life)

    @property
    def size(self) -> float:
        """Observations in memory: those that began."""
        return self._reached[0] / self._weight

    def passed(self, first: int, last: int, count: float = 1.0) -> None:
        """So many lived through the bins from `first` up to, not including, `last`.

        Bins counted too much are taken back by giving them the other way round.
        """
        count *= self._weight
        reached = self._reached
        if first < last:
            reached[first:last] = [before + count for before in reached[first:last]]
            return
        for k in range(last, first):
            reached[k] = max(self._ended[k], reached[k] - count)

    def ended_in(self, k: int, count: float = 1.0) -> None:
        """So many ended in a bin."""
        self._reached[k] += self._weight * count
        self._ended[k] += self._weight * count

    def ended_across(self, first: int, shares: Sequence[float]) -> None:
        """One ended somewhere in the bins from `first` on: these shares of it in each, what is left in the next."""
        weight, reached, ended, left = self._weight, self._reached, self._ended, 1.0
        for k, share in enumerate(shares, first):
            reached[k] += weight * left
            ended[k] += weight * share
            left = max(0.0, left - share)
        self.ended_in(first + len(shares), left)

    def fade(self) -> None:
        """What was counted so far is older by one observation."""
        self._weight *= self._growth
        if self._weight > _WEIGHT_MAX:
            self._reached = [count / self._weight for count in self._reached]
            self._ended = [count / self._weight for count in self._ended]
            self._weight = 1.0

    def reached(self, k: int) -> float:
        """How many reached a bin, as far as it is known what became of them there."""
        return self._reached[k] / self._weight

    def hazards(self, parent: Sequence[float], pull: float) -> tuple[float, ...]:
        """Per bin the chance to end in it, given that it was reached.

        Args:
            parent: chances that are taken where nothing was seen.
            pull: observations that these count as in each bin; may be 0, then a bin without any has hazard 0.
        """
        pull *= self._weight
        each = zip(self._reached, self._ended, parent, strict=True)
        if pull:
            return tuple([(ended + pull * of_parent) / (reached + pull) for reached, ended, of_parent in each])
        return tuple([ended / reached if reached else 0.0 for reached, ended, _ in each])

    def counts(self) -> LifeCounts:
        """What is remembered, to be kept elsewhere."""
        return LifeCounts(
            tuple(count / self._weight for count in self._reached),
            tuple(count / self._weight for count in self._ended),
        )

    def restore(self, counts: LifeCounts, size_max: float = math.inf) -> None:
        """Take over what another table remembered, made so light that its size is at most `size_max`.

        Raises:
            ValueError: it is not a table of this size, or its numbers cannot be counts.
        """
        if not len(counts.reached) == len(counts.ended) == len(self._reached):
            raise ValueError("a table of other bins")
        if not all(
            0 <= ended <= reached < math.inf for reached, ended in zip(counts.reached, counts.ended, strict=True)
        ):
            raise ValueError("counts that cannot be")
        lightest = max(1.0, max(counts.reached) / size_max)
        self._reached = [count / lightest for count in counts.reached]
        self._ended = [count / lightest for count in counts.ended]
        self._weight = 1.0
