"""One engine of our own: its pool, what may be given out of it now, and when there will be more."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission import fit
from gateway.admission.forecast import Growth, Outlook, growth_of, outlook
from gateway.admission.ledger import Lease, Pool
from gateway.admission.limits import AdmissionLimits
from gateway.admission.pacing import PACE_FILL, hold_steps, spacing_steps
from gateway.admission.reconcile import Reconciliation
from gateway.admission.snapshot import BackendSnapshot, BackendState, Telemetry
from gateway.admission.standing import Speed, Standing
from gateway.domain import Capacity, Outcome, Reading, Reason, Ticket, Usage
from gateway.routing.choose import Holds, Lack, Offer

LOOK_BLOCKS = 0.05
"""While somebody waits, look again whenever sequences have grown by this part of a block."""
LOOK_MIN_S = 0.01
NEVER = float("inf")


@dataclass(slots=True, eq=False)
class EngineAccount:
    """The books of one engine."""

    standing: Standing
    limits: AdmissionLimits
    pool: Pool | None = None
    """None until it has described one, and again after a restart."""
    reconciliation: Reconciliation = field(init=False)
    speed: Speed = field(default_factory=Speed)
    next_start: float = float("-inf")
    """Under a backlog, no request is sent before this; see `pacing`."""
    probe_at: float = float("-inf")
    _cached: Outlook | None = None

    def __post_init__(self) -> None:
        self.reconciliation = Reconciliation(self.limits)

    # What the engine says

    def observe(self, reading: Reading, now: float) -> bool:
        """Take in a reading. A new generation starts with an empty pool; leases of the old one stay with theirs.

        Returns:
            whether its capacity changed.
        """
        capacity_before = self.pool.capacity if self.pool is not None else None
        if not self.standing.answered(reading, now):
            return False
        if self.pool is not None and self.pool.generation != reading.generation:
            self.pool = self._cached = None
            self.next_start = float("-inf")
            self.reconciliation = Reconciliation(self.limits, drain_timeouts=self.reconciliation.drain_timeouts)
        capacity = reading.capacity
        if capacity is not None and capacity.blocks > 0:
            if self.pool is None:
                self.pool = Pool(capacity, reading.generation)
            elif self.pool.capacity != capacity:
                self.pool.resize(capacity)
                self._cached = None
        if self.pool is not None:
            self.reconciliation.read(self.pool, reading, now, self.speed.known_or_slow)
        return self.pool is not None and self.pool.capacity != capacity_before

    def settle_unheard(self, now: float) -> None:
        """It has not been heard: where nothing can be expected from telemetry any more, drains end by time alone."""
        if self.pool is not None and self.telemetry(now) is Telemetry.LOST:
            self.reconciliation.end_overdue_drains(self.pool, now)

    def telemetry(self, now: float) -> Telemetry:
        """How far its numbers can be trusted."""
        if self.pool is None:
            return Telemetry.LOST
        age = now - self.standing.read_at
        if age > self.limits.lost_after_s:
            return Telemetry.LOST
        if age > self.limits.stale_after_s:
            return Telemetry.STALE
        return Telemetry.FROZEN if self.reconciliation.is_frozen(self.pool, now) else Telemetry.FRESH

    # What may be given out

    @property
    def name(self) -> str:
        """As configured."""
        return self.standing.spec.name

    @property
    def capacity(self) -> Capacity:
        """Of its pool, which must be known."""
        assert self.pool is not None
        return self.pool.capacity

    def is_usable(self, now: float) -> bool:
        """Whether it is alive and its pool known, even if it asked for a pause."""
        return self.pool is not None and self.standing.state(now) in (BackendState.READY, BackendState.BUSY)

    def is_ready(self, now: float) -> bool:
        """Whether requests may be sent to it now."""
        return self.pool is not None and self.standing.state(now) is BackendState.READY

    def allowed_blocks(self, now: float) -> int:
        """Blocks that this gateway may fill: without what others use and what old telemetry forbids to count on."""
        if self.pool is None:
            return 0
        return max(0, self.pool.capacity.blocks - self.held_back_blocks(now) - self.reconciliation.foreign_blocks)

    def held_back_blocks(self, now: float) -> int:
        """Margin that is not given out because telemetry is old."""
        if self.pool is None:
            return 0
        share = {Telemetry.STALE: self.limits.stale_share, Telemetry.LOST: self.limits.lost_share}
        return self.pool.capacity.blocks - int(self.pool.capacity.blocks * share.get(self.telemetry(now), 1.0))

    def reserved_blocks(self, now: float) -> int:
        """Most blocks that requests sent there will hold together, but for the accepted risk."""
        if self.pool is None:
            return 0
        if self.pool.capacity.overflow_is_fatal:
            return self.pool.final_blocks
        return self._outlook(now).peak + self.pool.draining_blocks

    def offer(self, ticket: Ticket, now: float, *, backlog: int, contended: bool) -> Offer | Lack:
        """Room for a request now, or what there is not. Only for an engine that is ready.

        Args:
            ticket: the request.
            now: monotonic seconds.
            backlog: requests that wait for this engine, this one included.
            contended: whether other tenants wait too.
        """
        pool = self.pool
        assert pool is not None
        if not fit.could_fit(pool.capacity, ticket):
            return Lack(Reason.TOO_LARGE)
        final = self.need_blocks(ticket)
        if contended and self._is_over_share(ticket, final):
            return Lack(Reason.TENANT_LIMIT, Holds.TENANT)
        if self.telemetry(now) is Telemetry.FROZEN:
            return Offer(self.name, 0.0) if now >= self.probe_at else Lack(Reason.STALE_TELEMETRY, Holds.ALL)
        allowed = self.allowed_blocks(now)
        first = fit.first_blocks(pool.capacity, ticket)
        if first > allowed:
            return Lack(Reason.HEADROOM)
        if pool.is_empty:
            # Alone it cannot crowd anybody out: its prompt must fit, its output may take what there is.
            return Offer(self.name, max(0, allowed - final) / pool.capacity.blocks)
        waits = Lack(Reason.HEADROOM, Holds.ALL)
        if pool.sequences and pool.sequences + ticket.demand.sequences > pool.capacity.sequences_max:
            return waits
        if backlog * final >= pool.capacity.blocks and now < self.next_start:
            return waits
        share = self._free_share_with(ticket, allowed, now)
        return waits if share is None else Offer(self.name, share)

    def anyway(self, now: float) -> Offer:
        """A place on it whether there is room or not, for observe mode."""
        return Offer(self.name, (self.allowed_blocks(now) - self.reserved_blocks(now)) / self.capacity.blocks)

    def next_look(self, now: float) -> float:
        """When to try again for who waits, if nothing happens before; infinity if time alone will bring no room."""
        if self.pool is None or not self.standing.health.up:
            return NEVER
        if now < self.standing.busy_until:
            return self.standing.busy_until
        frozen_from = self.reconciliation.frozen_from(self.pool)
        if frozen_from < NEVER:
            return max(frozen_from, self.probe_at)
        if not self.pool.leases:
            return NEVER
        if now < self.next_start:
            return self.next_start
        # Room also comes with growth: a peak that was ahead lies behind, an answer has outlived its likely end.
        return now + max(LOOK_MIN_S, LOOK_BLOCKS * self.pool.capacity.layout.block_tokens / self.speed.known_or_slow)

    def admit(self, ticket: Ticket, now: float, *, backlog: int) -> Lease:
        """Reserve for a request that is being sent."""
        assert self.pool is not None
        lease = self.pool.lend(ticket, fit.reserved_output(self.pool.capacity, ticket, self.limits.risk), now)
        if self._cached is not None and not self._cached.is_old(now):
            self._cached.add(Growth(lease, 0))
        else:
            self._cached = None
        self.probe_at = now + self.limits.probe_every_s
        speed = self.speed.tokens_per_s
        if speed is not None and backlog * lease.final_blocks >= self.pool.capacity.blocks:
            steps = hold_steps(ticket)
            ends = lease.blocks_at(1), lease.blocks_at(int(steps))
            self.next_start = now + spacing_steps(*ends, steps, self.allowed_blocks(now)) / speed
        return lease

    def progress(self, lease: Lease, output_tokens: int) -> None:
        """A stream has generated more."""
        lease.pool.progress(lease, output_tokens, self.limits.risk)

    def end(self, lease: Lease, outcome: Outcome, usage: Usage | None, now: float) -> None:
        """A request ended."""
        generated = lease.generated(now, self.speed.known_or_slow)
        if usage is not None:
            generated = usage.output_tokens // lease.ticket.demand.sequences
        if lease.pool.end(lease, outcome, now, generated=generated):
            if outcome is Outcome.FINISHED and usage is not None:
                self.speed.learn(generated, now - lease.started_at)
            if lease.pool is self.pool and self._cached is not None:
                self._cached.remove(lease.ticket.id)

    # Numbers for answers and people

    def need_blocks(self, ticket: Ticket) -> int:
        """Blocks that a request is predicted to hold at its end."""
        return fit.need_blocks(self.capacity, ticket, self.limits.risk)

    def headroom_blocks(self, now: float) -> int:
        """Blocks still to be given out now."""
        return max(0, self.allowed_blocks(now) - self.reserved_blocks(now)) if self.is_ready(now) else 0

    def wait_s(self, ticket: Ticket, ahead_token_steps: float, now: float) -> float:
        """Predicted seconds until there is room: for what stands in line before it, and then for itself."""
        if self.pool is None or not self.is_ready(now):
            return max(self.limits.probe_every_s, self.standing.busy_until - now)
        if self.telemetry(now) is Telemetry.FROZEN:
            return max(self.limits.probe_every_s, self.probe_at - now)
        pool, speed = self.pool, self.speed.known_or_slow
        allowed = max(1, self.allowed_blocks(now))
        free = allowed - pool.draining_blocks
        need = min(self.need_blocks(ticket), allowed)
        if need > free:
            return self.limits.drain_max_s
        steps = float(self._outlook(now).horizon_when(need, free))
        over = pool.sequences + ticket.demand.sequences - pool.capacity.sequences_max
        if over > 0:
            steps = max(steps, hold_steps(ticket) * over / pool.capacity.sequences_max)
        return max(steps / speed, self.next_start - now) + self.serve_s(ahead_token_steps, now)

    def serve_s(self, token_steps: float, now: float) -> float:
        """Predicted seconds that the whole pool takes for so much work."""
        room_tokens = PACE_FILL * max(1, self.allowed_blocks(now)) * self.capacity.layout.block_tokens
        return token_steps / room_tokens / self.speed.known_or_slow

    def check(self) -> None:
        """Assert that the books balance."""
        if self.pool is not None:
            self.pool.check()

    def snapshot(self, now: float) -> BackendSnapshot:
        """Its state for people and metrics. Looking changes nothing: the same events bring the same commands."""
        pool, reading = self.pool, self.standing.reading
        per_block = pool.capacity.layout.block_tokens if pool else 0
        resident = pool.resident_blocks(now, self.speed.known_or_slow) if pool else 0
        draining = pool.draining_blocks if pool else 0
        reserved = max(resident, self._promised_blocks(pool, now)) if pool else 0
        headroom = max(0, self.allowed_blocks(now) - reserved - draining) if self.is_ready(now) else 0
        return BackendSnapshot(
            name=self.name,
            state=self.standing.state(now) if pool else BackendState.COLD,
            telemetry=self.telemetry(now),
            hosted=False,
            models=tuple(sorted(reading.models)) if reading else (),
            engine_version=reading.engine_version if reading else "",
            capacity_tokens=pool.capacity.tokens if pool else 0,
            block_tokens=per_block,
            resident_tokens=resident * per_block,
            reserved_tokens=reserved * per_block,
            draining_tokens=draining * per_block,
            foreign_tokens=self.reconciliation.foreign_blocks * per_block,
            held_back_tokens=self.held_back_blocks(now) * per_block,
            headroom_tokens=headroom * per_block,
            observed_tokens=reading.used_blocks * per_block if reading and reading.used_blocks is not None else None,
            requests=len(pool.leases) if pool else 0,
            running=reading.running if reading else None,
            waiting=reading.waiting if reading else None,
            preemptions=self.standing.preemptions,
            telemetry_age_s=now - self.standing.read_at if reading else None,
            drain_timeouts=self.reconciliation.drain_timeouts,
        )

    # Parts

    def _is_over_share(self, ticket: Ticket, final: int) -> bool:
        assert self.pool is not None
        held = self.pool.tenant_blocks.get(ticket.tenant, 0)
        return held > 0 and held + final > ticket.kv_share * self.pool.capacity.blocks

    def _free_share_with(self, ticket: Ticket, allowed: int, now: float) -> float | None:
        """What an offer says of the room left with one more request; None if it does not fit.

        Mostly there is room even if everybody runs to the hard end: only where there is not, a forecast is worth its
        cost. Such room also comes before room that is but likely.
        """
        assert self.pool is not None
        blocks = self.pool.capacity.blocks
        most = self.pool.most_blocks + self.pool.draining_blocks + fit.most_growth(self.pool.capacity, ticket)
        if most <= allowed:
            return (allowed - most) / blocks
        peak = self._peak_with(ticket, now)
        return (allowed - peak) / blocks - 1.0 if peak <= allowed else None

    def _peak_with(self, ticket: Ticket, now: float) -> int:
        assert self.pool is not None
        if self.pool.capacity.overflow_is_fatal:
            # No bet on who ends before whom: a forecast that errs by a few tokens would cost everybody's answer.
            return self.pool.final_blocks + self.need_blocks(ticket)
        trial = Lease(ticket, self.pool, now, 0, ticket.demand.output)
        return self._outlook(now).peak_with(Growth(trial, 0)) + self.pool.draining_blocks

    def _outlook(self, now: float) -> Outlook:
        assert self.pool is not None
        if self._cached is None or self._cached.is_old(now):
            self._cached = self._built(self.pool, now)
        return self._cached

    def _promised_blocks(self, pool: Pool, now: float) -> int:
        """What active leases will hold together at most, computed without keeping anything."""
        if pool.capacity.overflow_is_fatal:
            return pool.final_blocks - pool.draining_blocks
        return self._built(pool, now).peak

    def _built(self, pool: Pool, now: float) -> Outlook:
        speed, fastest = self.speed.known_or_slow, pool.fastest_tokens_per_s(now)
        return outlook(pool, lambda lease: growth_of(lease, now, speed, fastest), self.limits.z, now)
