"""The asyncio front of admission: `async with gate.enter(ticket) as place`.

Gives events to admission with the loop's time, hands its answers to whoever waits, and keeps its one timer. Nothing is
awaited between an answer and the waiter's wake-up but the waiter itself; if the waiter is cancelled in that moment, its
own exit reports it, whatever the answer was. So a place is left exactly once, on every path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import Protocol

from estimator.output_length import OutputForecast
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.consider import Verdict
from gateway.admission.events import (
    Arrived,
    BackendBusy,
    BackendMissed,
    DrainStarted,
    Event,
    Learned,
    Left,
    Progressed,
)
from gateway.admission.holding import Holding
from gateway.admission.snapshot import Snapshot
from gateway.domain import Outcome, Refusal, Ticket, Usage

PROGRESS_INTERVAL_S = 0.05
"""Streams' progress is handed over at most so often, and only together with another event: a chunk costs admission
nothing."""


class RefusedError(Exception):
    """Admission turned the request away."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason.value)
        self.refusal = refusal


class Listener(Protocol):
    """Who hears of every step of admission."""

    def on_admission(self, now: float, event: Event | None, commands: Sequence[Command]) -> None:
        """Admission took in an event (None: time passed) and gave these commands."""

    def on_decision(self, duration_s: float) -> None:
        """How long that took."""


class Sharing(Protocol):
    """Who asks the other gateways before a request is sent. Must not call the gate from here."""

    def screen(self, event: Event | None, commands: Sequence[Command], now: float) -> Sequence[Command]:
        """Those of the commands that hold at once. The gate hears of the others later: `granted`, or `Denied`."""


class Place:
    """A request's place on a backend. Left when its block is left, or before, by `end`."""

    __slots__ = ("_gate", "admit", "ended", "id", "output_tokens", "reported_tokens", "sent")

    def __init__(self, gate: Gate, admit: Admit) -> None:
        self._gate = gate
        self.id = admit.ticket_id
        self.admit = admit
        self.output_tokens = 0
        """Over all sequences, as far as it has streamed; written by whoever counts."""
        self.reported_tokens = 0
        self.sent = False
        """Whether the backend may have got the request; written by whoever sends it."""
        self.ended = False

    @property
    def backend(self) -> str:
        """Where to send the request."""
        return self.admit.backend

    def end(self, outcome: Outcome, usage: Usage | None = None) -> None:
        """The request is over. Only the first end counts."""
        if not self.ended:
            self.ended = True
            self._gate.left(self, outcome, usage)


class Gate:
    """See the module. To be used within one event loop."""

    def __init__(
        self, admission: Admission, loop: asyncio.AbstractEventLoop, listeners: Sequence[Listener] = ()
    ) -> None:
        self._admission = admission
        self._loop = loop
        self._listeners = tuple(listeners)
        self._waiting: dict[int, _Waiter] = {}
        self._places: dict[int, Place] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._progress_at = 0.0
        self._next_id = 0
        self._departed = asyncio.Event()
        self.sharing: Sharing | None = None
        """Where other gateways send to the same backends."""

    def now(self) -> float:
        """The time that deadlines are given in."""
        return self._loop.time()

    def next_ticket_id(self) -> int:
        """A number that no other ticket of this gate has."""
        self._next_id += 1
        return self._next_id

    def enter(self, ticket: Ticket) -> _Entering:
        """Wait for a place; the block runs with it.

        Raises:
            RefusedError: on entering.
        """
        return _Entering(self, ticket)

    def hear(self, event: Event) -> None:
        """Something happened that no waiting request is the subject of."""
        self._step(event)

    def left(self, place: Place, outcome: Outcome, usage: Usage | None) -> None:
        """A place was left; called once, by the place itself."""
        del self._places[place.id]
        self._step(Left(place.id, outcome, usage))
        self._departed.set()

    def busy(self, backend: str, for_s: float) -> None:
        """A backend asked to be left alone for so long."""
        self._step(BackendBusy(backend, self.now() + for_s))

    def unreachable(self, backend: str) -> None:
        """A request could not be delivered to a backend."""
        self._step(BackendMissed(backend, reachable=False))

    def learned(self, model: str, output: OutputForecast) -> None:
        """The length of a model's answers is now known better."""
        self._step(Learned(model, output))

    def granted(self, admits: Sequence[Admit]) -> None:
        """The other gateways leave room for these: they hold."""
        self._tell(None, admits, self.now())

    def holding(self, backend: str, *, closely: bool = False) -> Holding | None:
        """What to tell other gateways of an engine; None where there is nothing to tell yet."""
        return self._admission.holding(backend, self.now(), closely=closely)

    def models(self) -> frozenset[str]:
        """Models that any backend has said it serves."""
        return self._admission.models()

    def engines(self, model: str) -> int:
        """How many own engines serve a model."""
        return self._admission.engines(model)

    def context_tokens(self, model: str) -> int | None:
        """Longest prompt plus output that an own backend takes for a model."""
        return self._admission.context_tokens(model)

    def consider(self, ticket: Ticket) -> Verdict:
        """What would be answered if the request came now; it does not."""
        self._step(None)
        return self._admission.consider(ticket, self.now())

    def snapshot(self) -> Snapshot:
        """Everything as of now."""
        self._step(None)
        return self._admission.snapshot()

    def start_drain(self) -> None:
        """Turn away whoever waits or comes from now on."""
        self._step(DrainStarted())

    async def drained(self) -> None:
        """Wait until nobody is inside."""
        while self._places or self._waiting:
            await self._departure()

    async def vacated(self, backend: str) -> None:
        """Wait until no request has a place on a backend."""
        while self._is_taken(backend):
            await self._departure()

    async def admit(self, ticket: Ticket) -> Command:
        """Admission's answer, waiting for it if need be. If cancelled, even after the answer, the request has left."""
        waiter = self._waiting[ticket.id] = _Waiter(self._loop.create_future())
        is_told = False
        try:
            self._step(Arrived(ticket))
            await waiter.answered
            assert waiter.answer is not None
            is_told = True
            return waiter.answer
        finally:
            del self._waiting[ticket.id]
            if not is_told and not isinstance(waiter.answer, Refuse):
                self._step(Left(ticket.id, Outcome.NOT_SENT))
            self._departed.set()

    def occupy(self, admit: Admit) -> Place:
        """Open the place that admission has given."""
        place = Place(self, admit)
        self._places[place.id] = place
        return place

    def _step(self, event: Event | None) -> None:
        """One call of admission: an event, or the passing of time."""
        now = self._loop.time()
        started = perf_counter()
        if now >= self._progress_at:
            self._report_progress(now)
        commands = self._admission.handle_timer(now) if event is None else self._admission.handle(event, now)
        duration_s = perf_counter() - started
        self._tell(event, commands if self.sharing is None else self.sharing.screen(event, commands, now), now)
        self._arm()
        for listener in self._listeners:
            listener.on_decision(duration_s)

    def _tell(self, event: Event | None, commands: Sequence[Command], now: float) -> None:
        for command in commands:
            waiter = self._waiting.get(command.ticket_id)
            if waiter is not None:
                waiter.tell(command)
        for listener in self._listeners:
            listener.on_admission(now, event, commands)

    def _report_progress(self, now: float) -> None:
        self._progress_at = now + PROGRESS_INTERVAL_S
        moved = [place for place in self._places.values() if place.output_tokens != place.reported_tokens]
        if moved:
            for place in moved:
                place.reported_tokens = place.output_tokens
            self._admission.handle(Progressed(tuple((place.id, place.output_tokens) for place in moved)), now)

    def _arm(self) -> None:
        due = self._admission.next_timer()
        if due == self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = None if due is None else self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = self._due = None
        self._step(None)

    async def handed_over(self) -> None:
        """Wait until everybody who was told of a place has taken it: a moment."""
        while any(isinstance(waiter.answer, Admit) for waiter in self._waiting.values()):  # noqa: ASYNC110  # next turn
            await asyncio.sleep(0)

    async def _departure(self) -> None:
        self._departed.clear()
        await self._departed.wait()

    def _is_taken(self, backend: str) -> bool:
        if any(place.backend == backend for place in self._places.values()):
            return True
        answers = (waiter.answer for waiter in self._waiting.values())
        return any(isinstance(answer, Admit) and answer.backend == backend for answer in answers)


class _Waiter:
    """Who waits for an answer. Keeps it even if the wait was cancelled a moment before: both can fall into one tick."""

    __slots__ = ("answer", "answered")

    def __init__(self, answered: asyncio.Future[None]) -> None:
        self.answered = answered
        self.answer: Command | None = None

    def tell(self, command: Command) -> None:
        self.answer = command
        if not self.answered.done():
            self.answered.set_result(None)


class _Entering:
    """The `async with` of a place."""

    __slots__ = ("_gate", "_place", "_ticket")

    def __init__(self, gate: Gate, ticket: Ticket) -> None:
        self._gate = gate
        self._ticket = ticket

    async def __aenter__(self) -> Place:
        command = await self._gate.admit(self._ticket)
        if isinstance(command, Refuse):
            raise RefusedError(command.refusal)
        self._place = self._gate.occupy(command)
        return self._place

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever knows better has said so with `end`. Otherwise an engine that was asked may still be at work.
        self._place.end(Outcome.CANCELLED if self._place.sent else Outcome.NOT_SENT)
