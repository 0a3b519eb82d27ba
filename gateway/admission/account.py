"""One engine of our own: its pool, what may be given out of it now, and when there will be more."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from estimator.output_length import OutputForecast
from gateway.admission import fit
from gateway.admission.events import OthersHold
from gateway.admission.ledger import Lease, Pool, charge
from gateway.admission.limits import AdmissionLimits
from gateway.admission.margin import Margin, Trend
from gateway.admission.memory import Memory
from gateway.admission.others import Others
from gateway.admission.pace import Pace, Prompt
from gateway.admission.pacing import PACE_FILL, spacing_steps
from gateway.admission.prompt_cache import PromptCache
from gateway.admission.reconcile import Explained, Reconciliation
from gateway.admission.snapshot import BackendState, Telemetry
from gateway.admission.standing import Speed, Standing
from gateway.domain import Capacity, Outcome, Reading, Reason, Ticket, Usage
from gateway.routing.choose import Holds, Lack, Offer

LOOK_BLOCKS = 0.05
"""While somebody waits, look again whenever sequences have grown by this part of a block."""
LOOK_MIN_S = 0.01
NO_ROOM = Lack(Reason.HEADROOM, Holds.ALL)
NEVER = math.inf


@dataclass(slots=True, eq=False)
class EngineAccount:
    """The books of one engine."""

    standing: Standing
    limits: AdmissionLimits
    memory: Memory | None = None
    """None until it has described its pool, and again after a restart."""
    reconciliation: Reconciliation = field(init=False)
    speed: Speed = field(default_factory=Speed)
    pace: Pace = field(default_factory=Pace)
    margin: Margin = field(default_factory=Margin)
    trend: Trend = field(default_factory=Trend)
    """Of what is reserved."""
    cache: PromptCache = field(default_factory=PromptCache)
    kv_token_seconds: dict[str, float] = field(default_factory=dict)
    """Memory that each tenant's requests have held, over time."""
    next_start: float = float("-inf")
    """Under a backlog, no request is sent before this; see `pacing`."""
    probe_at: float = float("-inf")
    others: Others = field(default_factory=Others)
    """Gateways in front of the same engine."""

    def __post_init__(self) -> None:
        self.reconciliation = Reconciliation(self.limits)

    @property
    def pool(self) -> Pool | None:
        """Of its present generation."""
        return self.memory.pool if self.memory is not None else None

    # What the engine says

    def observe(self, reading: Reading, now: float) -> bool:
        """Take in a reading. A new generation starts with an empty pool; leases of the old one stay with theirs.

        Returns:
            whether its capacity changed.
        """
        preemptions_before, memory = self.standing.preemptions, self.memory
        capacity_before = memory.pool.capacity if memory is not None else None
        if not self.standing.answered(reading, now):
            return False
        if memory is not None and memory.pool.generation != reading.generation:
            memory = self.memory = None
            self.next_start = float("-inf")
            self.pace = Pace(self.pace.times)
            self.cache.restarted()
            past = self.reconciliation
            self.reconciliation = Reconciliation(self.limits, drain_timeouts=past.drain_timeouts, others=past.others)
        capacity = reading.capacity
        if capacity is not None and capacity.blocks > 0:
            if memory is None:
                memory = self.memory = Memory(Pool(capacity, reading.generation), self.limits, self.speed)
            elif memory.pool.capacity != capacity:
                memory.resize(capacity, now)
        if memory is None:
            return False
        self.reconciliation.read(memory.pool, reading, now, self.speed.known_or_slow)
        self.margin.preempted(self.standing.preemptions - preemptions_before, now)
        self.cache.read(reading.prefix_hit_tokens)
        charge(memory.pool.leases.values(), self.kv_token_seconds, self.speed.known_or_slow, now)
        memory.pool.infer(now, self.speed.known_or_slow)
        self.trend.note(memory.reserved_blocks(now), now)
        return memory.pool.capacity != capacity_before

    def turn(self, limits: AdmissionLimits, now: float) -> None:
        """Other settings from now on."""
        self.limits = self.reconciliation.limits = limits
        if self.memory is not None:
            self.memory.turn(limits, now)

    def others_hold(self, event: OthersHold) -> None:
        """Other gateways share it. What is left by those that are gone is foreign until the engine shows less."""
        self.others.heard(event)
        self.reconciliation.others = Explained(event.sequences, event.resident_blocks)
        self.reconciliation.foreign_blocks += event.orphaned_blocks

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
        assert self.memory is not None
        return self.memory.pool.capacity

    def is_usable(self, now: float) -> bool:
        """Whether it is alive and its pool known, even if it asked for a pause."""
        return self.pool is not None and self.standing.state(now) in (BackendState.READY, BackendState.BUSY)

    def is_ready(self, now: float) -> bool:
        """Whether requests may be sent to it now."""
        return self.memory is not None and self.standing.state(now) is BackendState.READY

    def allowed_blocks(self, now: float) -> int:
        """Blocks that this gateway may fill: without what others use and what old telemetry forbids to count on."""
        if self.memory is None:
            return 0
        return self.others.leave(self.room_blocks(now), self.memory.pool.capacity.blocks)

    def room_blocks(self, now: float) -> int:
        """Blocks that all gateways together may fill; below 0 where others use more than is left."""
        if self.memory is None:
            return 0
        foreign = self.reconciliation.foreign_blocks + self.reconciliation.foreign_growth_blocks
        return self.memory.pool.capacity.blocks - self.held_back_blocks(now) - foreign

    def held_back_blocks(self, now: float) -> int:
        """Margin that is not given out: telemetry is old, or the engine preempts."""
        if self.memory is None:
            return 0
        age = now - self.standing.read_at
        if age <= self.limits.stale_after_s and not self.margin.share_then:
            return 0
        share = 1.0 - self.margin.share(now)
        if age > self.limits.stale_after_s:
            share = min(share, self.limits.lost_share if age > self.limits.lost_after_s else self.limits.stale_share)
        blocks = self.memory.pool.capacity.blocks
        return blocks - int(blocks * share)

    def reserved_blocks(self, now: float) -> int:
        """Most blocks that requests sent there will hold together, but for the accepted risk."""
        return self.memory.reserved_blocks(now) if self.memory is not None else 0

    def offer(self, ticket: Ticket, now: float, *, backlog: int, contended: bool) -> Offer | Lack:
        """Room for a request now, or what there is not. Only for an engine that is ready.

        Args:
            ticket: the request.
            now: monotonic seconds.
            backlog: requests that wait for this engine, this one included.
            contended: whether other tenants wait too.
        """
        memory = self.memory
        assert memory is not None
        pool, size = memory.pool, memory.size(ticket)
        if not size.fits:
            return Lack(Reason.TOO_LARGE)
        if contended and memory.is_over_share(ticket):
            return Lack(Reason.TENANT_LIMIT, Holds.TENANT)
        if not pool.sequences and self.reconciliation.foreign_blocks and self.telemetry(now) is Telemetry.FROZEN:
            return Offer(self.name, 0.0) if now >= self.probe_at else Lack(Reason.STALE_TELEMETRY, Holds.ALL)
        allowed = self.allowed_blocks(now)
        if size.most > allowed and (first := fit.first_blocks(pool.capacity, ticket)) > allowed:
            # What other gateways hold will come free: those behind must not take it away.
            comes = self.others.share == 1.0 and first <= self.room_blocks(now)
            return Lack(Reason.HEADROOM, Holds.ALL if comes else Holds.NOBODY)
        matched = self.cache.expected_share(ticket) if ticket.prefix else 0.0
        if not pool.leases and not pool.draining and self.others.are_none:
            # Alone it cannot crowd anybody out: its prompt must fit, its output may take what there is.
            share = max(0, allowed - self.need_blocks(ticket)) / pool.capacity.blocks
            return Offer(self.name, share, matched_share=matched)
        spare = self._spare(ticket.token_interval_max_s)
        has_turn = self._has_turn(ticket, now, spare, backlog=backlog)
        free = memory.free_share_with(ticket, allowed, now) if has_turn else None
        if free is None:
            return NO_ROOM
        told = spare if free >= 0.0 else None  # A forecast may have inferred how far those who run have come.
        first_token_s = self._first_token_s(ticket, now) if ticket.first_token_by < NEVER else None
        late = first_token_s is not None and now + first_token_s > ticket.first_token_by
        return Offer(self.name, free, late=late, matched_share=matched, spare=told, first_token_s=first_token_s)

    def anyway(self, now: float) -> Offer:
        """A place on it whether there is room or not, for observe mode."""
        return Offer(self.name, (self.allowed_blocks(now) - self.reserved_blocks(now)) / self.capacity.blocks)

    def next_look(self, now: float) -> float:
        """When to try again for who waits, if nothing happens before; infinity if time alone will bring no room."""
        if self.pool is None or not self.standing.health.up:
            return NEVER
        if now < (pause_until := self.standing.pause_until()):
            return pause_until
        frozen_from = self.reconciliation.frozen_from(self.pool)
        if frozen_from < NEVER:
            return max(frozen_from, self.probe_at)
        if not self.pool.leases:
            return NEVER
        if now < self.next_start:
            return self.next_start
        # Room also comes with growth: a peak that was ahead lies behind, an answer has outlived its likely end.
        look = now + max(LOOK_MIN_S, LOOK_BLOCKS * self.pool.capacity.layout.block_tokens / self.speed.known_or_slow)
        turn_s = self.pace.turn_s(now, self._spare())
        return min(look, now + max(LOOK_MIN_S, turn_s)) if turn_s else look

    def admit(self, ticket: Ticket, now: float, *, backlog: int, offer: Offer | None = None) -> Lease:
        """Reserve for a request that is being sent; what was just offered need not be reckoned again."""
        memory = self.memory
        assert memory is not None
        if offer is None or (spare := offer.spare) is None:
            spare = self._spare(ticket.token_interval_max_s)
        if offer is None or (first_token_s := offer.first_token_s) is None:
            first_token_s = self._first_token_s(ticket, now)
        if not memory.pool.sequences:
            self.pace.woken(now)
        lease, capacity = memory.lend(ticket, now), memory.pool.capacity
        self.margin.dispatched()
        unread, limit_s = self.cache.unread_tokens(ticket), ticket.first_token_by - now
        self.pace.sent(ticket.id, Prompt(unread, now, now + first_token_s, limit_s, silent=not ticket.streamed), spare)
        if ticket.prefix:
            self.cache.sent(ticket, capacity.tokens)
        self.probe_at = now + self.limits.probe_every_s
        speed = self.speed.tokens_per_s
        if speed is not None and backlog * lease.final_blocks >= capacity.blocks and lease.is_of_known_end:
            steps = memory.size(ticket).steps
            ends = lease.blocks_at(1), lease.blocks_at(int(steps))
            self.next_start = now + spacing_steps(*ends, steps, self.allowed_blocks(now)) / speed
        return lease

    def progressed(self, moved: list[tuple[Lease, int]], now: float) -> None:
        """Streams have generated more: all output tokens so far of each. Leases of an older generation may be among."""
        memory, steps, streams, prompt_tokens = self.memory, 0, 0, 0
        pool, risk = memory.pool if memory is not None else None, self.limits.risk
        for lease, output_tokens in moved:
            before = lease.output_tokens
            if lease.pool is pool:
                if before:
                    streams += 1
                    if output_tokens > before:
                        steps += (output_tokens - before) // lease.sequences
                elif output_tokens:
                    lease.first_token_at = now
                    prompt_tokens += self.pace.first_token(lease.ticket.id, now)
            if output_tokens > before:
                lease.pool.progress(lease, output_tokens, risk)
        if memory is not None:
            mean_steps = steps / streams if streams else 0.0
            self.pace.advanced(now, mean_steps, memory.pool.sequences, memory.pool.kv_tokens, prompt_tokens)
            memory.keep_fresh(now)

    def learned(self, model: str, output: OutputForecast) -> None:
        """The answers of a model are now expected to be this long."""
        if self.memory is not None:
            self.memory.learned(model, output)

    def end(self, lease: Lease, outcome: Outcome, usage: Usage | None, now: float) -> None:
        """A request ended."""
        memory, speed = self.memory, self.speed.known_or_slow
        shown, used, tenant = lease.generated(now, speed), self.kv_token_seconds, lease.ticket.tenant
        generated = shown if usage is None else usage.output_tokens // lease.sequences
        used[tenant] = used.get(tenant, 0.0) + lease.charge(shown, now)
        if memory is not None and lease.pool is memory.pool:
            self.pace.gone(lease.ticket.id, finished=outcome is Outcome.FINISHED)
            is_first = memory.end(lease, outcome, now, generated=generated)
        else:
            is_first = lease.pool.end(lease, outcome, now, generated=generated)
        if not is_first:
            return
        told = usage if outcome is Outcome.FINISHED else None
        self.cache.ended(lease.ticket.id, told)
        if told is not None:
            self._learn(lease, generated, now)

    # Numbers for answers and people

    def need_blocks(self, ticket: Ticket) -> int:
        """Blocks that a request is predicted to hold at its end."""
        assert self.memory is not None
        return self.memory.need_blocks(ticket)

    def could_fit(self, ticket: Ticket) -> bool:
        """Whether its pool would take the request at the longest that its client allows, were it empty."""
        assert self.memory is not None
        return self.memory.size(ticket).fits

    def cost_s(self, ticket: Ticket) -> float:
        """Seconds of its time that a request is expected to take: to read its prompt, and its part of each step."""
        assert self.memory is not None
        unread, steps = self.cache.unread_tokens(ticket), self.memory.size(ticket).steps
        return self.pace.times.request_s(ticket.demand, unread, steps)

    def headroom_blocks(self, now: float) -> int:
        """Blocks still to be given out now."""
        return max(0, self.allowed_blocks(now) - self.reserved_blocks(now)) if self.is_ready(now) else 0

    def wait_s(self, ticket: Ticket, ahead_token_steps: float, now: float, *, at_most: bool = False) -> float:
        """Predicted seconds until there is room: for what stands in line before it, and then for itself.

        Args:
            ticket: the request.
            ahead_token_steps: work in line before it.
            now: monotonic seconds.
            at_most: a bound of it will do, which is quicker to be had.
        """
        memory = self.memory
        if memory is None or not self.is_ready(now):
            return max(self.limits.probe_every_s, self.standing.pause_until() - now)
        if not memory.pool.sequences and self.telemetry(now) is Telemetry.FROZEN:
            return max(self.limits.probe_every_s, self.probe_at - now)
        lasting = self._lasting_blocks(now)
        free = lasting - memory.pool.draining_blocks
        need = min(memory.size(ticket).most if at_most else memory.need_blocks(ticket), lasting)
        if need > free and not at_most:
            return self.limits.drain_max_s
        steps = memory.steps_until(ticket, min(need, free), free, now, at_most=at_most)
        ahead_s = self.serve_s(ahead_token_steps, now, lasting) if ahead_token_steps else 0.0
        room_s = max(steps / self.speed.known_or_slow, self.next_start - now) + ahead_s
        return max(room_s, self.limits.drain_max_s) if need > free else room_s

    def serve_s(self, token_steps: float, now: float, lasting_blocks: int = 0) -> float:
        """Predicted seconds that the whole pool takes for so much work; see `_lasting_blocks`, where they are known."""
        room_tokens = PACE_FILL * (lasting_blocks or self._lasting_blocks(now)) * self.capacity.layout.block_tokens
        return token_steps / room_tokens / self.speed.known_or_slow

    def check(self) -> None:
        """Assert that the books balance."""
        if self.pool is not None:
            self.pool.check()

    # Parts

    def _lasting_blocks(self, now: float) -> int:
        """What it may fill in the long run: what other gateways hold beyond their part comes free."""
        part = self.room_blocks(now) // self.others.gateways if self.others.gateways > 1 else 0
        return max(1, self.allowed_blocks(now), part)

    def _has_turn(self, ticket: Ticket, now: float, spare: float, *, backlog: int) -> bool:
        """Whether the engine can take another request now, as far as anything but memory is concerned."""
        assert self.memory is not None
        pool = self.memory.pool
        if pool.sequences and pool.sequences + ticket.demand.sequences > pool.capacity.sequences_max:
            return False
        if now < self.next_start and backlog * self.need_blocks(ticket) >= pool.capacity.blocks:
            return False
        if not self.limits.queue_requests_max:
            # Nobody may wait, be it a moment: a pace would only turn requests away.
            return True
        return spare > 0 and (not self.pace.is_known or self.pace.turn_s(now, spare) <= 0)

    def _spare(self, interval_max_s: float = math.inf) -> float:
        """Part of the engine's time that prompts may take, with what runs and one more with this time per token."""
        assert self.memory is not None
        pool = self.memory.pool
        interval_s = min(interval_max_s, *pool.intervals_s) if pool.intervals_s else interval_max_s
        return self.pace.spare(interval_s, pool.sequences, pool.kv_tokens)

    def _first_token_s(self, ticket: Ticket, now: float) -> float:
        assert self.memory is not None
        pool = self.memory.pool
        unread, limit_s = self.cache.unread_tokens(ticket), ticket.first_token_by - now
        return self.pace.first_token_s(unread, pool.sequences, pool.kv_tokens, now, limit_s)

    def _learn(self, lease: Lease, generated: int, now: float) -> None:
        """What the end of a request that went well tells of its engine."""
        self.speed.learn(generated, now - lease.started_at)
        if lease.first_token_at is not None and generated > 1:
            interval_s = (now - lease.first_token_at) / (generated - 1)
            self.pace.answered(interval_s, lease.ticket.token_interval_max_s, generated)
