"""The benchmark of forecasts of lengths: what it prints, and that it finds a made-up service calibrated."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from benchmarks import length_calibration
from benchmarks.length_calibration import Request, measure, read_trace
from tests.estimator.answers import lognormal


def trace(count: int) -> list[Request]:
    """Requests of a steady service."""
    rng = random.Random(3)
    now, requests = 0.0, []
    for tokens in lognormal(150, 0.9, count):
        now += rng.expovariate(4.0)
        requests.append(Request(now, tokens))
    return requests


def test_a_steady_service_is_found_calibrated() -> None:
    """Within 2 points, whether or not answers are capped; plain shares as well, since lengths are many."""
    row = measure("steady", trace(4000), 33.0)
    assert row.drift < 1.5
    for shares in (row.plain, row.spread, row.capped):
        for q, share in zip(length_calibration.QUANTILES, shares, strict=True):
            assert share == pytest.approx(q, abs=0.02)


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line per trace, or one object; unknown columns are left alone."""
    lines = [f"{request.arrival_s},{request.output_tokens},x" for request in trace(400)]
    (tmp_path / "steady.csv").write_text("\n".join(["arrival_s,output_tokens,more", *lines]) + "\n")
    monkeypatch.setattr(sys, "argv", ["length_calibration", str(tmp_path)])
    assert length_calibration.main() == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["trace", "requests", "drift"]
    assert line.split()[:2] == ["steady", "400"]
    monkeypatch.setattr(sys, "argv", ["length_calibration", str(tmp_path), "--json"])
    assert length_calibration.main() == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 400


def test_a_line_that_is_no_request_is_named(tmp_path: Path) -> None:
    """By its number in the file."""
    path = tmp_path / "bad.csv"
    path.write_text("arrival_s,output_tokens\n0.5,7\n1.5,many\n")
    with pytest.raises(ValueError, match=r"bad.csv, line 3"):
        read_trace(path)
