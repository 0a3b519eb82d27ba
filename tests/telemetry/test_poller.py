import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies as st

from gateway.admission.events import BackendAdded, BackendMissed, BackendRead
from gateway.backends.engine import Fault, TelemetryError
from gateway.backends.upstream import FailureKind, UpstreamFailure
from gateway.domain import BackendSpec, Reading
from gateway.telemetry.poller import (
    ENGINE_PACE,
    HOSTED_PACE,
    TIMEOUTS_UNTIL_DOWN,
    LookEvent,
    fault_of,
    is_reachable,
    look,
    poll,
)

REFUSED = UpstreamFailure(FailureKind.CONNECT, "refused", request_sent=False)
SLOW = UpstreamFailure(FailureKind.TIMEOUT, "slow", request_sent=True)
GARBAGE = TelemetryError(Fault.PARSE, "garbage")


class EnoughError(Exception):
    """Ends a poll when its script is played."""


@dataclass
class Engine:
    """A backend that plays a script: a failure, or seconds until it answers well. It knows time, and waits in it."""

    script: Sequence[float | UpstreamFailure | TelemetryError]
    hosted_after: int | None = None
    now: float = 100.0
    name: str = "one"
    looks: int = 0
    waits: list[float] = field(default_factory=list)

    @property
    def spec(self) -> BackendSpec:
        return BackendSpec(self.name, hosted=self.hosted_after is not None and self.looks >= self.hosted_after)

    async def read(self, now: float) -> Reading:
        step = self.script[self.looks]
        self.looks += 1
        if not isinstance(step, float):
            raise step
        self.now += step
        return Reading(self.name, now, frozenset({"m"}))

    async def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.now += wait_s
        if self.looks == len(self.script):
            raise EnoughError


@dataclass
class Notes:
    """Who hears of looks."""

    looks: list[tuple[LookEvent, float]] = field(default_factory=list)
    errors: list[tuple[str, str, Fault, str]] = field(default_factory=list)

    def on_look(self, event: LookEvent, duration_s: float) -> None:
        self.looks.append((event, duration_s))

    def on_telemetry_error(self, backend: str, source: str, reason: Fault, message: str) -> None:
        self.errors.append((backend, source, reason, message))


async def play(engine: Engine) -> Notes:
    """Poll until the script is played."""
    notes = Notes()
    with pytest.raises(EnoughError):
        await poll(engine, notes, clock=lambda: engine.now, sleep=engine.sleep)
    return notes


async def test_good_looks_keep_their_pace() -> None:
    """Every half second from start to start, each with the time at which it was asked."""
    engine = Engine([0.125, 0.125])
    notes = await play(engine)
    assert [(event.reading.asked_at, took) for event, took in notes.looks if isinstance(event, BackendRead)] == [
        (100.0, 0.125),
        (100.5, 0.125),
    ]
    assert engine.waits == [0.375, 0.375]


async def test_misses_back_off_and_a_good_look_ends_that() -> None:
    """Half a second, one, two, four, at most five; then the old pace."""
    engine = Engine([*[REFUSED] * 6, 0.0, REFUSED])
    notes = await play(engine)
    assert engine.waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 0.5, 0.5]
    assert notes.looks[0][0] == BackendMissed("one", reachable=False)
    assert notes.errors[0] == ("one", "metrics", Fault.CONNECT, "refused")
    assert len(notes.errors) == 7


async def test_a_slow_engine_is_alive_until_it_never_answers() -> None:
    """A burst makes metrics late; five looks without any answer make a dead engine, and one answer a live one."""
    engine = Engine([*[SLOW] * TIMEOUTS_UNTIL_DOWN, 0.0, SLOW])
    notes = await play(engine)
    reachable = [event.reachable for event, _ in notes.looks if isinstance(event, BackendMissed)]
    assert reachable == [True] * (TIMEOUTS_UNTIL_DOWN - 1) + [False, True]


async def test_garbage_in_between_proves_life() -> None:
    """An answer, even a useless one, starts the count of timeouts anew."""
    engine = Engine([*[SLOW] * (TIMEOUTS_UNTIL_DOWN - 1), GARBAGE, SLOW])
    notes = await play(engine)
    assert all(event.reachable for event, _ in notes.looks if isinstance(event, BackendMissed))
    assert notes.errors[-2][2] is Fault.PARSE


async def test_a_backend_that_turns_out_to_be_hosted_is_added_anew_and_looked_at_rarely() -> None:
    """Admission hears of its new nature before its reading."""
    engine = Engine([REFUSED, 0.0, 0.0], hosted_after=2)
    notes = await play(engine)
    assert [type(event) for event, _ in notes.looks] == [BackendMissed, BackendAdded, BackendRead, BackendRead]
    assert notes.looks[1][0] == BackendAdded(BackendSpec("one", hosted=True))
    assert engine.waits == [0.5, 30.0, 30.0]


async def test_cancelling_ends_a_look_under_way() -> None:
    """The owner's task group can end it at any time; nothing is reported for the look that was cut off."""
    begun = asyncio.Event()

    class Hanging(Engine):
        async def read(self, now: float) -> Reading:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    notes = Notes()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(poll(Hanging([]), notes))
        await begun.wait()
        task.cancel()
    assert task.cancelled()
    assert notes.looks == []


async def test_a_look_is_bounded_as_a_whole() -> None:
    """Pages that each come in time may still take too long together."""

    class Hanging(Engine):
        async def read(self, now: float) -> Reading:
            await asyncio.Event().wait()
            raise AssertionError

    result = await look(Hanging([]), 0.0, look_max_s=0.01)
    assert isinstance(result, TelemetryError)
    assert result.reason is Fault.TIMEOUT


@pytest.mark.parametrize("kind", FailureKind)
def test_every_failure_has_a_word_in_the_metrics(kind: FailureKind) -> None:
    """Closed sets map onto each other; only lost connections mean death at once."""
    failure = UpstreamFailure(kind, "", request_sent=True)
    assert is_reachable(failure, 1) is (kind not in (FailureKind.CONNECT, FailureKind.RESET))
    assert fault_of(failure) in Fault


@given(st.floats(0, 100), st.integers(0, 1000))
def test_waits_are_bounded(duration_s: float, misses: int) -> None:
    """Never a busy loop, never longer than the pace allows."""
    for pace in (ENGINE_PACE, HOSTED_PACE):
        wait_s = pace.wait_s(duration_s, misses)
        assert pace.interval_s / 2 <= wait_s or misses
        assert 0.5 <= wait_s <= pace.retry_max_s or not misses
        assert wait_s <= max(pace.interval_s, pace.retry_max_s)
