import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.telemetry.nvml import GpuReading, Nvml, NvmlLibrary, NvmlOffError, load_pynvml, watch

GIB = 1 << 30
RETRY_S = 60.0


class FakeNvmlError(Exception):
    """What the fake driver raises."""


@dataclass
class Memory:
    total: int
    used: int


@dataclass
class Rates:
    gpu: int


@dataclass
class FakeNvml:
    """A driver with two GPUs. `failing` names calls that fail, `hang` holds every look until it is set."""

    failing: set[str] = field(default_factory=set)
    hang: threading.Event | None = None
    gpus: int = 2
    calls: list[str] = field(default_factory=list)
    NVMLError: type[Exception] = FakeNvmlError

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise FakeNvmlError(f"{name} failed")

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self._called("init")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._called("shutdown")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if self.hang is not None:
            self.hang.wait(10)
        self._called("count")
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        self._called(f"handle{index}")
        return index

    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes:  # noqa: N802
        return b"GPU-0" if handle == 0 else "GPU-1"

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Memory:  # noqa: N802
        self._called(f"memory{handle}")
        return Memory(80 * GIB, 70 * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Rates:  # noqa: N802
        self._called(f"rates{handle}")
        return Rates(37)


@asynccontextmanager
async def nvml(load: Callable[[], NvmlLibrary], look_max_s: float = 5.0) -> AsyncIterator[Nvml]:
    """Under test; its thread has ended afterwards."""
    nvml = Nvml(load, look_max_s=look_max_s, retry_s=RETRY_S)
    yield nvml
    nvml.close()
    if nvml._thread is not None:
        await asyncio.to_thread(nvml._thread.join, 5)
        assert not nvml._thread.is_alive()


async def test_two_gpus() -> None:
    """Numbers in bytes and ratios; one session for all looks."""
    fake = FakeNvml()
    async with nvml(lambda: fake) as gpus:
        readings = await gpus.read(0.0)
        assert readings[0] == GpuReading(0, "GPU-0", 80 * GIB, 70 * GIB, 0.37)
        assert readings[1].uuid == "GPU-1"
        await gpus.read(0.1)
        assert gpus.off_reason == ""
    assert (fake.calls.count("init"), fake.calls.count("count"), fake.calls.count("shutdown")) == (1, 2, 1)


async def test_utilization_is_optional() -> None:
    """A GPU split by MIG has none."""
    async with nvml(lambda: FakeNvml({"rates0"})) as gpus:
        assert [reading.utilization_ratio for reading in await gpus.read(0.0)] == [None, 0.37]


@pytest.mark.parametrize("call", ["handle0", "memory0"])
async def test_a_lost_gpu_does_not_hide_the_others(call: str) -> None:
    """Its index is simply missing."""
    async with nvml(lambda: FakeNvml({call})) as gpus:
        assert [reading.index for reading in await gpus.read(0.0)] == [1]


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (FakeNvml({"init"}), "NVML does not start: init failed"),
        (FakeNvml({"init", "shutdown"}), "NVML does not start: init failed"),
        (FakeNvml({"count"}), "NVML fails: count failed"),
        (FakeNvml({"count", "shutdown"}), "NVML fails: count failed"),
        (FakeNvml({"handle0", "memory1"}), "no GPU answers: handle0 failed"),
        (FakeNvml(gpus=0), "NVML knows no GPU"),
    ],
)
async def test_a_failing_driver_is_off_and_tried_again_rarely(fake: FakeNvml, reason: str) -> None:
    """One reason worth a log line; nothing is asked until the time has passed, and then all is well again."""
    async with nvml(lambda: fake) as gpus:
        for now in (0.0, RETRY_S - 0.1):
            with pytest.raises(NvmlOffError, match=reason):
                await gpus.read(now)
        assert fake.calls.count("init") == 1
        fake.failing, fake.gpus = set(), 2
        assert len(await gpus.read(RETRY_S)) == 2
        assert gpus.off_reason == ""


@pytest.mark.parametrize("error", [ImportError("no pynvml"), OSError("broken library")])
async def test_no_library(error: Exception) -> None:
    """Most machines have none: that is no error, only no readings."""

    def load() -> NvmlLibrary:
        raise error

    async with nvml(load) as gpus:
        with pytest.raises(NvmlOffError, match="not installed"):
            await gpus.read(0.0)


async def test_a_hanging_driver_keeps_one_thread_and_no_more() -> None:
    """However often it is asked meanwhile, there is one look; once that comes back, there may be another."""
    released = threading.Event()
    fake = FakeNvml(hang=released)
    async with nvml(lambda: fake, look_max_s=0.05) as gpus:
        with pytest.raises(NvmlOffError, match="did not answer within"):
            await gpus.read(0.0)
        threads = threading.active_count()
        for now in (1.0, RETRY_S + 1, RETRY_S * 10):
            with pytest.raises(NvmlOffError, match="did not answer within"):
                await gpus.read(now)
        assert threading.active_count() == threads
        assert fake.calls == ["init"]
        released.set()
        assert gpus._pending is not None
        await gpus._pending.answer
        assert len(await gpus.read(RETRY_S * 11)) == 2


async def test_a_cancelled_read_leaves_the_thread_usable() -> None:
    """The late answer is of no interest to anybody, and no complaint either."""
    released = threading.Event()
    async with nvml(lambda: FakeNvml(hang=released)) as gpus, asyncio.TaskGroup() as group:
        task = group.create_task(gpus.read(0.0))
        await asyncio.sleep(0)
        with pytest.raises(NvmlOffError, match="under way"):
            await gpus.read(0.0)
        task.cancel()
        released.set()
        assert gpus._pending is not None
        await gpus._pending.answer
        assert len(await gpus.read(1.0)) == 2


async def test_watching_tells_each_reason_once() -> None:
    """Readings go on; a reason is told when it begins, and again only after readings in between."""
    fake = FakeNvml()
    script = [set(), {"count"}, {"count"}, set(), {"count"}]
    seen: list[object] = []
    now = 0.0

    async def sleep(wait_s: float) -> None:
        nonlocal now
        now += RETRY_S
        if not script:
            raise EOFError
        fake.failing = script.pop(0)

    async with nvml(lambda: fake) as gpus:
        with pytest.raises(EOFError):
            await watch(gpus, lambda gpus: seen.append(len(gpus)), seen.append, clock=lambda: now, sleep=sleep)
        with pytest.raises(NvmlOffError):
            await gpus.read(now)
    assert seen == [2, 2, "NVML fails: count failed", 2, "NVML fails: count failed"]


def test_an_answer_after_the_loops_end_is_dropped() -> None:
    """The thread outlives a loop that was closed under it."""
    released = threading.Event()
    gpus = Nvml(lambda: FakeNvml(hang=released), look_max_s=0.01)

    async def ask() -> None:
        with pytest.raises(NvmlOffError):
            await gpus.read(0.0)

    asyncio.run(ask())
    gpus.close()
    released.set()
    assert gpus._thread is not None
    gpus._thread.join(5)
    assert not gpus._thread.is_alive()


async def test_the_real_library_on_whatever_machine_this_is() -> None:
    """With a GPU there are readings that make sense; without one, a reason."""
    async with nvml(load_pynvml) as gpus:
        try:
            readings = await gpus.read(0.0)
        except NvmlOffError as off:
            assert str(off)  # noqa: PT017 - either way is right
        else:
            assert all(0 <= reading.used_bytes <= reading.total_bytes for reading in readings)
