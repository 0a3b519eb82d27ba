"""Draws how a whole is shared out as one bar of characters, which says as much without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BAR_CHARS = 60


@dataclass(frozen=True, slots=True)
class Segment:
    """One share."""

    name: str
    size: float
    mark: str
    """One character, not used by another share."""


def widths(segments: Sequence[Segment], whole: float, chars: int = BAR_CHARS) -> list[int]:
    """Characters of each share: rounded where its end falls, so that they never add up to more than the bar."""
    edges, at = [0], 0.0
    for each in segments:
        at += max(0.0, each.size)
        edges.append(min(chars, round(at / whole * chars)) if whole > 0 else 0)
    return [end - start for start, end in pairwise(edges)]


def bar(segments: Sequence[Segment], whole: float, chars: int = BAR_CHARS) -> str:
    """The bar; blank where nothing is."""
    drawn = "".join(each.mark * width for each, width in zip(segments, widths(segments, whole, chars), strict=True))
    return drawn.ljust(chars)
