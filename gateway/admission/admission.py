"""Admission: whether, when and where. Sans-I/O: events and the time in, commands out.

Law: nothing here waits, reads a clock, or rolls dice; whoever calls carries the commands out. Events are listed in
`events` (`Arrived`, `Progressed`, `Left`, `Learned`; `BackendAdded`, `BackendChanged`, `BackendDraining`,
`BackendResumed`, `BackendRemoved`; `BackendRead`, `BackendMissed`, `BackendBusy`; `OthersHold`, `Denied`;
`LimitsChanged`, `DrainStarted`), commands in `commands` (`Admit`, `Refuse`).

Promises, each an invariant of the tests:
 1. Every ticket gets exactly one of Admit or Refuse, unless it left first.
 2. At the time of an Admit the backend's predicted peak is within what the policy allows.
 3. Totals equal the sum of the leases.
 4. The queue is never longer than its bound.
 5. After any call `next_timer()` is None or later than now.
 6. Time never goes back.
 7. Same events, same commands.
 8. The head of each class is admitted once memory frees: nobody starves.
"""

from __future__ import annotations

from collections import defaultdict
from typing import assert_never

from estimator.output_length import OutputForecast
from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.commands import Command
from gateway.admission.consider import Verdict, consider
from gateway.admission.events import (
    Arrived,
    BackendAdded,
    BackendBusy,
    BackendChanged,
    BackendDraining,
    BackendEvent,
    BackendMissed,
    BackendRead,
    BackendRemoved,
    BackendResumed,
    Denied,
    DrainStarted,
    Event,
    Learned,
    Left,
    LimitsChanged,
    OthersHold,
    Progressed,
)
from gateway.admission.holding import Holding, holding_of
from gateway.admission.ledger import Lease
from gateway.admission.limits import AdmissionLimits
from gateway.admission.queue import Queue, Waiting
from gateway.admission.refusals import Needs
from gateway.admission.rehearsal import rehearsal
from gateway.admission.roster import Account, Roster
from gateway.admission.serving import Serving
from gateway.admission.snapshot import Snapshot
from gateway.domain import Outcome, Reason, ServedModel, Ticket

TIMER_MIN_S = 0.001
"""A timer is never due at once: the caller would spin."""


class Admission:
    """All backends' books and one queue. See the module for what it promises."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._roster = Roster(limits)
        self._queue = Queue()
        self._serving = Serving(limits, self._roster, self._queue)
        self._at_engine, self._at_provider = self._serving.at_engine, self._serving.at_provider
        self._needs = Needs()
        self._queue_kept = 0
        """Requests that waited when the limits were turned last: they may be more than the new ones allow."""
        self._draining = False
        self._double_releases = 0
        self._now = float("-inf")

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event. Times must not decrease."""
        self._advance(now)
        # The two that come with every request are looked for first.
        if isinstance(event, Arrived):
            return self._arrived(event.ticket, now)
        if isinstance(event, Left):
            return self._left(event, now)
        self._serving.stuck.clear()
        match event:
            case Progressed(outputs):
                self._progressed(outputs, now)
            case Denied():
                return self._denied(event, now)
            case Learned(model, output):
                self._learned(model, output)
            case BackendAdded() | BackendChanged() | BackendDraining() | BackendResumed() | BackendRemoved():
                return self._configure(event, now)
            case LimitsChanged(limits):
                return self._turn(limits, now)
            case BackendRead() | BackendMissed() | BackendBusy() | OthersHold():
                resized = self._heard(event, now)
                return [*self._serving.turn_away_stranded(resized=resized, now=now), *self._serving.serve_all(now)]
            case DrainStarted():
                self._draining = True
                return [self._serving.turn_away(w, Reason.SHUTDOWN, now) for w in self._queue.everyone()]
            case _:
                assert_never(event)
        return []

    def next_timer(self) -> float | None:
        """When `handle_timer` should be called if nothing happens before; None if there is nothing to wait for."""
        if not self._queue.by_id or (due := self._queue.next_deadline()) is None:
            return None
        for model in self._queue.models():
            for account in self._roster.serving(model):
                if isinstance(account, EngineAccount):
                    due = min(due, account.next_look(self._now))
                elif account.standing.health.up:
                    head = self._queue.head(model, self._now).ticket
                    if (wait := account.wait_s(head, self._now)) > 0:
                        due = min(due, self._now + wait)
        return max(due, self._now + TIMER_MIN_S)

    def handle_timer(self, now: float) -> list[Command]:
        """Time has passed."""
        self._advance(now)
        self._serving.stuck.clear()
        return self._serving.serve_all(now)

    def consider(self, ticket: Ticket, now: float) -> Verdict:
        """What would be answered if the request arrived now. Nothing changes by it."""
        ticket = fit.priced(ticket, self._serving.forecasts.get(ticket.model))
        trial = rehearsal(self)
        return consider(
            ticket,
            trial._roster,  # noqa: SLF001  # one of us
            trial._queue,  # noqa: SLF001
            lambda: trial.handle(Arrived(ticket), now),
            now,
        )

    def check(self) -> None:
        """Assert that the books balance; for tests and idle times."""
        self._roster.check()
        assert len(self._queue) <= max(self._limits.queue_requests_max, self._queue_kept)
        sent = self._at_engine.keys() | self._at_provider.keys()
        assert not self._queue.by_id.keys() & sent
        self._serving.tenants.check(self._queue.by_id.keys(), sent)

    def snapshot(self) -> Snapshot:
        """A frozen view of everything, as of the last call."""
        return Snapshot(
            now=self._now,
            draining=self._draining,
            backends=self._roster.snapshots(self._now),
            queues=tuple(self._queue.snapshots(self._now, self._needs.look(self._roster))),
            tenants=self._roster.tenants(),
            queue_requests_max=self._limits.queue_requests_max,
            double_releases=self._double_releases,
        )

    def holding(self, backend: str, now: float, *, closely: bool = False) -> Holding | None:
        """What to tell other gateways of an engine that they share; None where there is nothing to tell yet."""
        engine = self._roster.engines.get(backend)
        return holding_of(engine, self._queue, now, closely=closely) if engine is not None else None

    def served(self, model: str) -> ServedModel | None:
        """What is known of a model; None if no backend has said that it serves it."""
        return self._roster.served(model)

    def models(self) -> frozenset[str]:
        """Models that any backend has said it serves."""
        return self._roster.models()

    def is_known(self) -> bool:
        """Whether every backend has said what it serves: what none is known to serve, none does then."""
        return self._roster.is_known()

    # Events

    def _advance(self, now: float) -> None:
        assert now >= self._now, "time went back"
        self._now = now
        if now >= self._roster.try_again_at:
            self._roster.try_again(now)

    def _arrived(self, ticket: Ticket, now: float) -> list[Command]:
        output = self._serving.forecasts.get(ticket.model)
        if output is not ticket.demand.output:
            ticket = fit.priced(ticket, output)
        waiting = Waiting(ticket, now)
        if self._draining:
            return [self._serving.turn_away(waiting, Reason.SHUTDOWN, now)]
        if self._roster.usable(ticket.model) <= ticket.excluded:
            return [self._serving.turn_away(waiting, Reason.NO_BACKEND, now)]
        fitting = self._serving.made_to_fit(ticket)
        if fitting is None:
            return [self._serving.turn_away(waiting, Reason.TOO_LARGE, now)]
        if not self._serving.tenants.arrived(fitting, now):
            return [self._serving.turn_away(Waiting(fitting, now), Reason.TENANT_LIMIT, now)]
        # In line before it is asked whether the line is full: it may go at once, past others who wait for other things.
        waiting.ticket = fitting
        return self._serving.line_up(waiting, now)

    def _progressed(self, outputs: tuple[tuple[int, int], ...], now: float) -> None:
        # By their books: those of a backend that was removed are kept until its last request has ended.
        moved: defaultdict[EngineAccount, list[tuple[Lease, int]]] = defaultdict(list)
        find = self._at_engine.get
        for ticket_id, output_tokens in outputs:
            if (held := find(ticket_id)) is not None:
                moved[held[0]].append((held[1], output_tokens))
        for engine, streams in moved.items():
            engine.progressed(streams, now)
            if engine.standing.breaker.is_watching:
                for lease, _ in streams:
                    engine.standing.breaker.succeeded(lease.ticket.id, now)

    def _learned(self, model: str, output: OutputForecast) -> None:
        self._serving.forecasts[model] = output
        for engine in self._roster.engines.values():
            engine.learned(model, output)

    def _left(self, event: Left, now: float) -> list[Command]:
        self._serving.stuck.clear()
        self._serving.tenants.ended(event.ticket_id, event.outcome, event.usage, now)
        if self._queue.by_id and self._queue.pop(event.ticket_id) is not None:
            return self._serving.serve_all(now)
        if (at_engine := self._at_engine.pop(event.ticket_id, None)) is not None:
            engine, lease = at_engine
            engine.end(lease, event.outcome, event.usage, now)
            is_ejected = self._judge(engine, event, now)
        elif (at_provider := self._at_provider.pop(event.ticket_id, None)) is not None:
            account, hosted_lease = at_provider
            account.end(hosted_lease, event.outcome, event.usage, now)
            is_ejected = self._judge(account, event, now)
        else:
            self._double_releases += 1
            is_ejected = False
        if not self._queue.by_id:
            return []
        stranded = self._serving.turn_away_stranded(resized=False, now=now) if is_ejected else []
        return [*stranded, *self._serving.serve_all(now)]

    def _judge(self, account: Account, event: Left, now: float) -> bool:
        """What the end of a request says of its backend; returns whether nothing more is sent there for now."""
        if event.failure is not None:
            return self._roster.failed(account, event.ticket_id, event.failure, now)
        if event.outcome is Outcome.FINISHED:
            account.standing.breaker.succeeded(event.ticket_id, now)
        else:
            account.standing.breaker.ended(event.ticket_id)
        return False

    def _denied(self, event: Denied, now: float) -> list[Command]:
        if (held := self._at_engine.pop(event.ticket_id, None)) is None:
            return []
        engine, lease = held
        engine.end(lease, Outcome.NOT_SENT, None, now)
        engine.standing.breaker.ended(event.ticket_id)
        self._serving.tenants.returned(event.ticket_id)
        waiting = Waiting(lease.ticket, event.arrived_at)
        return (
            [self._serving.turn_away(waiting, Reason.SHUTDOWN, now)]
            if self._draining
            else self._serving.line_up(waiting, now)
        )

    def _configure(self, event: BackendEvent, now: float) -> list[Command]:
        self._roster.configure(event, now)
        if isinstance(event, BackendAdded):
            return []  # It is heard of next: until then who waits for another of its name is not stranded.
        return [*self._serving.turn_away_stranded(resized=True, now=now), *self._serving.serve_all(now)]

    def _turn(self, limits: AdmissionLimits, now: float) -> list[Command]:
        self._limits = self._serving.limits = limits
        self._queue_kept = len(self._queue)
        self._needs = Needs()
        self._roster.turn(limits, now)
        commands = self._serving.serve_all(now)
        if limits.observe:  # where nobody waits
            commands += [self._serving.turn_away(waiting, waiting.lack, now) for waiting in self._queue.everyone()]
        return commands

    def _heard(self, event: BackendRead | BackendMissed | BackendBusy | OthersHold, now: float) -> bool:
        """Tell the backend's books; returns whether its capacity changed."""
        name = event.reading.backend if isinstance(event, BackendRead) else event.backend
        account = self._roster.find(name)
        if account is None:
            return False
        self._roster.changed()
        match event:
            case BackendRead(reading):
                return account.observe(reading, now)
            case BackendBusy(until=until):
                account.standing.asked_for_pause(until)
            case BackendMissed(reachable=reachable):
                account.standing.missed(reachable=reachable)
                if isinstance(account, EngineAccount):
                    account.settle_unheard(now)
            case OthersHold():
                if isinstance(account, EngineAccount):
                    account.others_hold(event)
        return False
