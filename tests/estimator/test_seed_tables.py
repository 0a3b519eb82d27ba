"""The published cells, against what is computed."""

import math

import pytest

from estimator.seed_tables import NOTES, kv_table, rule_of_thumb_gb, weights_table

PRINTED_KV_GIB = {
    ("8B", 8): (0.125, 1.95, 15.62),
    ("70B", 8): (0.313, 4.88, 39.06),
    ("405B", 16): (0.984, 15.38, 123.05),
}
PRINTED_WEIGHTS_GB = {"8B": (16, 8, 4), "70B": (140, 70, 35), "405B": (810, 405, 203)}


def test_the_nine_kv_cells() -> None:
    """Within what the source rounds or cuts off."""
    cells = {(cell.model, cell.kv_heads, cell.column): cell.gib for cell in kv_table()}
    for (model, heads), row in PRINTED_KV_GIB.items():
        for column, printed in zip(("1k", "16k", "128k"), row, strict=True):
            assert cells[model, heads, column] == pytest.approx(printed, abs=0.006)


def test_the_405b_row_has_two_readings_and_says_so() -> None:
    """8 KV heads, as its configuration has now, need half."""
    rows = {heads: [c.gib for c in kv_table() if (c.model, c.kv_heads) == ("405B", heads)] for heads in (8, 16)}
    assert [2 * gib for gib in rows[8]] == rows[16]
    assert any("16 KV heads" in note for note in NOTES)


def test_the_nine_weights_cells() -> None:
    """Nominal, in decimal GB, halves rounded up."""
    cells = {(cell.model, cell.precision): cell.gb for cell in weights_table()}
    for model, row in PRINTED_WEIGHTS_GB.items():
        for precision, printed in zip(("FP16", "FP8", "INT4"), row, strict=True):
            assert math.floor(cells[model, precision] + 0.5) == printed


def test_the_rule_of_thumb() -> None:
    """70B: 168 GB at 16 bits, 42 GB at 4."""
    assert rule_of_thumb_gb(70, 16) == pytest.approx(168)
    assert rule_of_thumb_gb(70, 4) == pytest.approx(42)
