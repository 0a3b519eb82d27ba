"""Admission: whether, when and where. Sans-I/O: events and the time in, commands out.

Law: nothing here waits, reads a clock, or rolls dice; whoever calls carries the commands out. Events are listed in
`events` (`Arrived`, `Progressed`, `Left`, `Learned`, `BackendAdded`, `BackendRead`, `BackendMissed`, `BackendBusy`,
`DrainStarted`), commands in `commands` (`Admit`, `Refuse`).

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

from typing import assert_never

from estimator.output_length import OutputForecast
from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.events import (
    Arrived,
    BackendAdded,
    BackendBusy,
    BackendMissed,
    BackendRead,
    DrainStarted,
    Event,
    Learned,
    Left,
    Progressed,
)
from gateway.admission.hosted import HostedAccount, HostedLease
from gateway.admission.ledger import Lease
from gateway.admission.limits import AdmissionLimits
from gateway.admission.openings import Openings, ask
from gateway.admission.queue import Queue, Waiting
from gateway.admission.refusals import Promises, need_tokens, refusal, wait_s
from gateway.admission.roster import Roster
from gateway.admission.snapshot import Snapshot
from gateway.domain import Reason, Ticket
from gateway.routing.choose import Offer, choose

TIMER_MIN_S = 0.001
"""A timer is never due at once: the caller would spin."""
HOPELESS_FACTOR = 2.0
"""Refused at once if the predicted wait is so many times the patience. Once would refuse too much: bursts drain faster
than a forecast from medians says."""


class Admission:
    """All backends' books and one queue. See the module for what it promises."""

    def __init__(self, limits: AdmissionLimits) -> None:
        self._limits = limits
        self._roster = Roster(limits)
        self._queue = Queue()
        self._at_engine: dict[int, tuple[EngineAccount, Lease]] = {}
        self._at_provider: dict[int, tuple[HostedAccount, HostedLease]] = {}
        self._forecasts: dict[str, OutputForecast] = {}
        """The newest of each model; who waits is priced anew when its turn comes."""
        self._promises = Promises()
        self._draining = False
        self._double_releases = 0
        self._now = float("-inf")

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event. Times must not decrease."""
        self._advance(now)
        match event:
            case Arrived(ticket):
                return self._arrived(ticket, now)
            case Progressed(outputs):
                self._progressed(outputs)
                return []
            case Left():
                return self._left(event, now)
            case Learned(model, output):
                self._learned(model, output)
                return []
            case BackendAdded(spec):
                self._roster.add(spec, now)
                return []
            case BackendRead() | BackendMissed() | BackendBusy():
                resized = self._heard(event, now)
                return [*self._turn_away_stranded(resized=resized, now=now), *self._serve_all(now)]
            case DrainStarted():
                self._draining = True
                return [self._turn_away(w, Reason.SHUTDOWN, now) for w in self._queue.everyone()]
        assert_never(event)

    def next_timer(self) -> float | None:
        """When `handle_timer` should be called if nothing happens before; None if there is nothing to wait for."""
        due = self._queue.next_deadline()
        if due is None:
            return None
        for model in self._queue.models():
            head = self._queue.head(model).ticket
            for account in self._roster.serving(model):
                if isinstance(account, EngineAccount):
                    due = min(due, account.next_look(self._now))
                elif (wait := account.wait_s(head, self._now)) > 0 and account.is_usable(self._now):
                    due = min(due, self._now + wait)
        return max(due, self._now + TIMER_MIN_S)

    def handle_timer(self, now: float) -> list[Command]:
        """Time has passed."""
        self._advance(now)
        return self._serve_all(now)

    def check(self) -> None:
        """Assert that the books balance; for tests and idle times."""
        self._roster.check()
        assert len(self._queue) <= self._limits.queue_requests_max
        assert not self._queue.by_id.keys() & (self._at_engine.keys() | self._at_provider.keys())

    def snapshot(self) -> Snapshot:
        """A frozen view of everything, as of the last call."""
        return Snapshot(
            now=self._now,
            draining=self._draining,
            backends=self._roster.snapshots(self._now),
            queues=tuple(self._queue.snapshots(self._now, lambda ticket: need_tokens(ticket, self._roster))),
            queue_requests_max=self._limits.queue_requests_max,
            double_releases=self._double_releases,
        )

    def context_tokens(self, model: str) -> int | None:
        """Longest prompt plus output that any own backend takes for the model; None if none has said."""
        return self._roster.context_tokens(model)

    def models(self) -> frozenset[str]:
        """Models that any backend has said it serves."""
        return self._roster.models()

    # Events

    def _advance(self, now: float) -> None:
        assert now >= self._now, "time went back"
        self._now = now

    def _arrived(self, ticket: Ticket, now: float) -> list[Command]:
        waiting = Waiting(ticket, now)
        if self._draining:
            return [self._turn_away(waiting, Reason.SHUTDOWN, now)]
        if self._roster.usable(ticket.model, now) <= ticket.excluded:
            return [self._turn_away(waiting, Reason.NO_BACKEND, now)]
        fitting = self._made_to_fit(ticket)
        if fitting is None:
            return [self._turn_away(waiting, Reason.TOO_LARGE, now)]
        # In line before it is asked whether the line is full: it may go at once, past others who wait for other things.
        waiting = Waiting(fitting, now)
        self._queue.push(waiting)
        commands = self._serve(ticket.model, now)
        if waiting in self._queue and (reason := self._no_use_waiting(waiting, now)) is not None:
            commands.append(self._turn_away(waiting, reason, now))
        return commands

    def _progressed(self, outputs: tuple[tuple[int, int], ...]) -> None:
        for ticket_id, output_tokens in outputs:
            if (held := self._at_engine.get(ticket_id)) is not None:
                engine, lease = held
                engine.progress(lease, output_tokens)

    def _learned(self, model: str, output: OutputForecast) -> None:
        self._forecasts[model] = output
        for _, lease in self._at_engine.values():
            if lease.ticket.model == model and not lease.ticket.runs_to_max:
                lease.output = output

    def _left(self, event: Left, now: float) -> list[Command]:
        if self._queue.pop(event.ticket_id) is not None:
            return self._serve_all(now)
        if (at_engine := self._at_engine.pop(event.ticket_id, None)) is not None:
            engine, lease = at_engine
            engine.end(lease, event.outcome, event.usage, now)
        elif (at_provider := self._at_provider.pop(event.ticket_id, None)) is not None:
            account, hosted_lease = at_provider
            account.end(hosted_lease, event.outcome, event.usage, now)
        else:
            self._double_releases += 1
        return self._serve_all(now)

    def _heard(self, event: BackendRead | BackendMissed | BackendBusy, now: float) -> bool:
        """Tell the backend's books; returns whether its capacity changed."""
        name = event.reading.backend if isinstance(event, BackendRead) else event.backend
        account = self._roster.find(name)
        if account is None:
            return False
        match event:
            case BackendRead(reading):
                return account.observe(reading, now)
            case BackendBusy(until=until):
                account.standing.asked_for_pause(until)
            case BackendMissed(reachable=reachable):
                account.standing.missed(reachable=reachable)
                if isinstance(account, EngineAccount):
                    account.settle_unheard(now)
        return False

    # Decisions

    def _serve_all(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for waiting in self._queue.expired(now):
            reason = Reason.TENANT_LIMIT if waiting.lack is Reason.TENANT_LIMIT else Reason.QUEUE_TIMEOUT
            commands.append(self._turn_away(waiting, reason, now))
        for model in self._queue.models():
            commands += self._serve(model, now)
        return commands

    def _serve(self, model: str, now: float) -> list[Command]:
        """Send whoever can go, in order; see `openings` for who holds up whom."""
        commands: list[Command] = []
        was_contended = self._queue.is_contended(model)
        openings = Openings([account for account in self._roster.serving(model) if account.is_ready(now)])
        for waiting in self._queue.line(model):
            if not openings.accounts:
                break
            ticket = waiting.ticket = fit.priced(waiting.ticket, self._forecasts.get(model))
            contended = ticket.kv_share < 1 and self._queue.is_contended(model)
            places = openings.for_ticket(ticket)
            best, lacks = ask(ticket, places, now, depth=self._queue.depth(model), contended=contended)
            if best is None:
                waiting.lack = openings.hold(ticket, lacks)
                continue
            self._queue.pop(ticket.id)
            reason = Reason.OK_AFTER_WAIT if now > waiting.arrived_at else Reason.OK
            commands.append(self._admit(waiting, best, reason, now))
        if was_contended and not self._queue.is_contended(model):
            # The last of the others has gone: shares no longer bind whoever was passed for them.
            commands += self._serve(model, now)
        return commands

    def _admit(self, waiting: Waiting, offer: Offer, reason: Reason, now: float) -> Admit:
        ticket = waiting.ticket
        kv_tokens = 0
        account = self._roster.find(offer.backend)
        if isinstance(account, EngineAccount):
            backlog = -(-(1 + self._queue.depth(ticket.model)) // len(self._roster.engines_of(ticket)))
            lease = account.admit(ticket, now, backlog=backlog)
            self._at_engine[ticket.id] = (account, lease)
            kv_tokens = lease.final_blocks * lease.pool.capacity.layout.block_tokens
        else:
            assert account is not None
            self._at_provider[ticket.id] = (account, account.admit(ticket, now))
        spilled = offer.spill and bool(self._roster.engines_of(ticket))
        max_tokens = ticket.max_tokens if ticket.clamped else None
        return Admit(ticket.id, offer.backend, reason, kv_tokens, now - waiting.arrived_at, spilled, max_tokens)

    def _no_use_waiting(self, waiting: Waiting, now: float) -> Reason | None:
        """Why a request that cannot go now should not wait either; None if it should."""
        if self._limits.observe:
            return waiting.lack
        if len(self._queue) > self._limits.queue_requests_max:
            return Reason.QUEUE_FULL if self._limits.queue_requests_max else waiting.lack
        patience = waiting.ticket.deadline - now
        predicted = wait_s(waiting, self._roster, self._queue.ahead_of(waiting), now)
        hopeless = predicted is not None and predicted > HOPELESS_FACTOR * max(0.0, patience)
        return waiting.lack if hopeless else None

    def _turn_away(self, waiting: Waiting, reason: Reason, now: float) -> Command:
        """Refuse; or in observe mode send it all the same, with the reason an enforcing gateway would have had."""
        ticket = waiting.ticket
        self._queue.pop(ticket.id)
        if self._limits.observe and reason not in (Reason.SHUTDOWN, Reason.NO_BACKEND):
            serving = self._roster.serving(ticket.model)
            usable = [account for account in serving if account.is_usable(now) and account.name not in ticket.excluded]
            if (best := choose(account.anyway(now) for account in usable)) is not None:
                return self._admit(waiting, best, reason, now)
        # A retry stands in line as of then, whatever it had waited before.
        ahead = self._queue.ahead_of(Waiting(ticket, now))
        return Refuse(ticket.id, refusal(waiting, reason, self._roster, ahead, self._promises, now))

    def _turn_away_stranded(self, *, resized: bool, now: float) -> list[Command]:
        """Refuse whoever waits for backends that have all gone, or that have become too small for it."""
        stranded: list[tuple[Waiting, Reason]] = []
        for model in self._queue.models():
            usable = self._roster.usable(model, now)
            for waiting in self._queue.line(model):
                if usable <= waiting.ticket.excluded:
                    stranded.append((waiting, Reason.NO_BACKEND))
                elif resized and not self._roster.could_fit(waiting.ticket):
                    stranded.append((waiting, Reason.TOO_LARGE))
        return [self._turn_away(waiting, reason, now) for waiting, reason in stranded]

    def _made_to_fit(self, ticket: Ticket) -> Ticket | None:
        """The ticket itself if some backend could ever take it; cut to fit if that is wanted; else None."""
        if self._roster.could_fit(ticket):
            return ticket
        _, largest = self._roster.largest_for(ticket)
        if not self._limits.clamp or self._limits.observe or largest < 1:
            return None
        return fit.cut(ticket, largest)
