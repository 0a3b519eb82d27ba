"""The settings of admission, with defaults and reasons."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What an operator may turn, and the bounds that keep every list and every wait finite."""

    risk: float = 0.01
    """Accepted chance that admitted work outgrows the pool."""
    queue_requests_max: int = 512
    queue_wait_max_s: float = 30.0
    clamp: bool = False
    """A request that could never fit is cut to fit instead of refused."""
    observe: bool = False
    """Decide and show, refuse nothing."""
    stale_after_s: float = 5.0
    lost_after_s: float = 60.0
    stale_share: float = 0.9
    """Part of a pool that is given out while telemetry is stale; `lost_share` while it is lost."""
    lost_share: float = 0.7
    drain_max_s: float = 10.0
    """A request that ended here is taken to have ended in the engine after this long and two fresh readings."""
    frozen_after_s: float = 10.0
    probe_every_s: float = 1.0
    """Pace of the single requests that are let through to make a frozen engine move."""
    foreign_readings: int = 3
    """Readings in a row that must show unexplained memory before it counts as somebody else's."""
    foreign_tolerance: float = 0.05
    """Part of the pool by which ledger and telemetry may differ: one is early, the other late."""
    down_after: int = 3
    up_after: int = 2

    @property
    def z(self) -> float:
        """The accepted risk as standard deviations of a normal distribution."""
        return NormalDist().inv_cdf(1 - self.risk)
