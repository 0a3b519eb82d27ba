"""What has just happened is told to metrics and log, and learned from, some requests at a time.

Told at once, in the midst of other work, a report finds nothing that it needs in the processor's caches. Told in a row
all but the first do, and cost less than half. What is told is the same, in the same order, and whoever reads metrics or
what was learned has it told first. A crash loses what is held: no more than the log itself, which is written as late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from gateway.admission.commands import Command
from gateway.admission.events import Event
from gateway.reporting.logs import Logs
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord

HELD_MAX = 64
"""Reports of about 16 requests: to tell them takes less than to serve one."""
HELD_MAX_S = 0.05


class Gathered:
    """Stands before metrics, log and learning, and hears of whatever comes with each request; a `gate.Listener`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics, logs: Logs) -> None:
        self._loop = loop
        self._metrics = metrics
        self._logs = logs
        self._held: list[Callable[[], None]] = []
        self._durations_s: list[float] = []
        self._is_full = False
        self._timer: asyncio.TimerHandle | None = None
        metrics.catch_up = self.tell

    def add(self, report: Callable[[], None]) -> None:
        """Take a report of another kind: to call it is to tell it."""
        self._held.append(report)
        if self._timer is None:
            self._start_timer()

    def on_admission(self, now: float, event: Event | None, commands: Sequence[Command]) -> None:
        """Admission took in an event (None: time passed) and gave these commands; nobody changes them any more."""
        self._held.append(partial(self._metrics.on_admission, now, event, commands))
        if self._timer is None:
            self._start_timer()

    def on_decision(self, duration_s: float) -> None:
        """How long that took."""
        self._durations_s.append(duration_s)

    def on_record(self, record: RequestRecord) -> None:
        """A request is over. Its line in the log bears the time of this call."""
        self._held.append(partial(self._ended, record, time.time()))  # noqa: TID251  # a log knows the wall clock
        if not self._logs.is_json:
            self._logs.request(record)
        if self._timer is None:
            self._start_timer()
        if len(self._held) >= HELD_MAX and not self._is_full:
            self._is_full = True
            self._loop.call_soon(self.tell)  # After the work at hand: that has a client.

    def tell(self) -> None:
        """Tell all that is held, now."""
        held, self._held = self._held, []
        durations_s, self._durations_s = self._durations_s, []
        self._is_full = False
        for duration_s in durations_s:
            self._metrics.on_decision(duration_s)
        for told in held:
            try:
                told()
            except Exception as error:  # noqa: BLE001  # a mistake of ours in one report must cost no other
                self._loop.call_exception_handler({"message": "a report could not be told", "exception": error})

    def close(self) -> None:
        """Tell the rest, and what comes of that."""
        while self._held:
            self.tell()
        if self._timer is not None:
            self._timer.cancel()

    def _ended(self, record: RequestRecord, unix_s: float) -> None:
        self._metrics.on_request(record)
        if self._logs.is_json:
            self._logs.request(record, unix_s)

    def _start_timer(self) -> None:
        self._timer = self._loop.call_at(self._loop.time() + HELD_MAX_S, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.tell()
