"""One worker in the eyes of its owner: its requests stand at the owner's gate like any others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from estimator.output_length import ENDLESS
from gateway.admission.commands import Command, Refuse
from gateway.admission.consider import Verdict
from gateway.admission.events import BackendBusy
from gateway.domain import Outcome, Ticket
from gateway.front import Parts
from gateway.gate import Place
from gateway.pricing import Answer
from gateway.workers.messages import (
    Admitted,
    Arrive,
    Begun,
    Built,
    Busy,
    Cleared,
    Consider,
    Considered,
    Cut,
    Died,
    Ended,
    Follow,
    Lag,
    Learn,
    LearnCut,
    Leave,
    Missed,
    Opened,
    Progress,
    Refused,
    ToOwner,
    ToWorker,
    Unfollow,
)


@dataclass(frozen=True, slots=True)
class _Cutting:
    """What a place has for a task: to end it, its worker is told."""

    send: Callable[[ToWorker], None]

    def cancel(self) -> object:
        self.send(Cut())
        return None


class Guest:
    """Takes what a worker says. Whatever it holds is given back when it is `lost`.

    Args:
        parts: what it asks; the worker has the same configuration.
        send: to the worker.
        on_other: called with what is not about its requests.
    """

    def __init__(
        self,
        parts: Parts,
        send: Callable[[ToWorker], None],
        on_other: Callable[[Built | Opened | Died | Cleared], None],
    ) -> None:
        self._parts = parts
        self._gate, self._pricing = parts.gate, parts.pricing
        self._send = send
        self._on_other = on_other
        self._known = {backend.name: parts.backends[backend.name] for backend in parts.config.backends}
        """As the worker has them."""
        self.silent_turns = 0
        """For the owner to count how long nothing was heard of the worker's event loop."""
        self._cutting = _Cutting(send)
        self._waiting: dict[int, int] = {}
        """The gate's number of a ticket, by the worker's; for `_places` and `_answers` likewise."""
        self._places: dict[int, Place] = {}
        self._answers: dict[int, Answer] = {}

    def take(self, message: ToOwner) -> None:  # noqa: C901, PLR0912  # one line per kind of message
        """The worker said something."""
        match message:
            case Arrive(ticket):
                self._ask(ticket.id, ticket)
            case Leave():
                self._left(message)
            case Progress(outputs):
                for ticket_id, tokens in outputs:
                    if (place := self._places.get(ticket_id)) is not None:
                        place.output_tokens = tokens
            case Follow(ticket_id, model, shape, runs_to_max):
                if (place := self._places.get(ticket_id)) is not None:
                    self._answers[ticket_id] = self._pricing.follow(model, shape, place, runs_to_max=runs_to_max)
            case Learn(ticket_id, usage, end, events):
                if (answer := self._answers.get(ticket_id)) is not None:
                    self._pricing.learn(answer, usage, end, events=events)
            case LearnCut(ticket_id, output_tokens):
                if (answer := self._answers.get(ticket_id)) is not None:
                    self._pricing.learn_cut(answer, output_tokens)
            case Unfollow(ticket_id):
                if (answer := self._answers.pop(ticket_id, None)) is not None:
                    self._pricing.unfollow(answer)
            case Begun(record):
                self._parts.on_admitted(record.request_id, lambda: record)
            case Ended(record, is_new):
                if is_new:
                    self._parts.on_admitted(record.request_id, lambda: record)
                self._parts.on_record(record)
            case Consider(ticket):
                verdict = self._gate.verdict(self._ours(ticket))
                assert isinstance(verdict, Verdict)
                self._send(Considered(verdict))
            case Busy(backend, until):
                self._gate.hear(BackendBusy(backend, until))
            case Missed(backend):
                self._gate.unreachable(backend)
            case Lag(lag_s):
                self.silent_turns = 0
                self._parts.metrics.on_loop_lag(lag_s)
            case Built() | Opened() | Died() | Cleared():
                self._on_other(message)

    def lost(self) -> None:
        """The worker is gone. Engines may go on with what it had sent."""
        while self._waiting:  # One that withdraws may let in the next.
            _, ours = self._waiting.popitem()
            self._gate.withdraw(ours)
        while self._places:
            _, place = self._places.popitem()
            place.end(Outcome.CANCELLED)
        while self._answers:
            _, answer = self._answers.popitem()
            self._pricing.unfollow(answer)

    def _ask(self, theirs: int, ticket: Ticket) -> None:
        ours = self._ours(ticket)
        self._waiting[theirs] = ours.id
        self._gate.ask(ours, lambda command: self._told(theirs, ticket, command))

    def _ours(self, ticket: Ticket) -> Ticket:
        """A worker's ticket with a number of the gate's, and what is known here of how long answers get."""
        lengths = self._pricing.of(ticket.model).demand.output_lengths
        output = ENDLESS if ticket.runs_to_max else lengths.forecast()
        return replace(ticket, id=self._gate.next_ticket_id(), demand=replace(ticket.demand, output=output))

    def _told(self, theirs: int, ticket: Ticket, command: Command) -> None:
        del self._waiting[theirs]
        if isinstance(command, Refuse):
            self._send(Refused(theirs, command.refusal))
            return
        self._places[theirs] = self._gate.occupy(command, self._cutting)
        if self._finds(command.backend, ticket.model):
            self._send(Admitted(replace(command, ticket_id=theirs)))
        else:
            asyncio.get_running_loop().call_soon(self._ask_for_another, theirs, ticket)

    def _finds(self, name: str, model: str) -> bool:
        """Whether the worker would send there what it is to: a reload may have added the backend since, or moved it."""
        known, now = self._known.get(name), self._parts.backends[name]
        if known is now or known is None:
            return known is not None
        return known.url == now.url and known.engine_model(model) == now.engine_model(model)

    def _ask_for_another(self, theirs: int, ticket: Ticket) -> None:
        place = self._places.pop(theirs, None)
        if place is not None:
            place.end(Outcome.NOT_SENT)
            unknown = {name for name in self._parts.backends if not self._finds(name, ticket.model)}
            self._ask(theirs, replace(ticket, excluded=ticket.excluded | unknown))

    def _left(self, message: Leave) -> None:
        ours = self._waiting.pop(message.ticket_id, None)
        if ours is not None:
            self._gate.withdraw(ours)
        elif (place := self._places.pop(message.ticket_id, None)) is not None:
            place.end(message.outcome, message.usage, failure=message.failure)
