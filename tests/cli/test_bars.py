"""Bars that show shares."""

import pytest
from hypothesis import given, strategies as st

from gateway.cli.bars import Segment, bar, widths

MARKS = "#=+."


def test_a_bar_is_shared_out() -> None:
    """By size; blank where nothing is."""
    segments = [Segment("a", 5, "#"), Segment("b", 2.5, "=")]
    assert bar(segments, 10, 8) == "####==  "
    assert bar([], 10, 4) == bar(segments, 0, 4) == "    "


@given(st.lists(st.floats(-1, 1e12), min_size=1, max_size=4), st.integers(1, 100))
def test_it_never_overflows(sizes: list[float], chars: int) -> None:
    """Even where shares are more than the whole, or below nothing."""
    segments = [Segment(mark, size, mark) for mark, size in zip(MARKS, sizes, strict=False)]
    assert len(bar(segments, sum(sizes) or 1, chars)) == chars
    assert len(bar(segments, max(1.0, max(sizes) / 3), chars)) == chars


def test_rounding_adds_up() -> None:
    """Three thirds fill ten characters."""
    assert sum(widths([Segment(str(i), 1, str(i)) for i in range(3)], 3, 10)) == pytest.approx(10)
