"""The memory of one engine: its pool with the leases on it, and the outlook that says how full it is going to be."""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.output_length import OutputForecast
from gateway.admission import fit
from gateway.admission.forecast import Outlook
from gateway.admission.ledger import Lease, Pool
from gateway.admission.limits import AdmissionLimits
from gateway.admission.standing import Speed
from gateway.domain import Capacity, Outcome, Ticket

AGE_MAX = 2.0
"""An outlook older than so many times its due age is refreshed before it is decided by."""
SIZES_MAX = 32
"""Requests whose sizes are kept."""
NEAR_SHARE = 0.9
"""Of a pool: from here on the next request may need a forecast."""


@dataclass(slots=True, eq=False)
class Memory:
    """One generation of an engine's pool. Whoever changes its leases does it here, so that the outlook follows."""

    pool: Pool
    limits: AdmissionLimits
    speed: Speed
    outlook: Outlook = field(init=False)
    _sizes: dict[int, tuple[Ticket, fit.Size]] = field(default_factory=dict)
    """By ticket id, of requests looked at lately: a decision looks at a few of them several times."""
    _is_asked: bool = False
    """Whether the outlook was looked at since its last refresh."""

    def __post_init__(self) -> None:
        self.outlook = Outlook(self.pool.capacity.layout, self.limits.z)

    # What happens

    def lend(self, ticket: Ticket, now: float) -> Lease:
        """Reserve for a request that is being sent."""
        size = self.size(ticket)
        if size.bound_tokens is None:
            size.bound_tokens = fit.reserved_output(self.pool.capacity, ticket, self.limits.risk)
        lease = self.pool.lend(ticket, size.bound_tokens, now, size)
        self.outlook.add(lease)
        return lease

    def end(self, lease: Lease, outcome: Outcome, now: float, *, generated: int) -> bool:
        """A request of this pool ended; False if it had ended before."""
        self.outlook.remove(lease.ticket.id)
        return self.pool.end(lease, outcome, now, generated=generated)

    def learned(self, model: str, output: OutputForecast) -> None:
        """The answers of a model are now expected to be this long."""
        self.pool.outputs[model] = output
        self.outlook.learned(model, output)

    def resize(self, capacity: Capacity, now: float) -> None:
        """The engine describes its pool anew."""
        self.pool.resize(capacity)
        self._sizes.clear()
        self.outlook = outlook_of(self.pool, self.limits.z, now, self.speed.known_or_slow)

    def turn(self, limits: AdmissionLimits, now: float) -> None:
        """Other settings from now on; what was lent stays lent."""
        self.limits = limits
        self._sizes.clear()
        self.outlook = outlook_of(self.pool, limits.z, now, self.speed.known_or_slow)

    def keep_fresh(self, now: float) -> None:
        """Bring the outlook up to date if somebody looks at it, or may soon; for moments when nobody waits for it."""
        if not self._is_asked and self.pool.most_blocks <= NEAR_SHARE * self.pool.capacity.blocks:
            return
        if self.outlook.age(now) > 1.0:
            self._refresh(now)
        else:
            self.outlook.settle(now)

    # What may be given out

    def size(self, ticket: Ticket) -> fit.Size:
        """What a request means here."""
        sized = self._sizes.get(ticket.id)
        if sized is None or sized[0] is not ticket:
            if len(self._sizes) >= SIZES_MAX:
                self._sizes.clear()
            sized = self._sizes[ticket.id] = ticket, fit.size_of(self.pool.capacity, ticket)
        return sized[1]

    def need_blocks(self, ticket: Ticket) -> int:
        """Blocks that a request is predicted to hold at its end."""
        size = self.size(ticket)
        if size.need is None:
            size.bound_tokens = fit.reserved_output(self.pool.capacity, ticket, self.limits.risk)
            size.need = fit.blocks_at(self.pool.capacity, ticket, size.bound_tokens)
        return size.need

    def reserved_blocks(self, now: float) -> int:
        """Most blocks that all leases will hold together, but for the accepted risk."""
        if self.pool.capacity.overflow_is_fatal:
            return self.pool.final_blocks
        return min(self.pool.most_blocks, self._looked_at(now).peak(now)) + self.pool.draining_blocks

    def free_share_with(self, ticket: Ticket, allowed: int, now: float) -> float | None:
        """What an offer says of the room left with one more request; None if it does not fit.

        Mostly there is room even if everybody runs to the hard end: only where there is not, a forecast is worth its
        cost. Such room also comes before room that is but likely.
        """
        pool = self.pool
        blocks = pool.capacity.blocks
        most = pool.most_blocks + pool.draining_blocks + self.size(ticket).most
        if most <= allowed:
            return (allowed - most) / blocks
        peak = self._peak_with(ticket, allowed, now)
        return (allowed - peak) / blocks - 1.0 if peak <= allowed else None

    def is_over_share(self, ticket: Ticket) -> bool:
        """Whether its tenant would hold more than its share. Whoever holds nothing may always have one request."""
        held = self.pool.tenant_blocks.get(ticket.tenant, 0)
        more = fit.blocks_at(self.pool.capacity, ticket, int(self.size(ticket).steps))
        return held > 0 and held + more > ticket.kv_share * self.pool.capacity.blocks

    def steps_until(self, ticket: Ticket, need: int, free: int, now: float, *, at_most: bool = False) -> float:
        """Engine steps until there is room for a request that needs so many blocks, as a rule; or a bound of it."""
        steps = self._looked_at(now).tokens_until(need, free, now, at_most=at_most)
        over = self.pool.sequences + ticket.demand.sequences - self.pool.capacity.sequences_max
        return max(steps, self.size(ticket).steps * over / self.pool.capacity.sequences_max) if over > 0 else steps

    # Parts

    def _peak_with(self, ticket: Ticket, allowed: int, now: float) -> float:
        """Most blocks with one more request; infinite, or any number above, where that is more than allowed."""
        if self.pool.capacity.overflow_is_fatal:
            # No bet on who ends before whom: a forecast that errs by a few tokens would cost everybody's answer.
            return self.pool.final_blocks + self.need_blocks(ticket)
        draining = self.pool.draining_blocks
        output = self.pool.output_of(ticket)
        return self._looked_at(now).peak_with(ticket.demand, output, now, allowed - draining) + draining

    def _looked_at(self, now: float) -> Outlook:
        """The outlook, fresh enough to decide by. Mostly reports of progress have kept it so."""
        if self.outlook.age(now) > AGE_MAX:
            self._refresh(now)
        self._is_asked = True
        return self.outlook

    def _refresh(self, now: float) -> None:
        self.outlook.refresh(now, self.speed.known_or_slow)
        self.pool.infer(now, self.speed.known_or_slow)
        self._is_asked = False


def outlook_of(pool: Pool, z: float, now: float, tokens_per_s: float) -> Outlook:
    """The outlook of a pool as its active leases stand. What drains is no part of it: nobody knows when it ends."""
    outlook = Outlook(pool.capacity.layout, z)
    for lease in pool.leases.values():
        outlook.add(lease)
    outlook.refresh(now, tokens_per_s)
    return outlook
