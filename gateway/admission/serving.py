"""Who is sent where, who waits and who is turned away: the decisions that all events of admission end in."""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.output_length import OutputForecast
from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.hosted import HostedAccount, HostedLease
from gateway.admission.ledger import Lease
from gateway.admission.limits import AdmissionLimits
from gateway.admission.openings import Openings, ask
from gateway.admission.queue import Queue, Waiting
from gateway.admission.refusals import Promises, refusal, wait_s
from gateway.admission.roster import Roster
from gateway.admission.tenants import FULL, Tenants
from gateway.domain import Outcome, Reason, Ticket
from gateway.routing.choose import Offer, choose

HOPELESS_FACTOR = 2.0
"""Refused at once if the predicted wait is so many times the patience. Once would refuse too much: bursts drain faster
than a forecast from medians says."""
SPILL_AFTER_S = 2.0
"""So long may a request wait for an engine of ours, if there is a provider that would take it at once."""


@dataclass(slots=True, eq=False)
class Serving:
    """Serves the queue from the backends' books."""

    limits: AdmissionLimits
    _roster: Roster
    _queue: Queue
    at_engine: dict[int, tuple[EngineAccount, Lease]] = field(default_factory=dict)
    at_provider: dict[int, tuple[HostedAccount, HostedLease]] = field(default_factory=dict)
    stuck: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """By model: the head of its line, if there was no room for it and nothing has happened since; and whether several
    tenants waited then."""
    forecasts: dict[str, OutputForecast] = field(default_factory=dict)
    """The newest of each model; who waits is priced anew when its turn comes."""
    tenants: Tenants = field(default_factory=Tenants)
    _promises: Promises = field(default_factory=Promises)

    def line_up(self, waiting: Waiting, now: float) -> list[Command]:
        """Send a request if it can go; else let it wait, or turn it away where that is of no use."""
        model = waiting.ticket.model
        commands: list[Command] = []
        is_alone = model not in self._queue.by_model
        if is_alone:
            openings = self._openings(model, now)
            if openings.accounts and (command := self._sent(waiting, openings, now)) is not None:
                return [command]
            if not openings.accounts:
                self.stuck[model] = waiting.ticket.id, False
            if len(self._queue) >= self.limits.queue_requests_max and not self.limits.observe:
                return [self.turn_away(waiting, self._reason_if_full(waiting), now)]
        waiting.cost_s = self._roster.cost_s(waiting.ticket)
        if not is_alone and self._is_shut_out(waiting, now):
            return [self.turn_away(waiting, self._reason_if_full(waiting), now)]
        self._queue.push(waiting)
        if not is_alone:
            commands = self._serve(model, now)
        if waiting in self._queue and (reason := self._no_use_waiting(waiting, now)) is not None:
            commands.append(self.turn_away(waiting, reason, now))
        return commands

    def serve_all(self, now: float) -> list[Command]:
        """Turn away whose time is up, and send whoever can go."""
        commands: list[Command] = []
        if not self._queue.by_id:
            return commands
        for waiting in self._queue.expired(now):
            reason = Reason.TENANT_LIMIT if waiting.lack is Reason.TENANT_LIMIT else Reason.QUEUE_TIMEOUT
            commands.append(self.turn_away(waiting, reason, now))
        for model in self._queue.models():
            commands += self._serve(model, now)
        return commands

    def _is_shut_out(self, waiting: Waiting, now: float) -> bool:
        """Whether the queue is full, and it would stand behind one for which there is no room: it need not try."""
        model, queue = waiting.ticket.model, self._queue
        if len(queue.by_id) < self.limits.queue_requests_max or self.limits.observe or model not in self.stuck:
            return False
        head, contended = queue.head(model, now), queue.is_contended(model, waiting.ticket.tenant)
        return self.stuck[model] == (head.ticket.id, contended) and not waiting.precedes(head, now)

    def _serve(self, model: str, now: float) -> list[Command]:
        """Send whoever can go, in order; see `openings` for who holds up whom."""
        commands: list[Command] = []
        while self._queue.depth(model) and (command := self._serve_next(model, now)) is not None:
            commands.append(command)
        return commands

    def _serve_next(self, model: str, now: float) -> Command | None:
        """Send the first in order that can go; None where there is none, and so no other."""
        stuck, contended = self.stuck.get(model), self._queue.is_contended(model)
        if stuck is not None and stuck == (self._queue.head(model, now).ticket.id, contended):
            return None
        openings = self._openings(model, now)
        if not openings.accounts:
            return None
        for waiting in self._queue.line(model, now):
            if stuck == (waiting.ticket.id, contended):
                return None
            if (command := self._sent(waiting, openings, now)) is not None:
                return command
            if not openings.accounts:
                self.stuck[model] = waiting.ticket.id, contended
                return None
        return None

    def _openings(self, model: str, now: float) -> Openings:
        accounts = self._roster.serving(model)
        if len(accounts) == 1 and accounts[0].is_ready(now):
            return Openings(accounts)
        return Openings([account for account in accounts if account.is_ready(now)])

    def _sent(self, waiting: Waiting, openings: Openings, now: float) -> Command | None:
        """Send one that stands in line, or would be alone in it; None if there is no place: what it lacks is noted."""
        ticket = waiting.ticket
        output = self.forecasts.get(ticket.model)
        if output is not ticket.demand.output:
            ticket = waiting.ticket = fit.priced(ticket, output)
        if self.tenants.is_full(ticket):
            waiting.lack = openings.hold(ticket, {account.name: FULL for account in openings.accounts})
            return None
        contended = ticket.kv_share < 1 and self._queue.is_contended(ticket.model)
        depth = self._queue.depth(ticket.model) or 1
        best, lacks = ask(ticket, openings.for_ticket(ticket), now, depth=depth, contended=contended)
        if best is None or (best.spill and self._better_waits(waiting, now)):
            waiting.lack = openings.hold(ticket, lacks)
            return None
        if ticket.id in self._queue.by_id:
            self._queue.pop(ticket.id)
        if best.late and not self.limits.observe:
            return self.turn_away(waiting, Reason.QUEUE_TIMEOUT, now)
        reason = Reason.OK_AFTER_WAIT if now > waiting.arrived_at else Reason.OK
        return self._admit(waiting, best, reason, now)

    def _better_waits(self, waiting: Waiting, now: float) -> bool:
        """Whether a request for which only a provider has room now does well to wait for an engine of ours."""
        is_full = len(self._queue) + (waiting not in self._queue) > self.limits.queue_requests_max
        if is_full or self.limits.observe or not self._roster.engines_of(waiting.ticket):
            return False
        patience_s = min(waiting.ticket.first_token_by - now, waiting.arrived_at + SPILL_AFTER_S - now)
        predicted = wait_s(waiting, self._roster, self._queue.ahead_of(waiting, now)[1], now, engines_only=True)
        return predicted is not None and predicted <= patience_s

    def _admit(self, waiting: Waiting, offer: Offer, reason: Reason, now: float) -> Admit:
        ticket = waiting.ticket
        self.tenants.started(ticket, now)
        kv_tokens = 0
        account = self._roster.find(offer.backend)
        if isinstance(account, EngineAccount):
            depth = self._queue.depth(ticket.model)
            backlog = -(-(1 + depth) // len(self._roster.engines_of(ticket))) if depth else 1
            lease = account.admit(ticket, now, backlog=backlog, offer=offer)
            self.at_engine[ticket.id] = account, lease
            kv_tokens = lease.final_blocks * lease.pool.capacity.layout.block_tokens
        else:
            assert account is not None
            self.at_provider[ticket.id] = (account, account.admit(ticket, now))
        account.standing.breaker.sent(ticket.id, now)
        spilled = offer.spill and bool(self._roster.engines_of(ticket))
        max_tokens = ticket.max_tokens if ticket.clamped else None
        return Admit(ticket.id, offer.backend, reason, kv_tokens, now - waiting.arrived_at, spilled, max_tokens)

    def _no_use_waiting(self, waiting: Waiting, now: float) -> Reason | None:
        """Why a request that cannot go now should not wait either; None if it should."""
        if self.limits.observe:
            return waiting.lack
        if len(self._queue) > self.limits.queue_requests_max:
            return self._reason_if_full(waiting)
        if self.tenants.is_crowded(waiting.ticket):
            return Reason.TENANT_LIMIT
        bearable_s = HOPELESS_FACTOR * max(0.0, waiting.ticket.deadline - now)
        # What is ahead of it is no more than the whole line, and what it needs no more than its hard end.
        if self._roster.waits_at_most(waiting.ticket, self._queue.work_of(waiting.ticket.model), now) <= bearable_s:
            return None
        predicted = wait_s(waiting, self._roster, self._queue.ahead_of(waiting, now)[1], now)
        return waiting.lack if predicted is not None and predicted > bearable_s else None

    def _reason_if_full(self, waiting: Waiting) -> Reason:
        """A line in which nobody may wait is not full."""
        return Reason.QUEUE_FULL if self.limits.queue_requests_max else waiting.lack

    def turn_away(self, waiting: Waiting, reason: Reason, now: float) -> Command:
        """Refuse; or in observe mode send it all the same, with the reason an enforcing gateway would have had."""
        ticket, queue = waiting.ticket, self._queue
        if ticket.id in queue.by_id:
            queue.pop(ticket.id)
        if self.limits.observe and reason not in (Reason.SHUTDOWN, Reason.NO_BACKEND):
            serving = self._roster.serving(ticket.model)
            usable = [account for account in serving if account.is_usable(now) and account.name not in ticket.excluded]
            if (best := choose(account.anyway(now) for account in usable)) is not None:
                return self._admit(waiting, best, reason, now)
        # A retry stands in line as of then, whatever it had waited before.
        is_first = ticket.model not in queue.by_model
        ahead = (0, 0.0) if is_first else queue.ahead_of(Waiting(ticket, now, waiting.cost_s), now)
        own = self.tenants.limit_reached(ticket, now) if reason is Reason.TENANT_LIMIT else None
        self.tenants.ended(ticket.id, Outcome.NOT_SENT, None, now)
        return Refuse(ticket.id, refusal(waiting, reason, self._roster, ahead, self._promises, now, own))

    def turn_away_stranded(self, *, resized: bool, now: float) -> list[Command]:
        """Refuse whoever waits for backends that have all gone, or that have become too small for it."""
        stranded: list[tuple[Waiting, Reason]] = []
        for model in self._queue.models():
            usable = self._roster.usable(model)
            for waiting in self._queue.line(model, now):
                if usable <= waiting.ticket.excluded:
                    stranded.append((waiting, Reason.NO_BACKEND))
                elif resized and not self._roster.could_fit(waiting.ticket):
                    stranded.append((waiting, Reason.TOO_LARGE))
        return [self.turn_away(waiting, reason, now) for waiting, reason in stranded]

    def made_to_fit(self, ticket: Ticket) -> Ticket | None:
        """The ticket itself if some backend could ever take it; cut to fit if that is wanted; else None."""
        if self._roster.could_fit(ticket):
            return ticket
        _, largest = self._roster.largest_for(ticket)
        if not self.limits.clamp or self.limits.observe or largest < 1:
            return None
        return fit.cut(ticket, largest)
