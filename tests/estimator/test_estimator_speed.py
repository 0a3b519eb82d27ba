"""The benchmark of the estimator's speed: that it prints its figures, not what they are."""

import re

import pytest

from benchmarks import estimator_speed


def test_all_figures_are_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Import and both ways of pricing, per model."""
    for name in ("IMPORTS", "ROUNDS", "CALLS"):
        monkeypatch.setattr(estimator_speed, name, 1)
    assert estimator_speed.main() == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"\d+\.\d\d us", out)) == 2 * len(estimator_speed.MODELS)
    assert re.search(r"import estimator +\d+\.\d ms", out)
