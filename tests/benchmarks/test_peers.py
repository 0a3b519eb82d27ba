"""A run in small: the mock engine as gateway, all figures taken."""

from pathlib import Path

import pytest

from benchmarks import peer_report
from benchmarks.peer_bench import Plan
from benchmarks.peer_launch import Launch
from benchmarks.peer_servers import Peer
from benchmarks.peers import measure

PLAN = Plan(rounds=2, short_s=0.02, streams=(4, 8), tokens=3, held_streams=5, ttft_s=0.05, settle_s=0.0, with_slow=True)


def test_every_figure_is_taken_in_every_round(built: Path) -> None:
    """Of the engine alone and of what stands in front of it; nothing goes wrong."""
    binary = built / "mock_engine"
    peer = Peer("mock", "C", lambda site: Launch([str(binary), "--port", str(site.port)]), binary)
    results = measure([peer], PLAN, PLAN.rounds)
    assert list(results) == ["direct", "mock"]
    figures = results["mock"]
    assert {name: len(samples) for name, samples in figures.samples.items()} == {
        "short_1": 2,
        "short_64": 2,
        "short_paced": 2,
        "long": 2,
        "streams_some": 2,
        "streams_many": 2,
    }
    assert [sample.outcome.errors for samples in figures.samples.values() for sample in samples] == [0] * 12
    assert figures.samples["streams_many"][0].outcome.tokens == 24
    assert figures.idle_bytes is not None
    assert figures.added_first_token_ms is not None
    assert figures.refusal is None
    assert "chunk, 8 streams" in peer_report.text(results, PLAN.streams, {"mock"})


def test_one_that_does_not_start_is_left_out(capsys: pytest.CaptureFixture[str], built: Path) -> None:
    """The others are measured, and it is said."""
    absent = Peer("absent", "C", lambda _: Launch(["false"]), built)
    results = measure([absent], PLAN, rounds=1)
    assert results["absent"].samples == {}
    assert len(results["direct"].samples) == 6
    assert "absent, start: absent does not serve" in capsys.readouterr().err
