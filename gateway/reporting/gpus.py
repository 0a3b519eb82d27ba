"""GPU memory beside the engine's own: what NVML shows beyond what the engine held once it was warm.

Weights, pool, graphs and workspaces of an engine stay put once it has worked for a while, however full its KV cache is.
So what comes later is somebody else's, or leaked. What was there from the start cannot be told from the engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gateway.admission.snapshot import Snapshot
from gateway.reporting.backends import ALIVE
from gateway.reporting.registry import Families

WARM_UP_S = 300.0
"""Time with requests at work in which an engine may still take memory for itself: workspaces grow with the longest
prompt so far."""


@dataclass(slots=True)
class _Engine:
    """One life of an engine."""

    busy_s: float = 0.0
    seen_at: float = math.nan
    own_bytes: dict[int, int] = field(default_factory=dict)
    """By GPU: what it is taken to hold itself."""


class GpuMetrics:
    """The GPUs of this machine, by the backend that runs on each."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._engines: dict[str, _Engine] = {}

    def refresh(self, snapshot: Snapshot) -> None:
        """Note which engines live, and how long each has been at work."""
        up = [backend for backend in snapshot.backends if backend.state in ALIVE]
        self._engines = {backend.name: self._engines.get(backend.name) or _Engine() for backend in up}
        for backend in up:
            engine = self._engines[backend.name]
            if backend.requests and not math.isnan(engine.seen_at):
                engine.busy_s += max(0.0, snapshot.now - engine.seen_at)
            engine.seen_at = snapshot.now

    def read(
        self, backend: str, gpu: int, *, used_bytes: int, total_bytes: int, utilization_ratio: float | None
    ) -> None:
        """What NVML says of one GPU."""
        labels = (str(gpu), backend)
        self._families.gauge("gpu_memory_used_bytes", *labels).set(used_bytes)
        self._families.gauge("gpu_memory_total_bytes", *labels).set(total_bytes)
        self._families.gauge("gpu_memory_unaccounted_bytes", *labels).set(self._unaccounted(backend, gpu, used_bytes))
        if utilization_ratio is not None:
            self._families.gauge("gpu_utilization_ratio", *labels).set(utilization_ratio)

    def _unaccounted(self, backend: str, gpu: int, used_bytes: int) -> float:
        engine = self._engines.get(backend)
        if engine is None:
            return math.nan
        own = engine.own_bytes.get(gpu, used_bytes)
        own = used_bytes if engine.busy_s < WARM_UP_S else min(own, used_bytes)
        engine.own_bytes[gpu] = own
        return used_bytes - own
