"""Looks at each backend again and again, and reports what came of it as admission's events.

One coroutine for each backend, run by whoever owns the task group. When to look again and how bad a miss is are decided
by pure functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from gateway.admission.events import BackendAdded, BackendMissed, BackendRead
from gateway.backends.engine import Fault, TelemetryError
from gateway.backends.upstream import FailureKind, UpstreamFailure
from gateway.domain import BackendSpec, Reading

LOOK_MAX_S = 2.0
TIMEOUTS_UNTIL_DOWN = 5
"""A busy engine may be slow to show its metrics: only so many looks in a row without an answer make it dead."""
_FAULTS = {
    FailureKind.CONNECT: Fault.CONNECT,
    FailureKind.RESET: Fault.CONNECT,
    FailureKind.TIMEOUT: Fault.TIMEOUT,
    FailureKind.PROTOCOL: Fault.PARSE,
    FailureKind.TRUNCATED: Fault.PARSE,
    FailureKind.LOCAL: Fault.CONNECT,
}

LookEvent = BackendAdded | BackendRead | BackendMissed


class Watched(Protocol):
    """The part of a backend that is looked at."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> BackendSpec: ...
    async def read(self, now: float) -> Reading: ...


class Observer(Protocol):
    """Who hears of looks."""

    def on_look(self, event: LookEvent, duration_s: float) -> None:
        """A look ended with this event. A `BackendAdded` precedes the reading that showed a provider to be one."""

    def on_telemetry_error(self, backend: str, source: str, reason: Fault, message: str) -> None:
        """A look brought nothing; for metrics and, at the caller's pace, the log."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look."""

    interval_s: float
    retry_first_s: float
    retry_max_s: float

    def wait_s(self, duration_s: float, misses: int) -> float:
        """Rest after a look that took so long: a slow engine is asked half the time at most, a dead one ever less."""
        if misses:
            return min(self.retry_first_s * 2.0 ** min(misses - 1, 30), self.retry_max_s)
        return max(self.interval_s - duration_s, min(duration_s, self.interval_s))


ENGINE_PACE = Pace(interval_s=0.5, retry_first_s=0.5, retry_max_s=5.0)
HOSTED_PACE = Pace(interval_s=30.0, retry_first_s=5.0, retry_max_s=30.0)


async def poll(
    backend: Watched,
    observer: Observer,
    *,
    engine_pace: Pace = ENGINE_PACE,
    hosted_pace: Pace = HOSTED_PACE,
    clock: Callable[[], float] | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> NoReturn:
    """Look at one backend until cancelled. The first look is immediate.

    Args:
        clock: monotonic seconds, the same that admission is given; the running loop's by default.
    """
    now = clock or asyncio.get_running_loop().time
    spec = backend.spec
    misses = timeouts = 0
    while True:
        started = now()
        result = await look(backend, started)
        duration_s = now() - started
        if isinstance(result, Reading):
            misses = timeouts = 0
            if backend.spec != spec:
                spec = backend.spec
                observer.on_look(BackendAdded(spec), 0.0)
            observer.on_look(BackendRead(result), duration_s)
        else:
            misses += 1
            timeouts = timeouts + 1 if fault_of(result) is Fault.TIMEOUT else 0
            observer.on_telemetry_error(backend.name, "metrics", fault_of(result), str(result))
            observer.on_look(BackendMissed(backend.name, is_reachable(result, timeouts)), duration_s)
        pace = hosted_pace if spec.hosted else engine_pace
        await sleep(pace.wait_s(duration_s, misses))


async def look(
    backend: Watched, now: float, *, look_max_s: float = LOOK_MAX_S
) -> Reading | UpstreamFailure | TelemetryError:
    """One bounded look; how it failed is a value here, because nothing is more ordinary."""
    try:
        async with asyncio.timeout(look_max_s):
            return await backend.read(now)
    except (UpstreamFailure, TelemetryError) as failure:
        return failure
    except TimeoutError:
        return TelemetryError(Fault.TIMEOUT, f"no answer within {look_max_s:g} s")


def fault_of(failure: UpstreamFailure | TelemetryError) -> Fault:
    """The metric's word for a failure."""
    return failure.reason if isinstance(failure, TelemetryError) else _FAULTS[failure.kind]


def is_reachable(failure: UpstreamFailure | TelemetryError, timeouts: int) -> bool:
    """Whether the engine is likely alive, only its numbers are not to be had.

    1. It answered, but not what was asked for: alive.
    2. It takes its time: alive, until `TIMEOUTS_UNTIL_DOWN` looks in a row went unanswered.
    3. No connection, or one that broke: dead.
    4. This process could not even try: nothing is known that was not known before.
    """
    if isinstance(failure, UpstreamFailure) and failure.kind is FailureKind.LOCAL:
        return True
    match fault_of(failure):
        case Fault.PARSE | Fault.MISSING_METRIC:
            return True
        case Fault.TIMEOUT:
            return timeouts < TIMEOUTS_UNTIL_DOWN
        case Fault.CONNECT:
            return False
