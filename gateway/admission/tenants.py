"""What each tenant may ask of this gateway: requests at once, requests and tokens per minute.

Who is over a rate is refused at once: waiting would only put off the same answer. Who has all its requests running
waits in line like everybody else, and holds up nobody but its own; as many as may run may wait, so that it cannot fill
the line for the others. Only requests that run count: those that wait hold no memory of any engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from gateway.admission.hosted import expected_tokens
from gateway.admission.quota import MINUTE_S, Bucket
from gateway.admission.refusals import RETRY_MIN_S, RETRY_UNKNOWN_S, OwnLimit, Promises
from gateway.domain import NO_LIMITS, Outcome, Reason, TenantLimits, Ticket, Usage
from gateway.routing.choose import Holds, Lack

FULL = Lack(Reason.TENANT_LIMIT, Holds.TENANT)
RUN_KEPT = 0.9
"""Part of its weight that a request's time keeps with each later one."""


@dataclass(frozen=True, slots=True)
class Charge:
    """An open request of a tenant with limits. Never changes: a dry run keeps the original's."""

    tenant: str
    tokens: float
    over: OwnLimit | None
    """The rate that it came too fast for; it was not drawn then. Open at all only until it is refused, or observed."""
    started_at: float | None = None
    """When it was sent; None while it waits."""


@dataclass(slots=True, eq=False)
class Book:
    """One tenant's account."""

    limits: TenantLimits
    requests: Bucket
    tokens: Bucket
    running: int = 0
    waiting: int = 0
    run_s: float = 0.0
    """Time that its requests took from their start to their end, fading, by the same fading number of them."""
    runs: float = 0.0

    @classmethod
    def open(cls, limits: TenantLimits, now: float) -> Book:
        """Of a tenant that has not asked for anything this minute."""
        full = Bucket.full
        return cls(limits, full(limits.requests_per_minute, now), full(limits.tokens_per_minute, now))

    def allow(self, limits: TenantLimits, now: float) -> None:
        """The operator has turned them; of what is left of a minute, the same part is left."""
        self.limits = limits
        self.requests = self.requests.resized(limits.requests_per_minute, now)
        self.tokens = self.tokens.resized(limits.tokens_per_minute, now)

    def draw(self, tokens: float, now: float) -> None:
        """Take one request of so many tokens."""
        self.requests.draw(1, now)
        self.tokens.draw(tokens, now)

    @property
    def turn_s(self) -> float | None:
        """Time between two of its ends while as many run as may; None where none has ended."""
        return self.run_s / self.runs / max(1, self.limits.requests_max) if self.runs else None


@dataclass(slots=True, eq=False)
class Tenants:
    """Accounts of the tenants that have limits."""

    books: dict[str, Book] = field(default_factory=dict)
    charges: dict[int, Charge] = field(default_factory=dict)
    """By ticket id."""
    _promises: Promises = field(default_factory=Promises)
    """By tenant, to those who were refused."""

    def arrived(self, ticket: Ticket, now: float) -> bool:
        """Whether a request comes within its tenant's rate. A second try was counted when it came first."""
        limits = ticket.tenant_limits
        if limits is NO_LIMITS or limits == NO_LIMITS:
            return True
        book = self.books.get(ticket.tenant)
        if book is None:
            book = self.books[ticket.tenant] = Book.open(limits, now)
        elif book.limits != limits:
            book.allow(limits, now)
        tokens = expected_tokens(ticket)
        over = None if ticket.retried else self._over_rate(ticket.tenant, book, tokens, now)
        if over is None:
            book.draw(tokens, now)
        book.waiting += 1
        self.charges[ticket.id] = Charge(ticket.tenant, tokens, over)
        return over is None

    def is_full(self, ticket: Ticket) -> bool:
        """Whether as many of its tenant's requests run as may."""
        most = ticket.tenant_limits.requests_max
        return most > 0 and ticket.tenant in self.books and self.books[ticket.tenant].running >= most

    def is_crowded(self, ticket: Ticket) -> bool:
        """Whether as many wait besides, and this one is too many."""
        return self.is_full(ticket) and self.books[ticket.tenant].waiting > ticket.tenant_limits.requests_max

    def started(self, ticket: Ticket, now: float) -> None:
        """It was sent."""
        if (charge := self.charges.get(ticket.id)) is not None:
            self.charges[ticket.id] = replace(charge, started_at=now)
            book = self.books[charge.tenant]
            book.waiting -= 1
            book.running += 1

    def returned(self, ticket_id: int) -> None:
        """It was not sent after all, and waits again."""
        if (charge := self.charges.get(ticket_id)) is not None:
            self.charges[ticket_id] = replace(charge, started_at=None)
            book = self.books[charge.tenant]
            book.waiting += 1
            book.running -= 1

    def ended(self, ticket_id: int, outcome: Outcome, usage: Usage | None, now: float) -> None:
        """It is over; what was drawn for it is settled with what it used. Nothing was if it was never sent."""
        charge = self.charges.pop(ticket_id, None)
        if charge is None:
            return
        book = self.books[charge.tenant]
        if charge.started_at is None:
            book.waiting -= 1
            outcome, usage = Outcome.NOT_SENT, None
        else:
            book.running -= 1
            book.run_s = RUN_KEPT * book.run_s + now - charge.started_at
            book.runs = RUN_KEPT * book.runs + 1
        if charge.over is not None:
            return
        if outcome is Outcome.NOT_SENT:
            book.requests.draw(-1, now)
        if outcome in (Outcome.NOT_SENT, Outcome.REFUSED):
            book.tokens.draw(-charge.tokens, now)
        elif usage is not None:
            book.tokens.draw(usage.prompt_tokens + usage.output_tokens - charge.tokens, now)

    def limit_reached(self, ticket: Ticket, now: float) -> OwnLimit | None:
        """Which limit of its tenant turns a request away, and until when; None if it is another one's fault."""
        charge = self.charges.get(ticket.id)
        if charge is not None and charge.over is not None:
            return charge.over
        if not self.is_full(ticket):
            return None
        book = self.books[ticket.tenant]
        wait_s = RETRY_UNKNOWN_S
        if book.turn_s is not None:
            # A place for each that waits, for those told to come back, and for this one.
            behind_s = self._promises.make(ticket.tenant, book.turn_s, now)
            wait_s = max(RETRY_MIN_S, behind_s + book.turn_s * max(1, book.waiting))
        return OwnLimit("requests_max", book.limits.requests_max, wait_s)

    def check(self, waiting: Collection[int], sent: Collection[int]) -> None:
        """Assert that the books balance with who waits and who was sent."""
        for tenant, book in self.books.items():
            open_ = {id_: charge.started_at for id_, charge in self.charges.items() if charge.tenant == tenant}
            assert book.running == sum(started is not None for started in open_.values()), "running"
            assert book.waiting == sum(started is None for started in open_.values()), "waiting"
        for ticket_id, charge in self.charges.items():
            assert ticket_id in (waiting if charge.started_at is None else sent), "a charge without a request"

    def _over_rate(self, tenant: str, book: Book, tokens: float, now: float) -> OwnLimit | None:
        limits = book.limits
        wait_s, key, most, amount = max(
            (book.requests.wait_s(1, now), "requests_per_minute", limits.requests_per_minute, 1.0),
            (book.tokens.wait_s(tokens, now), "tokens_per_minute", limits.tokens_per_minute, tokens),
        )
        if wait_s <= 0:
            return None
        # One after the other, as the bucket fills: told the same moment, all but one would come for nothing.
        behind_s = self._promises.make(tenant, amount * MINUTE_S / most, now)
        return OwnLimit(key, most, max(RETRY_MIN_S, wait_s + behind_s))
