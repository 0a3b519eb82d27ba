"""Memory that came after the engine is told from the engine's own."""

import dataclasses
import math

from gateway.admission.snapshot import BackendState
from gateway.reporting.gpus import WARM_UP_S, GpuMetrics
from gateway.reporting.registry import Families
from tests.reporting.samples import OURS, sample, snapshot

GIB = 1 << 30
IDLE = dataclasses.replace(OURS, requests=0)
DOWN = dataclasses.replace(OURS, state=BackendState.DOWN)


class Machine:
    """GPU 0, which backend b runs on."""

    def __init__(self) -> None:
        self.families = Families()
        self.gpus = GpuMetrics(self.families)

    def unaccounted(self, used_gib: float) -> float | None:
        self.gpus.read("b", 0, used_bytes=int(used_gib * GIB), total_bytes=80 * GIB, utilization_ratio=None)
        value = sample(self.families, "gpu_memory_unaccounted_bytes", gpu="0", backend="b")
        return None if value is None else value / GIB


def warm() -> Machine:
    machine = Machine()
    machine.gpus.refresh(snapshot(0.0, OURS))
    machine.gpus.refresh(snapshot(WARM_UP_S / 2, OURS))
    assert machine.unaccounted(72) == 0
    machine.gpus.refresh(snapshot(WARM_UP_S, OURS))
    return machine


def test_what_comes_after_the_engine_is_warm_is_somebody_elses() -> None:
    machine = warm()
    assert machine.unaccounted(72) == 0
    assert machine.unaccounted(76) == 4
    assert machine.unaccounted(72) == 0


def test_a_gpu_shows_what_the_driver_says() -> None:
    machine = warm()
    machine.gpus.read("b", 1, used_bytes=7, total_bytes=9, utilization_ratio=0.5)
    labels = {"gpu": "1", "backend": "b"}
    assert sample(machine.families, "gpu_memory_used_bytes", **labels) == 7
    assert sample(machine.families, "gpu_memory_total_bytes", **labels) == 9
    assert sample(machine.families, "gpu_utilization_ratio", **labels) == 0.5
    machine.unaccounted(72)
    assert sample(machine.families, "gpu_utilization_ratio", gpu="0", backend="b") is None


def test_while_it_warms_up_all_is_its_own() -> None:
    """Workspaces come with the first long prompts, so only time at work counts."""
    machine = Machine()
    machine.gpus.refresh(snapshot(0.0, IDLE))
    machine.gpus.refresh(snapshot(10 * WARM_UP_S, IDLE))
    assert machine.unaccounted(70) == 0
    assert machine.unaccounted(74) == 0


def test_memory_that_the_engine_gave_back_is_not_its_own_any_more() -> None:
    machine = warm()
    assert machine.unaccounted(70) == 0
    assert machine.unaccounted(72) == 2


def test_an_engine_that_starts_again_is_measured_again() -> None:
    machine = warm()
    machine.gpus.refresh(snapshot(WARM_UP_S + 1, DOWN))
    assert math.isnan(machine.unaccounted(5) or 0)
    machine.gpus.refresh(snapshot(WARM_UP_S + 2, OURS))
    assert machine.unaccounted(75) == 0


def test_a_gpu_of_nobody_known_has_no_number() -> None:
    assert math.isnan(Machine().unaccounted(1) or 0)
