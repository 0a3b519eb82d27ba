"""GPU memory as the driver reports it through NVML: optional, off the way of requests, never more than one thread.

An engine that takes its pool at the start shows nothing of its use here: this is a check of the static footprint.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol, cast

LOOK_MAX_S = 1.0
RETRY_S = 60.0
GPUS_MAX = 64


class _Memory(Protocol):
    total: int
    used: int


class _Utilization(Protocol):
    gpu: int


class NvmlLibrary(Protocol):
    """The functions of `pynvml` that are used. All may block, and all but none may raise its `NVMLError`."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802 - NVML's names
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: object) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> _Memory: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: object) -> _Utilization: ...  # noqa: N802


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one time, by all of its users together."""

    index: int
    uuid: str
    total_bytes: int
    used_bytes: int
    """What the driver and its firmware hold is included."""
    utilization_ratio: float | None
    """Share of the last sample period in which a kernel ran; None where the GPU does not say (MIG)."""


class NvmlOffError(Exception):
    """No readings for now; the text says why, once per cause worth a log line."""


def load_pynvml() -> NvmlLibrary:
    """The real library. Raises ImportError where `nvidia-ml-py` is not installed."""
    return cast("NvmlLibrary", importlib.import_module("pynvml"))


class Nvml:
    """Reads all GPUs in a thread of its own. A look that hangs keeps that thread, and no other is ever started."""

    def __init__(
        self, load: Callable[[], NvmlLibrary] = load_pynvml, *, look_max_s: float = LOOK_MAX_S, retry_s: float = RETRY_S
    ) -> None:
        self._load = load
        self._look_max_s = look_max_s
        self._retry_s = retry_s
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._pending: _Question | None = None
        self._off_until = float("-inf")
        self.off_reason = ""
        """Why there are no readings; empty while there are, or before the first look."""

    async def read(self, now: float) -> tuple[GpuReading, ...]:
        """All GPUs that answer, in the driver's order.

        Raises:
            NvmlOffError: no library, no driver, no GPU, or no answer in time. For `retry_s` no further look is made.
        """
        is_stuck = self._pending is not None and not self._pending.answer.done()
        if now < self._off_until or is_stuck or self._is_closed:
            raise NvmlOffError(self.off_reason or "a look is still under way")
        question = self._pending = self._ask()
        try:
            async with asyncio.timeout(self._look_max_s):
                # Shielded: the thread answers whether or not somebody still waits, and is free for a next look then.
                readings = await asyncio.shield(question.answer)
        except TimeoutError:
            raise self._turn_off(now, f"NVML did not answer within {self._look_max_s:g} s") from None
        except _LookFailedError as failure:
            raise self._turn_off(now, str(failure)) from failure
        self.off_reason = ""
        return readings

    def close(self) -> None:
        """Let the thread end. It is a daemon: one that hangs in the driver does not hold up the exit."""
        self._is_closed = True
        self._questions.put(None)

    def _ask(self) -> _Question:
        loop = asyncio.get_running_loop()
        question = _Question(loop, loop.create_future())
        question.answer.add_done_callback(_retrieve)
        if self._thread is None:
            self._thread = threading.Thread(
                target=_answer_all, args=(self._load, self._questions), name="nvml", daemon=True
            )
            self._thread.start()
        self._questions.put(question)
        return question

    def _turn_off(self, now: float, reason: str) -> NvmlOffError:
        self._off_until = now + self._retry_s
        self.off_reason = reason
        return NvmlOffError(reason)


async def watch(
    nvml: Nvml,
    on_gpus: Callable[[tuple[GpuReading, ...]], None],
    on_off: Callable[[str], None],
    *,
    interval_s: float = 5.0,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> NoReturn:
    """Read again and again until cancelled. `on_off` hears of each reason once, until there are readings again."""
    now = clock or asyncio.get_running_loop().time
    told = ""
    try:
        while True:
            try:
                on_gpus(await nvml.read(now()))
                told = ""
            except NvmlOffError as off:
                if str(off) != told:
                    told = str(off)
                    on_off(told)
            await sleep(interval_s)
    finally:
        nvml.close()


class _LookFailedError(Exception):
    """Made in the thread, told to the loop."""


@dataclass(frozen=True, slots=True)
class _Question:
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[tuple[GpuReading, ...]]

    def settle(self, result: tuple[GpuReading, ...] | _LookFailedError) -> None:
        """From the thread. The loop may have ended meanwhile: then nobody asks any more."""
        try:
            self.loop.call_soon_threadsafe(self._settle_here, result)
        except RuntimeError:
            return

    def _settle_here(self, result: tuple[GpuReading, ...] | _LookFailedError) -> None:
        if self.answer.done():
            return
        if isinstance(result, _LookFailedError):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


def _retrieve(answer: asyncio.Future[tuple[GpuReading, ...]]) -> None:
    """An answer that came too late is of no interest, and asyncio need not complain about it."""
    if not answer.cancelled():
        answer.exception()


def _answer_all(load: Callable[[], NvmlLibrary], questions: queue.SimpleQueue[_Question | None]) -> None:
    """The thread: one question after the other. A failed session is ended, so that the next one starts afresh."""
    library: NvmlLibrary | None = None
    while (question := questions.get()) is not None:
        try:
            library = library or _begin(load)
            question.settle(_read_all(library))
        except _LookFailedError as failure:
            _end(library)
            library = None
            question.settle(failure)
    _end(library)


def _begin(load: Callable[[], NvmlLibrary]) -> NvmlLibrary:
    try:
        library = load()
    except (ImportError, OSError) as error:
        raise _LookFailedError(f"NVML is not installed ({type(error).__name__})") from error
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise _LookFailedError(f"NVML does not start: {error}") from error
    return library


def _end(library: NvmlLibrary | None) -> None:
    if library is None:
        return
    try:
        library.nvmlShutdown()
    except library.NVMLError:
        return  # The session is lost either way.


def _read_all(library: NvmlLibrary) -> tuple[GpuReading, ...]:
    try:
        count = min(library.nvmlDeviceGetCount(), GPUS_MAX)
    except library.NVMLError as error:
        raise _LookFailedError(f"NVML fails: {error}") from error
    found = [_read_one(library, index) for index in range(count)]
    readings = tuple(reading for reading in found if isinstance(reading, GpuReading))
    if not readings:
        raise _LookFailedError(f"no GPU answers: {found[0]}" if found else "NVML knows no GPU")
    return readings


def _read_one(library: NvmlLibrary, index: int) -> GpuReading | str:
    """One GPU, or why not: a lost one must not hide the others."""
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
        uuid = library.nvmlDeviceGetUUID(handle)
        memory = library.nvmlDeviceGetMemoryInfo(handle)
    except library.NVMLError as error:
        return str(error)
    return GpuReading(
        index=index,
        uuid=uuid.decode() if isinstance(uuid, bytes) else uuid,
        total_bytes=int(memory.total),
        used_bytes=int(memory.used),
        utilization_ratio=_utilization(library, handle),
    )


def _utilization(library: NvmlLibrary, handle: object) -> float | None:
    try:
        return library.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except library.NVMLError:
        return None
