"""Admission as a worker's gate meets it: events go to the owner, and its commands come back by `Gate.told`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NoReturn

from estimator.output_length import OutputForecast
from gateway.admission.commands import Command, Refuse
from gateway.admission.consider import Verdict
from gateway.admission.events import Arrived, BackendBusy, BackendMissed, Event, Left, Progressed
from gateway.admission.holding import Holding
from gateway.admission.snapshot import Snapshot
from gateway.domain import Reason, Refusal, ServedModel, Ticket
from gateway.workers.messages import (
    Admitted,
    Arrive,
    Busy,
    Consider,
    Leave,
    Missed,
    Progress,
    Refused,
    State,
    ToOwner,
)

PROGRESS_EVERY_S = 0.1
"""How often the owner hears how far streams have come, while any run."""
RETRY_LOST_S = 1.0
"""When a request may come back that found no owner: to another gateway, or to this one's next life."""
_UNSAID = OutputForecast((), (), ())
"""Stands for the forecast, which the owner knows better."""
_LOST = Refusal(Reason.SHUTDOWN, RETRY_LOST_S)


class RemoteAdmission:
    """The part of `Admission` that a gate needs.

    Args:
        send: to the owner.
    """

    def __init__(self, send: Callable[[ToOwner], None]) -> None:
        self._send = send
        self._models: Mapping[str, ServedModel] = {}
        self._names: frozenset[str] = frozenset()
        self._is_known = False
        self._waiting: set[int] = set()
        self._running: set[int] = set()
        self._due: float | None = None
        self._asked: deque[asyncio.Future[Verdict]] = deque()
        self._is_lost = False

    def learn_state(self, state: State) -> None:
        """The owner told what it knows."""
        self._models, self._is_known = state.models, state.is_known
        self._names = frozenset(state.models)

    def commands(self, message: Admitted | Refused, now: float) -> list[Command]:
        """The owner's word, as a gate takes it; nothing for who has left while it was on its way."""
        ticket_id = message.ticket_id if isinstance(message, Refused) else message.admit.ticket_id
        if ticket_id not in self._waiting:
            return []
        self._waiting.remove(ticket_id)
        if isinstance(message, Refused):
            return [Refuse(ticket_id, message.refusal)]
        self._running.add(ticket_id)
        if self._due is None:
            self._due = now + PROGRESS_EVERY_S
        return [message.admit]

    def lost(self) -> list[Command]:
        """The owner is gone, and will not answer: nor will anybody be let in from now on."""
        self._is_lost = True
        refused: list[Command] = [Refuse(ticket_id, _LOST) for ticket_id in self._waiting]
        self._waiting.clear()
        while self._asked:
            self.considered(_lost_verdict())
        return refused

    def handle(self, event: Event, now: float) -> list[Command]:  # noqa: ARG002  # as `Admission`
        """Pass an event on. What comes of it comes later."""
        match event:
            case Arrived(ticket) if self._is_lost:
                return [Refuse(ticket.id, _LOST)]
            case Arrived(ticket):
                self._waiting.add(ticket.id)
                self._send(Arrive(_lean(ticket)))
            case Left(ticket_id, outcome, usage, failure):
                self._waiting.discard(ticket_id)
                self._running.discard(ticket_id)
                self._send(Leave(ticket_id, outcome, usage, failure))
            case Progressed(outputs):
                self._send(Progress(outputs))
            case BackendBusy(backend, until):
                self._send(Busy(backend, until))
            case BackendMissed(backend):
                self._send(Missed(backend))
            case _:
                raise TypeError(f"a worker has no {type(event).__name__}")
        return []

    def next_timer(self) -> float | None:
        """When streams' progress is due."""
        return self._due

    def handle_timer(self, now: float) -> list[Command]:
        """Time has passed; the gate has just reported progress."""
        if self._due is not None and now >= self._due:
            self._due = now + PROGRESS_EVERY_S if self._running else None
        return []

    def models(self) -> frozenset[str]:
        """Models that any backend has said it serves."""
        return self._names

    def is_known(self) -> bool:
        """Whether every backend has answered a look."""
        return self._is_known

    def served(self, model: str) -> ServedModel | None:
        """What is known of a model; None if no backend has said that it serves it."""
        return self._models.get(model)

    async def consider(self, ticket: Ticket, now: float) -> Verdict:  # noqa: ARG002  # the owner has its own clock
        """What would become of a request."""
        if self._is_lost:
            return _lost_verdict()
        asked: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self._send(Consider(_lean(ticket)))
        return await asked

    def considered(self, verdict: Verdict) -> None:
        """The answer to the oldest question; whoever asked may have gone."""
        asked = self._asked.popleft()
        if not asked.done():
            asked.set_result(verdict)

    def snapshot(self) -> Snapshot:
        """The books are the owner's."""
        return _owners("books")

    def holding(self, backend: str, now: float, *, closely: bool = False) -> Holding | None:  # noqa: ARG002
        """So is what other gateways are told."""
        return _owners("ledger")


def _lean(ticket: Ticket) -> Ticket:
    return replace(ticket, demand=replace(ticket.demand, output=_UNSAID))


def _lost_verdict() -> Verdict:
    return Verdict("refuse", _LOST.reason, retry_after_s=RETRY_LOST_S)


def _owners(what: str) -> NoReturn:
    raise TypeError(f"a worker has no {what}")
