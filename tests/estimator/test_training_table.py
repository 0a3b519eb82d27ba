"""The nine cells as printed, and the components beside them."""

import pytest

from estimator import EstimatorError
from estimator.training import Method
from estimator.training_table import NOTES, SOURCE, printed_gb, training_table

CELLS: list[tuple[str, Method, int, float]] = [
    ("8B", "full", 60, 0.07), ("8B", "lora", 16, 0.03), ("8B", "qlora", 6, 0.01),
    ("70B", "full", 500, 0.13), ("70B", "lora", 160, -0.11), ("70B", "qlora", 48, -0.14),
    ("405B", "full", 3250, 0.0), ("405B", "lora", 950, -0.14), ("405B", "qlora", 250, -0.12),
]  # fmt: skip


@pytest.mark.parametrize(("size", "method", "printed", "difference"), CELLS)
def test_the_nine_cells(size: str, method: Method, printed: int, difference: float) -> None:
    """The table's mode gives what is printed; the components' difference is stated."""
    assert printed_gb(size, method) == printed
    cell = next(each for each in training_table() if (each.size, each.method) == (size, method))
    assert cell.printed_gb == printed
    assert cell.difference == pytest.approx(difference, abs=0.006)
    assert cell.usual_gb > cell.states_gb


def test_its_source_is_named() -> None:
    """With a date, and what the cells leave open."""
    assert "2024" in SOURCE
    assert any("batch" in note for note in NOTES)
    assert len(training_table()) == 9
    with pytest.raises(EstimatorError, match="no row '7B'"):
        printed_gb("7B", "full")
