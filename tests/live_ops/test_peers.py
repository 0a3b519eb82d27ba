"""The comparison with other gateways, in small, of those that are installed; KVGate itself always is."""

import shutil

import pytest

from benchmarks.native_load import build
from benchmarks.peer_bench import Plan
from benchmarks.peer_servers import PEERS
from benchmarks.peers import measure

pytestmark = [pytest.mark.ops, pytest.mark.timeout(180)]
PLAN = Plan(
    rounds=1, short_s=0.2, streams=(5, 10), tokens=5, held_streams=20, ttft_s=0.3, settle_s=0.1, with_slow=False
)


@pytest.mark.parametrize("name", [peer.name for peer in PEERS.values() if not peer.is_slow])
def test_each_answers_every_request_rightly(name: str) -> None:
    """All figures are there, and no answer was wrong."""
    if not PEERS[name].is_installed or shutil.which("cc") is None:
        pytest.skip(f"{name} or a C compiler is not here")
    build()
    figures = measure([PEERS[name]], PLAN, PLAN.rounds)[name]
    assert len(figures.samples) == 5
    assert [samples[0].outcome.first_error for samples in figures.samples.values()] == [""] * 5
    assert figures.stream_bytes is not None
    assert figures.first_token is not None
    if PEERS[name].refusing is not None:
        assert figures.refusal is not None
        # Some let one through now and then, whatever runs.
        assert figures.refusal.outcome.errors < figures.refusal.outcome.requests / 10
