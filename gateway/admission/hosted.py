"""One hosted provider: its memory is its own business; what counts is what it allows per minute."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission.quota import Bucket
from gateway.admission.snapshot import BackendSnapshot, BackendState, Telemetry
from gateway.admission.standing import Standing
from gateway.domain import BackendLimits, Outcome, Reading, Reason, Ticket, Usage
from gateway.routing.choose import Holds, Lack, Offer


@dataclass(slots=True, eq=False)
class HostedLease:
    """One request at a provider, and the tokens it was charged for in advance."""

    ticket: Ticket
    account: HostedAccount
    charged_tokens: float
    started_at: float
    ended: bool = False


@dataclass(slots=True, eq=False)
class HostedAccount:
    """The books of one provider."""

    standing: Standing
    requests: Bucket
    tokens: Bucket
    leases: dict[int, HostedLease] = field(default_factory=dict)

    @classmethod
    def open(cls, standing: Standing, now: float) -> HostedAccount:
        """A provider nobody has used this minute."""
        limits = standing.spec.limits
        return cls(standing, Bucket.full(limits.requests_per_minute, now), Bucket.full(limits.tokens_per_minute, now))

    def allow(self, limits: BackendLimits, now: float) -> None:
        """It allows another number per minute from now on; of what is left, the same part is left."""
        self.requests = self.requests.resized(limits.requests_per_minute, now)
        self.tokens = self.tokens.resized(limits.tokens_per_minute, now)

    def observe(self, reading: Reading, now: float) -> bool:
        """Take in what a look brought. Its capacity is its own business and never changes."""
        self.standing.answered(reading, now)
        return False

    @property
    def name(self) -> str:
        """As configured."""
        return self.standing.spec.name

    def is_usable(self, now: float) -> bool:
        """Whether it is alive, even if it asked for a pause."""
        return self.standing.state(now) in (BackendState.READY, BackendState.BUSY)

    def is_ready(self, now: float) -> bool:
        """Whether requests may be sent to it now."""
        return self.standing.state(now) is BackendState.READY

    def offer(
        self,
        ticket: Ticket,
        now: float,
        *,
        backlog: int = 1,  # noqa: ARG002  # asked as an engine is
        contended: bool = False,  # noqa: ARG002
    ) -> Offer | Lack:
        """Whether its limits leave room for the request now; who else waits is nothing to it."""
        if self.wait_s(ticket, now) > 0:
            return Lack(Reason.HEADROOM, Holds.ALL)
        return Offer(self.name, self.tokens.level_share(now), spill=self.standing.spec.spill_only)

    def anyway(self, now: float) -> Offer:
        """A place there whether its limits leave room or not, for observe mode."""
        return Offer(self.name, self.tokens.level_share(now), spill=self.standing.spec.spill_only)

    def admit(self, ticket: Ticket, now: float) -> HostedLease:
        """Charge the request's expected tokens in advance."""
        lease = HostedLease(ticket, self, expected_tokens(ticket), now)
        self.requests.draw(1, now)
        self.tokens.draw(lease.charged_tokens, now)
        self.leases[ticket.id] = lease
        return lease

    def end(self, lease: HostedLease, outcome: Outcome, usage: Usage | None, now: float) -> bool:
        """Settle what was charged with what was used; False if the request had ended before."""
        if lease.ended:
            return False
        lease.ended = True
        del self.leases[lease.ticket.id]
        if outcome is Outcome.NOT_SENT:
            self.requests.draw(-1, now)
            self.tokens.draw(-lease.charged_tokens, now)
        elif outcome is Outcome.REFUSED:
            self.tokens.draw(-lease.charged_tokens, now)
        elif usage is not None:
            self.tokens.draw(usage.prompt_tokens + usage.output_tokens - lease.charged_tokens, now)
        return True

    def wait_s(self, ticket: Ticket, now: float) -> float:
        """Predicted seconds until its limits and its own wish for a pause leave room."""
        pause = self.standing.pause_until() - now
        return max(pause, self.requests.wait_s(1, now), self.tokens.wait_s(expected_tokens(ticket), now), 0.0)

    def check(self) -> None:
        """Assert that the books balance."""
        assert not any(lease.ended for lease in self.leases.values())

    def snapshot(self, now: float) -> BackendSnapshot:
        """Its state for people and metrics; no memory is known of it."""
        reading = self.standing.reading
        return BackendSnapshot(
            name=self.name,
            state=self.standing.state(now),
            telemetry=Telemetry.NONE,
            hosted=True,
            models=tuple(sorted(reading.models)) if reading else (),
            engine_version="",
            capacity_tokens=0,
            block_tokens=0,
            resident_tokens=0,
            reserved_tokens=0,
            draining_tokens=0,
            foreign_tokens=0,
            held_back_tokens=0,
            headroom_tokens=0,
            observed_tokens=None,
            requests=len(self.leases),
            running=None,
            waiting=None,
            preemptions=0,
            telemetry_age_s=now - self.standing.read_at if reading else None,
            drain_timeouts=0,
            requests_left_share=self.requests.level_share(now) if self.requests.per_minute else None,
            tokens_left_share=self.tokens.level_share(now) if self.tokens.per_minute else None,
            breaker=self.standing.breaker.state,
        )


def expected_tokens(ticket: Ticket) -> float:
    """Prompt and output tokens that a request is charged for in advance."""
    demand = ticket.demand
    return demand.n * demand.prompt_tokens + demand.sequences * demand.output.mean(cap=demand.output_tokens_max)
