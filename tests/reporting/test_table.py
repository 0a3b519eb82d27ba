"""The page about metrics is made from the contract, and is what lies in the repository."""

import subprocess
import sys
from pathlib import Path

from gateway.reporting.families import FAMILIES, OUTCOMES
from gateway.reporting.table import FLEETS, SUBJECTS, table

PAGE = Path(__file__).parents[2] / "deploy" / "METRICS.md"


def test_the_page_in_the_repository_is_made_from_the_contract() -> None:
    """If this fails: `python -m gateway.reporting.table > deploy/METRICS.md`."""
    assert PAGE.read_text("utf-8") == table()


def test_the_command_writes_the_page() -> None:
    command = [sys.executable, "-m", "gateway.reporting.table"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == table()


def test_every_family_has_a_row_of_five_cells() -> None:
    rows = [line for line in table().splitlines() if line.startswith("| `kvgate_")]
    assert [row.split("`")[1] for row in rows] == [f"kvgate_{family.name}" for family in FAMILIES]
    assert {row.count(" | ") for row in rows} == {4}
    assert [family for _, families in SUBJECTS for family in families] == list(FAMILIES)


def test_values_and_sizes_are_shown() -> None:
    lines = table().splitlines()
    assert "| source | metrics, nvml, kv_events, headers |" in lines
    assert len([line for line in lines if line.startswith(tuple(f"- {outcome}: " for outcome in OUTCOMES))]) == 3
    assert len([line for line in lines if line.startswith("| ") and line[2].isdigit()]) == len(FLEETS)
