"""A world small enough to follow with a pencil: steps of one second, blocks of four tokens."""

from __future__ import annotations

from gateway.simulation.engine import EngineConfig
from gateway.simulation.policies import Setup
from gateway.simulation.profiles import Profile
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request

SLO = Slo(ttft_s=3.0, tpot_s=2.0)
SECOND = Profile("second", 1.0, 0.0, 0.0, 0.0, kv_tokens=0, sequences_max=8, step_tokens_max=64)


def a_config(blocks: int = 10, sequences_max: int = 8) -> EngineConfig:
    """An engine of a few blocks."""
    return EngineConfig(SECOND, blocks, 4, sequences_max, 64, blocks * 4)


def a_setup(blocks: int = 10, sequences_max: int = 8, replicas: int = 1) -> Setup:
    """What runs on such engines."""
    return Setup(a_config(blocks, sequences_max), SLO, replicas, progress_every_s=0.25)


def requests(*rows: tuple[float, int, int]) -> list[Request]:
    """Of arrival, prompt and output; clients set no `max_tokens`."""
    return [Request(*row) for row in rows]
