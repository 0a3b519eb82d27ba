"""The ledger against the engine's own word: memory of others, requests that run on, gauges that have frozen.

The ledger rules and telemetry corrects it. A reading explains nothing that happened after it was asked for, so each
comparison counts only what was there then.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admission.curves import generated_unseen
from gateway.admission.ledger import Lease, LeaseState, Pool
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Reading

DRAIN_READINGS = 2
"""Fresh readings that must pass before a drain may end by time alone."""
USED_SHARE_MAX = 1.05
"""A gauge above this part of the pool is no measurement."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What the ledger expects a reading to show, draining requests that ended before it left out."""

    sequences: int
    blocks: int


@dataclass(slots=True)
class Reconciliation:
    """What the readings of one pool have shown so far."""

    limits: AdmissionLimits
    foreign_blocks: int = 0
    """In use by somebody else: traffic that bypasses this gateway, or requests of a gateway that died."""
    unexplained: int = 0
    """Readings in a row that showed more than the ledger explains."""
    last: Reading | None = None
    moved_at: float = 0.0
    """When the engine's counters last moved."""
    drain_timeouts: int = 0
    others: Explained = Explained(0, 0)
    """What other gateways say that their requests use."""

    def read(self, pool: Pool, reading: Reading, now: float, tokens_per_s: float) -> None:
        """Take in one reading."""
        self._note_movement(reading, now)
        own, others = explain(pool, reading, now, tokens_per_s), self.others
        explained = Explained(own.sequences + others.sequences, own.blocks + others.blocks)
        self._settle_drains(pool, reading, explained, now)
        self._find_foreign(pool, reading, explained)
        self.last = reading

    def is_frozen(self, pool: Pool, now: float) -> bool:
        """Whether memory looks taken though nobody works: only a request that makes the engine step moves the gauge."""
        return now >= self.frozen_from(pool)

    def frozen_from(self, pool: Pool) -> float:
        """When it is to be called frozen if nothing moves before; infinity where there is no sign of it."""
        taken = self.foreign_blocks > self._tolerance(pool)
        return self.moved_at + self.limits.frozen_after_s if taken and not pool.sequences else float("inf")

    def end_overdue_drains(self, pool: Pool, now: float) -> None:
        """Without telemetry nothing can confirm an end: after the drain time it is taken for granted."""
        late = [lease for lease in pool.draining if now - lease.ended_at >= self.limits.drain_max_s]
        pool.free(late)
        self.drain_timeouts += len(late)

    def _note_movement(self, reading: Reading, now: float) -> None:
        last = self.last
        if last is None or (last.work_done, last.used_blocks, last.running) != (
            reading.work_done,
            reading.used_blocks,
            reading.running,
        ):
            self.moved_at = now

    def _settle_drains(self, pool: Pool, reading: Reading, explained: Explained, now: float) -> None:
        """Free as many draining leases as the reading leaves no room for; the latest ends are the last to be believed.

        One request that hangs in the engine must not keep all the others' memory reserved.
        """
        ended = [lease for lease in pool.draining if lease.ended_at < reading.asked_at]
        if not ended:
            return
        for lease in ended:
            lease.readings_since_end += 1
        sequences, blocks = self._surplus(pool, reading, explained)
        free: list[Lease] = []
        for lease in reversed(ended):
            if sequences <= 0 and blocks <= 0:
                free.append(lease)
            sequences -= lease.sequences
            blocks -= lease.ended_blocks
        pool.free(free)
        overdue = [lease for lease in ended if lease.state is LeaseState.DRAINING and self._is_overdue(lease, now)]
        if used_blocks(pool, reading) is not None or reading.running is not None:
            # What is still there after that long is somebody else's from now on: it stays counted, as foreign.
            self.foreign_blocks += sum(lease.final_blocks for lease in overdue)
        pool.free(overdue)
        self.drain_timeouts += len(overdue)

    def _surplus(self, pool: Pool, reading: Reading, explained: Explained) -> tuple[float, float]:
        """Sequences and blocks beyond what live requests and known others explain; infinite if nothing is said."""
        used = used_blocks(pool, reading)
        blocks = (
            float("-inf") if used is None else used - explained.blocks - self.foreign_blocks - self._tolerance(pool)
        )
        sequences = float("-inf")
        # With others on the engine its count says nothing about our own; alone with us, it is the better witness.
        if reading.running is not None and (used is None or not self.foreign_blocks):
            sequences = reading.running + (reading.waiting or 0) - explained.sequences
        if used is None and reading.running is None:
            return float("inf"), float("inf")
        return sequences, blocks

    def _is_overdue(self, lease: Lease, now: float) -> bool:
        return lease.readings_since_end >= DRAIN_READINGS and now - lease.ended_at >= self.limits.drain_max_s

    def _find_foreign(self, pool: Pool, reading: Reading, explained: Explained) -> None:
        used = used_blocks(pool, reading)
        if used is None:
            # A count alone cannot say how much memory others use, but it can say that there are none.
            if reading.running is not None and reading.running + (reading.waiting or 0) <= explained.sequences:
                self.foreign_blocks = 0
            return
        ended = sum(lease.final_blocks for lease in pool.draining if lease.ended_at < reading.asked_at)
        over = used - explained.blocks - ended
        if over <= self._tolerance(pool):
            self.unexplained = 0
            self.foreign_blocks = 0
            return
        self.unexplained += 1
        first_look = self.last is None
        if first_look or self.unexplained >= self.limits.foreign_readings or over < self.foreign_blocks:
            self.foreign_blocks = over

    def _tolerance(self, pool: Pool) -> int:
        return int(self.limits.foreign_tolerance * pool.capacity.blocks)


def explain(pool: Pool, reading: Reading, now: float, tokens_per_s: float) -> Explained:
    """Sum up who was on the engine when the reading was asked for: live, or ended since.

    Live ones with the most that they may hold by then. What is held back of a stream, and all of an answer that does
    not stream, is seen only at its end; taken for somebody else's it would be counted twice.
    """
    asked_at, fastest = reading.asked_at, pool.fastest_tokens_per_s(now)
    sequences = blocks = 0
    for lease in pool.leases.values():
        if lease.started_at < asked_at:
            sequences += lease.sequences
            generated = lease.generated(now, tokens_per_s)
            seen = lease.blocks_at(generated + generated_unseen(lease, generated, now, fastest))
            blocks += seen if lease.ticket.streamed else max(seen, lease.final_blocks)
    for lease in pool.draining:
        if lease.started_at < asked_at <= lease.ended_at:
            sequences += lease.sequences
            blocks += lease.final_blocks
    for release in reversed(pool.released):
        if release.at < asked_at:
            break
        if release.started_at < asked_at:
            sequences += release.sequences
            blocks += release.blocks
    return Explained(sequences, blocks)


def used_blocks(pool: Pool, reading: Reading) -> int | None:
    """Blocks in use, if the engine says so. One that runs nothing uses nothing: what its gauge shows then is old.

    Gauges of vLLM move only with its steps (vllm#29928).
    """
    if reading.running == 0 and not reading.waiting:
        return 0
    used = reading.used_blocks
    return None if used is None or not 0 <= used <= USED_SHARE_MAX * pool.capacity.blocks else used
