"""Reports that are held back say in the end what they would have said at once."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import structlog

from gateway.admission.commands import Admit
from gateway.admission.events import Arrived, Left
from gateway.domain import Outcome, Reason
from gateway.reporting.gathered import HELD_MAX, HELD_MAX_S, Gathered
from gateway.reporting.logs import Logs, configure
from tests.reporting.page import Page
from tests.reporting.samples import CHAT, OURS, metrics_of_both, record, snapshot, ticket

ANSWERED = {"endpoint": CHAT, "model_name": "m", "backend": "b", "code": "200"}


class Loop:
    """Notes what it is to call, and when."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.timers: list[Timer] = []
        self.errors: list[object] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """For arguments that take a loop."""
        return cast("asyncio.AbstractEventLoop", self)

    def time(self) -> float:
        return 100.0

    def call_at(self, when: float, callback: Callable[[], None]) -> "Timer":
        self.timers.append(Timer(self, when, callback))
        return self.timers[-1]

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_exception_handler(self, context: dict[str, object]) -> None:
        self.errors.append(context["exception"])


class Timer:
    def __init__(self, loop: Loop, when: float, callback: Callable[[], None]) -> None:
        self._loop = loop
        self.when = when
        self._callback = callback

    def cancel(self) -> None:
        self._loop.timers.remove(self)

    def ring(self) -> None:
        self.cancel()
        self._callback()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(stream: io.StringIO) -> Iterator[Logs]:
    """JSON lines; pytest's own handlers come back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs = configure("info", "json", stream)
    yield logs
    logs.close()
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_what_is_held_is_told_a_moment_later(logs: Logs, stream: io.StringIO) -> None:
    """By one timer for all of it, and the next one only when there is something again."""
    loop, metrics = Loop(), metrics_of_both()
    gathered = Gathered(loop.loop, metrics, logs)
    gathered.on_admission(1.0, Arrived(ticket(1)), [Admit(1, "b", Reason.OK, kv_tokens=112)])
    gathered.on_decision(0.25)
    gathered.on_admission(2.0, Left(1, Outcome.FINISHED), [])
    gathered.on_record(record())
    (timer,) = loop.timers
    assert timer.when == 100 + HELD_MAX_S
    assert Page(metrics).get("requests_total", **ANSWERED) == 0
    timer.ring()
    page = Page(metrics)
    assert page.get("requests_total", **ANSWERED) == 1
    assert page.get("admission_tokens_total", model_name="m", priority="interactive", outcome="admitted") == 112
    assert page.get("requests_in_flight", model_name="m", backend="b", priority="interactive") == 0
    assert page.get("admission_decision_duration_seconds_sum") == 0.25
    assert loop.timers == []
    gathered.on_record(record())
    assert len(loop.timers) == 1
    logs.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_enough_is_told_in_the_next_turn_of_the_loop(logs: Logs) -> None:
    """However much comes in this one, that is asked for once; and again when it was done."""
    loop, metrics = Loop(), metrics_of_both()
    gathered = Gathered(loop.loop, metrics, logs)
    for _ in range(2):
        for _ in range(HELD_MAX + 2):
            gathered.on_record(record())
        (tell,) = loop.soon
        loop.soon.clear()
        tell()
    assert Page(metrics).get("requests_total", **ANSWERED) == 2 * HELD_MAX + 4


def test_other_reports_keep_their_place(logs: Logs) -> None:
    """One may bring up another, which is told a moment later, and at the end before the end."""
    loop, metrics, told = Loop(), metrics_of_both(), list[str]()
    gathered = Gathered(loop.loop, metrics, logs)

    def learn() -> None:
        told.append(f"learned after {Page(metrics).get('requests_total', **ANSWERED):.0f}")
        gathered.add(lambda: told.append("said so"))

    gathered.on_record(record())
    gathered.add(learn)
    gathered.on_record(record())
    assert told == []
    loop.timers[0].ring()
    assert told == ["learned after 1"]
    loop.timers[0].ring()
    assert told == ["learned after 1", "said so"]
    gathered.add(learn)
    gathered.close()
    assert told[2:] == ["learned after 2", "said so"]
    assert loop.timers == []


def test_one_that_fails_costs_no_other(logs: Logs) -> None:
    """The loop hears of it; the rest is told."""
    loop, metrics, told = Loop(), metrics_of_both(), list[str]()
    gathered, broken = Gathered(loop.loop, metrics, logs), ValueError("broken")

    def fail() -> None:
        raise broken

    gathered.add(fail)
    gathered.add(lambda: told.append("the next"))
    gathered.tell()
    assert told == ["the next"]
    assert loop.errors == [broken]


def test_whoever_looks_sees_all(logs: Logs) -> None:
    """The metrics' page, and the counts of decisions on the other one."""
    metrics = metrics_of_both()
    gathered = Gathered(Loop().loop, metrics, logs)
    gathered.on_record(record())
    metrics.refresh(snapshot(1.0, OURS), {"b": "vllm"})
    assert Page(metrics).get("requests_total", **ANSWERED) == 1
    gathered.on_admission(1.0, Arrived(ticket(1)), [Admit(1, "b", Reason.OK, kv_tokens=112)])
    assert [decision["count"] for decision in metrics.decision_counts()] == [1]


def test_the_end_tells_the_rest(logs: Logs) -> None:
    loop, metrics = Loop(), metrics_of_both()
    gathered = Gathered(loop.loop, metrics, logs)
    gathered.close()
    gathered.on_record(record())
    gathered.close()
    assert Page(metrics).get("requests_total", **ANSWERED) == 1
    assert loop.timers == []


def test_a_line_bears_the_time_of_its_request(logs: Logs, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of its telling."""
    gathered = Gathered(Loop().loop, metrics_of_both(), logs)
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.5)
    gathered.on_record(record())
    monkeypatch.undo()
    gathered.close()
    logs.close()
    assert json.loads(stream.getvalue())["ts"] == "2001-09-09T01:46:40.500000Z"


def test_people_see_a_line_at_once(stream: io.StringIO, logs: Logs) -> None:
    """It bears the time at which it is made, and costs too much for many to be made in a row."""
    console = configure("info", "console", stream)
    Gathered(Loop().loop, metrics_of_both(), console).on_record(record())
    console.close()
    assert "request_id=r" in stream.getvalue()
