"""Memory promised: one pool per generation of a backend, one lease per request that was sent there.

A lease holds its pool, so that its release finds the right books even if the backend has restarted under the same
name. Running totals answer in constant time; `check` recomputes them.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from estimator.output_length import OutputForecast
from gateway.admission.fit import Size, blocks_at, size_of
from gateway.domain import Capacity, Outcome, Ticket

REPORT_MIN_S = 1.0
"""A rate is believed from this age on: a short answer may come in one burst."""
RELEASES_KEPT_S = 10.0
"""How long a release is remembered, to explain a reading that was asked for just before it."""


class LeaseState(enum.Enum):
    """ACTIVE -> RELEASED, or ACTIVE -> DRAINING -> RELEASED; never back."""

    ACTIVE = "active"
    DRAINING = "draining"
    RELEASED = "released"


@dataclass(slots=True, eq=False)
class Lease:
    """The memory of one dispatched request. Only its pool changes it."""

    ticket: Ticket
    pool: Pool
    started_at: float
    bound_tokens: int
    """Output per sequence that is reserved for; grows when the output outgrows it."""
    state: LeaseState = LeaseState.ACTIVE
    output_tokens: int = 0
    """As reported, over all sequences."""
    final_blocks: int = 0
    """Held when every sequence has reached `bound_tokens`."""
    most_blocks: int = 0
    """Held when every sequence has reached its hard end."""
    expected_tokens: int = 0
    """Output per sequence that is expected: what its tenant's share is charged with."""
    expected_blocks: int = 0
    """Held then."""
    first_token_at: float | None = None
    """When its first token was seen; None before, and where it does not stream."""
    charged_until: float = 0.0
    """Up to when its tenant was charged for the memory it held."""
    ended_at: float = 0.0
    ended_blocks: int = 0
    """Held when it ended here."""
    readings_since_end: int = 0
    sequences: int = field(init=False)
    """That its engine runs for it."""

    def __post_init__(self) -> None:
        self.sequences = self.ticket.demand.sequences

    @property
    def output(self) -> OutputForecast:
        """How long its answer is expected to get, as is known now."""
        return self.pool.output_of(self.ticket)

    @property
    def is_of_known_end(self) -> bool:
        """Whether it rather runs to its hard end than ends before. Answers of unknown length spread by themselves."""
        return self.output.survival(self.ticket.demand.output_tokens_max) >= 0.5

    @property
    def shown_tokens(self) -> int:
        """Tokens that all its sequences hold together, as far as they have shown them."""
        demand = self.ticket.demand
        return demand.n * demand.prompt_tokens + self.output_tokens

    def generated(self, now: float, tokens_per_s: float) -> int:
        """Output per sequence by now: reported where the request streams, else inferred from the time it runs."""
        if self.ticket.streamed:
            return self.output_tokens // self.sequences
        return min(self.bound_tokens, int((now - self.started_at) * tokens_per_s))

    def charge(self, generated: int, now: float) -> float:
        """Token-seconds that it has held since it was last charged."""
        demand = self.ticket.demand
        tokens = demand.n * demand.prompt_tokens + self.sequences * generated
        seconds, self.charged_until = now - self.charged_until, now
        return tokens * seconds

    def blocks_at(self, generated: int) -> int:
        """Pool blocks held when each sequence has generated so much."""
        return blocks_at(self.pool.capacity, self.ticket, generated)


class Release(NamedTuple):
    """A request that ended, and what it held then."""

    at: float
    started_at: float
    sequences: int
    blocks: int


@dataclass(slots=True, eq=False)
class Pool:
    """The KV pool of one generation of a backend, and who holds what of it."""

    capacity: Capacity
    generation: str
    leases: dict[int, Lease] = field(default_factory=dict)
    """Active ones, by ticket id."""
    draining: list[Lease] = field(default_factory=list)
    """Those that wait for the engine to show their memory free, oldest end first."""
    sequences: int = 0
    """Of active leases."""
    final_blocks: int = 0
    """Sum over all leases of what each holds at its end; its peaks need not coincide, so it may exceed the pool."""
    most_blocks: int = 0
    """Sum over active leases of what each holds at its hard end: they never hold more together."""
    draining_blocks: int = 0
    """The part of it that ended requests may still grow to, for all we know."""
    tenant_blocks: dict[str, int] = field(default_factory=dict)
    """By tenant: blocks that all its leases are expected to hold at their ends."""
    kv_tokens: int = 0
    """That active leases hold, as far as reported, or inferred when that was done last."""
    inferred_tokens: dict[int, int] = field(default_factory=dict)
    """By ticket id, of active leases that do not stream: generated beyond what was reported, for all we know."""
    intervals_s: dict[float, int] = field(default_factory=dict)
    """Times per token that active leases were promised, and how many of them each."""
    outputs: dict[str, OutputForecast] = field(default_factory=dict)
    """How long each model's answers are expected to get, where that was learned since requests were priced."""
    released: deque[Release] = field(default_factory=deque)
    """Recent ends that proved their memory free."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds anything, as far as the ledger knows."""
        return not self.leases and not self.draining

    def output_of(self, ticket: Ticket) -> OutputForecast:
        """How long the answer is expected to get, as is known now."""
        own = ticket.demand.output
        return own if ticket.runs_to_max else self.outputs.get(ticket.model, own)

    def lend(self, ticket: Ticket, bound_tokens: int, now: float, size: Size | None = None) -> Lease:
        """Open a lease for a request that is being sent to this backend; its size if it is known already."""
        assert ticket.id not in self.leases, f"ticket {ticket.id} was sent twice"
        lease = Lease(ticket, self, now, bound_tokens, charged_until=now)
        self.leases[ticket.id] = lease
        size, demand = size or size_of(self.capacity, ticket), ticket.demand
        self.sequences += lease.sequences
        self.kv_tokens += demand.n * demand.prompt_tokens
        if not ticket.streamed:
            self.inferred_tokens[ticket.id] = 0
        intervals_s, interval_s = self.intervals_s, ticket.token_interval_max_s
        intervals_s[interval_s] = intervals_s.get(interval_s, 0) + 1
        self._expect(lease, round(size.output_tokens))
        lease.most_blocks = final = size.most
        self.most_blocks += size.most
        if bound_tokens != demand.output_tokens_max:
            final = blocks_at(self.capacity, ticket, bound_tokens)
        lease.final_blocks = final
        self.final_blocks += final
        return lease

    def progress(self, lease: Lease, output_tokens: int, risk: float) -> None:
        """Note how much a stream has generated; reserve more once it has outgrown its bound."""
        if lease.state is not LeaseState.ACTIVE or output_tokens <= lease.output_tokens:
            return
        self.kv_tokens += output_tokens - lease.output_tokens
        lease.output_tokens = output_tokens
        generated = output_tokens // lease.sequences
        if generated > lease.expected_tokens:
            # Whoever asks for little and then generates much is charged with what can still come.
            self._expect(lease, round(lease.output.mean(generated, cap=lease.ticket.demand.output_tokens_max)))
        if generated >= lease.bound_tokens:
            longer = min(lease.ticket.demand.output_tokens_max, lease.output.quantile(1 - risk, generated))
            lease.bound_tokens = max(generated, longer)
            self._set_final(lease, lease.blocks_at(lease.bound_tokens))

    def infer(self, now: float, tokens_per_s: float) -> None:
        """Note how far answers that do not stream should have come by now."""
        for ticket_id, before in self.inferred_tokens.items():
            lease = self.leases[ticket_id]
            tokens = max(0, lease.generated(now, tokens_per_s) * lease.sequences - lease.output_tokens)
            self.kv_tokens += tokens - before
            self.inferred_tokens[ticket_id] = tokens

    def end(self, lease: Lease, outcome: Outcome, now: float, *, generated: int) -> bool:
        """The request ended here. Its memory is free if the outcome proves it, else it drains.

        Returns:
            False if it had ended before: nothing was changed.
        """
        if lease.state is not LeaseState.ACTIVE:
            return False
        ticket, sequences, intervals_s = lease.ticket, lease.sequences, self.intervals_s
        del self.leases[ticket.id]
        self.sequences -= sequences
        self.most_blocks -= lease.most_blocks
        self.kv_tokens -= lease.shown_tokens
        if not ticket.streamed:
            self.kv_tokens -= self.inferred_tokens.pop(ticket.id)
        interval_s = ticket.token_interval_max_s
        intervals_s[interval_s] -= 1
        if not intervals_s[interval_s]:
            del intervals_s[interval_s]
        lease.ended_at = now
        lease.ended_blocks = blocks_at(self.capacity, ticket, generated)
        if outcome.proves_memory_is_free:
            if outcome is not Outcome.NOT_SENT:
                self._remember(Release(now, lease.started_at, sequences, lease.ended_blocks))
            self._close(lease)
        else:
            lease.state = LeaseState.DRAINING
            self.draining.append(lease)
            self.draining_blocks += lease.final_blocks
        return True

    def free(self, leases: list[Lease]) -> None:
        """These draining leases hold nothing any more."""
        for lease in leases:
            assert lease.state is LeaseState.DRAINING, lease.state
            self.draining_blocks -= lease.final_blocks
            self._close(lease)
        self.draining = [lease for lease in self.draining if lease.state is LeaseState.DRAINING]

    def resize(self, capacity: Capacity) -> None:
        """The engine describes its pool anew: every lease is priced again."""
        self.capacity = capacity
        for lease in (*self.leases.values(), *self.draining):
            lease.most_blocks = lease.blocks_at(lease.ticket.demand.output_tokens_max)
            self._set_final(lease, lease.blocks_at(lease.bound_tokens))
            self._expect(lease, lease.expected_tokens)
        self.most_blocks = sum(lease.most_blocks for lease in self.leases.values())
        self.draining_blocks = sum(lease.final_blocks for lease in self.draining)

    def resident_blocks(self, now: float, tokens_per_s: float) -> int:
        """Blocks that active leases are taken to hold now."""
        return sum(lease.blocks_at(lease.generated(now, tokens_per_s)) for lease in self.leases.values())

    def fastest_tokens_per_s(self, now: float) -> float:
        """Tokens per second of the sequence that has reported most for its time; 0 before any is old enough."""
        rates = [
            lease.output_tokens / lease.sequences / (now - lease.started_at)
            for lease in self.leases.values()
            if lease.ticket.streamed and now - lease.started_at >= REPORT_MIN_S
        ]
        return max(rates, default=0.0)

    def check(self) -> None:
        """Assert that the totals equal the sum of the leases."""
        assert all(lease.state is LeaseState.ACTIVE for lease in self.leases.values())
        assert all(lease.state is LeaseState.DRAINING for lease in self.draining)
        held = [*self.leases.values(), *self.draining]
        assert self.final_blocks == sum(lease.final_blocks for lease in held), "final_blocks"
        assert self.most_blocks == sum(lease.most_blocks for lease in self.leases.values()), "most_blocks"
        assert self.draining_blocks == sum(lease.final_blocks for lease in self.draining), "draining_blocks"
        shown = sum(lease.shown_tokens for lease in self.leases.values())
        assert self.kv_tokens == shown + sum(self.inferred_tokens.values()), "kv_tokens"
        silent = {number for number, lease in self.leases.items() if not lease.ticket.streamed}
        assert self.inferred_tokens.keys() == silent, "inferred_tokens"
        assert sum(self.intervals_s.values()) == len(self.leases), "intervals_s"
        assert self.sequences == sum(lease.sequences for lease in self.leases.values()), "sequences"
        tenants: dict[str, int] = {}
        for lease in held:
            tenants[lease.ticket.tenant] = tenants.get(lease.ticket.tenant, 0) + lease.expected_blocks
        assert {tenant: blocks for tenant, blocks in tenants.items() if blocks} == self.tenant_blocks, "tenant_blocks"

    def _close(self, lease: Lease) -> None:
        self._set_final(lease, 0)
        self._charge_share(lease, 0)
        lease.state = LeaseState.RELEASED

    def _remember(self, release: Release) -> None:
        self.released.append(release)
        while self.released[0].at < release.at - RELEASES_KEPT_S:
            self.released.popleft()

    def _set_final(self, lease: Lease, blocks: int) -> None:
        self.final_blocks += blocks - lease.final_blocks
        lease.final_blocks = blocks

    def _expect(self, lease: Lease, tokens: int) -> None:
        lease.expected_tokens = tokens
        self._charge_share(lease, blocks_at(self.capacity, lease.ticket, tokens))

    def _charge_share(self, lease: Lease, blocks: int) -> None:
        tenant = lease.ticket.tenant
        held = self.tenant_blocks.get(tenant, 0) + blocks - lease.expected_blocks
        lease.expected_blocks = blocks
        if held:
            self.tenant_blocks[tenant] = held
        else:
            self.tenant_blocks.pop(tenant, None)


def charge(leases: Iterable[Lease], seconds_of: dict[str, float], tokens_per_s: float, now: float) -> None:
    """Add to each tenant's token-seconds what its leases have held since they were last charged."""
    for lease in leases:
        tenant = lease.ticket.tenant
        held = lease.charge(lease.generated(now, tokens_per_s), now)
        seconds_of[tenant] = seconds_of.get(tenant, 0.0) + held
