"""The asyncio front of admission: `async with gate.enter(ticket) as place`.

Gives events to admission with the loop's time, hands its answers to whoever waits, and keeps its one timer. Nothing is
awaited between an answer and the waiter's wake-up but the waiter itself; if the waiter is cancelled in that moment, its
own exit reports it, whatever the answer was. So a place is left exactly once, on every path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from types import TracebackType
from typing import Protocol

from estimator.output_length import OutputForecast
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
from gateway.domain import Outcome, Refusal, ServedModel, Ticket, Usage
from gateway.survey import Survey

PROGRESS_INTERVAL_S = 0.05
"""Streams' progress is handed over at most so often, and only beside another event: a chunk costs admission nothing."""
PROGRESS_LATE_S = 0.5
"""With an arrival only if it is so late: it takes longer than a decision, for which somebody waits."""


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
        """Those of the commands that hold at once. The gate hears of the others later: `told`, or `Denied`."""


class Deciding(Protocol):
    """What a gate needs of `Admission`: the thing itself, or its stand-in in another process."""

    def handle(self, event: Event, now: float) -> list[Command]: ...
    def next_timer(self) -> float | None: ...
    def handle_timer(self, now: float) -> list[Command]: ...
    def consider(self, ticket: Ticket, now: float) -> Verdict | Awaitable[Verdict]: ...
    def models(self) -> frozenset[str]: ...
    def served(self, model: str) -> ServedModel | None: ...
    def is_known(self) -> bool: ...
    def holding(self, backend: str, now: float, *, closely: bool = False) -> Holding | None: ...
    def snapshot(self) -> Snapshot: ...


class Carrier(Protocol):
    """Who carries a request: its task, or what stands for one in another process."""

    def cancel(self) -> object:
        """End it now."""


class Place:
    """A request's place on a backend. Left when its block is left, or before, by `end`."""

    __slots__ = ("_gate", "admit", "ended", "id", "output_tokens", "reported_tokens", "sent", "task")

    def __init__(self, gate: Gate, admit: Admit, task: Carrier) -> None:
        self._gate = gate
        self.task = task
        """Who carries the request."""
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

    def end(self, outcome: Outcome, usage: Usage | None = None, *, failure: bytes | None = None) -> None:
        """The request is over. Only the first end counts.

        Args:
            outcome: how it ended.
            usage: as the engine reported it.
            failure: where it was the backend that failed: what names the request, whenever it is tried again.
        """
        if not self.ended:
            self.ended = True
            self._gate.left(self, outcome, usage, failure)


class Gate:
    """See the module. To be used within one event loop."""

    def __init__(
        self, admission: Deciding, loop: asyncio.AbstractEventLoop, listeners: Sequence[Listener] = ()
    ) -> None:
        self._admission = admission
        self._loop = loop
        self._task_loop = asyncio.get_running_loop()  # To look it up costs a system call.
        self._listeners = tuple(listeners)
        self._waiting: dict[int, _Waiter | _Call] = {}
        self._places: dict[int, Place] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._progress_at = 0.0
        self._next_id = 0
        self._departed = asyncio.Event()
        self._survey = Survey()
        self.sharing: Sharing | None = None
        """Where other gateways send to the same backends."""
        self.is_cut = False
        """Whoever is inside is told to leave: this gateway waits no longer."""

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
        self._survey.note(event)

    def left(self, place: Place, outcome: Outcome, usage: Usage | None, failure: bytes | None) -> None:
        """A place was left; called once, by the place itself."""
        self._report_progress(self._loop.time())  # Its own too.
        del self._places[place.id]
        self._step(Left(place.id, outcome, usage, failure))
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

    def told(self, commands: Sequence[Command]) -> None:
        """Commands that come later than their events: other gateways had to be asked, or another process decides."""
        self._tell(None, commands, self.now())
        self._arm()

    def holding(self, backend: str, *, closely: bool = False) -> Holding | None:
        """What to tell other gateways of an engine; None where there is nothing to tell yet."""
        return self._admission.holding(backend, self.now(), closely=closely)

    def models(self) -> dict[str, ServedModel]:
        """Models that any backend has said it serves, by name."""
        names, served = sorted(self._admission.models()), self._admission.served
        return {name: model for name in names if (model := served(name)) is not None}

    def served(self, model: str) -> ServedModel | None:
        """What is known of a model; None if no backend has said that it serves it."""
        return self._admission.served(model)

    @property
    def is_surveyed(self) -> bool:
        """Whether each backend was looked at, whatever came of it."""
        return self._survey.is_over

    @property
    def is_known(self) -> bool:
        """Whether every backend has answered: there are no other models than theirs."""
        return self._admission.is_known()

    async def surveyed(self) -> bool:
        """Wait for the first look at each backend, a moment after the start; whether all of them have answered."""
        await self._survey.end()
        return self._admission.is_known()

    async def consider(self, ticket: Ticket) -> Verdict:
        """What would be answered if the request came now; it does not."""
        verdict = self.verdict(ticket)
        return verdict if isinstance(verdict, Verdict) else await verdict

    def verdict(self, ticket: Ticket) -> Verdict | Awaitable[Verdict]:
        """The same at once, where admission is in this process."""
        self._step(None)
        return self._admission.consider(ticket, self.now())

    def snapshot(self) -> Snapshot:
        """Everything as of now."""
        self._step(None)
        return self._admission.snapshot()

    def start_drain(self) -> None:
        """Turn away whoever waits or comes from now on."""
        self._step(DrainStarted())

    def cut(self) -> None:
        """End what still runs, now: each task with a place is cancelled, and can see by `is_cut` who wanted it."""
        self.is_cut = True
        for place in self._places.values():
            place.task.cancel()

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
        waiter = self._waiting[ticket.id] = _Waiter()
        is_told = False
        try:
            self._step(Arrived(ticket))
            if waiter.answer is None:
                waiter.answered = self._loop.create_future()
                await waiter.answered
            assert waiter.answer is not None
            is_told = True
            return waiter.answer
        finally:
            del self._waiting[ticket.id]
            if not is_told and not isinstance(waiter.answer, Refuse):
                self._step(Left(ticket.id, Outcome.NOT_SENT))
            self._departed.set()

    def ask(self, ticket: Ticket, on_answer: Callable[[Command], None]) -> None:
        """Ask for a place without waiting: who asks is called, perhaps before this returns, or `withdraw`s."""
        self._waiting[ticket.id] = _Call(self._waiting, on_answer)
        self._step(Arrived(ticket))

    def withdraw(self, ticket_id: int) -> None:
        """Whoever `ask`ed and was not called yet wants no place any more."""
        del self._waiting[ticket_id]
        self._step(Left(ticket_id, Outcome.NOT_SENT))
        self._departed.set()

    def occupy(self, admit: Admit, carrier: Carrier | None = None) -> Place:
        """Open the place that admission has given; for this task, if it is for nobody else."""
        carrier = carrier or asyncio.current_task(self._task_loop)
        assert carrier is not None
        place = self._places[admit.ticket_id] = Place(self, admit, carrier)
        return place

    def _step(self, event: Event | None) -> None:
        """One call of admission: an event, or the passing of time."""
        now, started = self._loop.time(), perf_counter()
        self._report_progress(now, PROGRESS_LATE_S if isinstance(event, Arrived) else 0.0)
        commands = self._admission.handle_timer(now) if event is None else self._admission.handle(event, now)
        duration_s = perf_counter() - started
        self._tell(event, commands if self.sharing is None else self.sharing.screen(event, commands, now), now)
        self._arm()
        for listener in self._listeners:
            listener.on_decision(duration_s)

    def _tell(self, event: Event | None, commands: Sequence[Command], now: float) -> None:
        for command in commands:
            if (waiter := self._waiting.get(command.ticket_id)) is not None:
                waiter.tell(command)
        for listener in self._listeners:
            listener.on_admission(now, event, commands)

    def _report_progress(self, now: float, late_s: float = 0.0) -> None:
        if now < self._progress_at + late_s:
            return
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

    def __init__(self) -> None:
        self.answer: Command | None = None
        self.answered: asyncio.Future[None] | None = None  # Mostly the answer is there at once.

    def tell(self, command: Command) -> None:
        self.answer = command
        if self.answered is not None and not self.answered.done():
            self.answered.set_result(None)


class _Call:
    """Who asked and went on with something else."""

    __slots__ = ("_on_answer", "_waiting", "answer")

    def __init__(self, waiting: dict[int, _Waiter | _Call], on_answer: Callable[[Command], None]) -> None:
        self._waiting = waiting
        self._on_answer = on_answer
        self.answer = None
        """As `_Waiter`; once there is one, it does not wait any more."""

    def tell(self, command: Command) -> None:
        del self._waiting[command.ticket_id]
        self._on_answer(command)


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
