"""The ledger against the engine's own word: memory of others, requests that run on, gauges that have frozen.

The ledger rules and telemetry corrects it. A reading explains nothing that happened after it was asked for, so each
comparison counts only what was there then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway.admission.curves import generated_unseen
from gateway.admission.ledger import Lease, LeaseState, Pool
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Reading

DRAIN_READINGS = 2
"""Fresh readings that must pass before a drain may end by time alone."""
USED_SHARE_MAX = 1.05
"""A gauge above this part of the pool is no measurement."""
FOREIGN_AHEAD_S = 5.0
"""For so long others are taken to go on growing as they do."""
FOREIGN_GAIN = 0.3
"""What the newest reading counts in how fast they grow."""
GROWTH_SHARE_MAX = 0.05
"""Part of the pool that is kept free for others to grow into: they may end too, and a guess must not shut us out."""
GROWN_TOKENS = tuple(1 << power for power in range(4, 15))
"""Steps ahead at which the growth of others' requests is looked at."""


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
    foreign_growth_blocks: int = 0
    """What it may still grow by: requests that nobody here knows go on to generate."""
    unexplained: int = 0
    """Readings in a row that showed more than the ledger explains."""
    last: Reading | None = None
    moved_at: float = 0.0
    """When the engine's counters last moved."""
    drain_timeouts: int = 0
    others: Explained = Explained(0, 0)
    """What other gateways say that their requests use."""
    _foreign_per_s: float = 0.0
    """Blocks by which it grows in a second, on average over the last readings."""
    _foreign_before: int = 0

    def read(self, pool: Pool, reading: Reading, now: float, tokens_per_s: float) -> None:
        """Take in one reading."""
        self._note_movement(reading, now)
        own, others = explain(pool, reading, now, tokens_per_s), self.others
        explained = Explained(own.sequences + others.sequences, own.blocks + others.blocks)
        self._settle_drains(pool, reading, explained, now)
        sure_blocks = sure_of(pool, reading, now, tokens_per_s) + others.blocks
        self._find_foreign(pool, reading, explained, sure_blocks)
        self._follow_foreign(reading)
        likely = growth(pool, reading, explained.sequences, self.foreign_blocks)
        most = int(GROWTH_SHARE_MAX * pool.capacity.blocks)
        self.foreign_growth_blocks = min(most, max(likely, int(FOREIGN_AHEAD_S * self._foreign_per_s)))
        self.last = reading

    def is_frozen(self, pool: Pool, now: float) -> bool:
        """Whether memory looks taken though nobody works: only a request that makes the engine step moves the gauge."""
        return now >= self.frozen_from(pool)

    def frozen_from(self, pool: Pool) -> float:
        """When it is to be called frozen if nothing moves before; infinity where there is no sign of it."""
        if pool.sequences or self.foreign_blocks <= self._tolerance(pool):
            return math.inf
        return self.moved_at + self.limits.frozen_after_s

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

    def _find_foreign(self, pool: Pool, reading: Reading, explained: Explained, sure_blocks: int) -> None:
        """What others use: no more than what is left unexplained, and what was found once only leaves for sure."""
        used = used_blocks(pool, reading)
        if used is None:
            # A count alone cannot say how much memory others use, but it can say that there are none.
            if reading.running is not None and reading.running + (reading.waiting or 0) <= explained.sequences:
                self.foreign_blocks = 0
            return
        ended = sum(lease.final_blocks for lease in pool.draining if lease.ended_at < reading.asked_at)
        over = used - explained.blocks - ended
        over = max(over, min(self.foreign_blocks, used - sure_blocks - ended))
        if over <= self._tolerance(pool):
            self.unexplained = 0
            self.foreign_blocks = 0
            return
        self.unexplained += 1
        first_look = self.last is None
        if first_look or self.unexplained >= self.limits.foreign_readings or over < self.foreign_blocks:
            self.foreign_blocks = over

    def _follow_foreign(self, reading: Reading) -> None:
        """How fast others grow. What appears at once is no growth, and neither is what has gone."""
        before, self._foreign_before = self._foreign_before, self.foreign_blocks
        if not before or not self.foreign_blocks or self.last is None:
            self._foreign_per_s = 0.0
            return
        seconds = reading.asked_at - self.last.asked_at
        if seconds > 0:
            grown = (self.foreign_blocks - before) / seconds
            self._foreign_per_s += FOREIGN_GAIN * (grown - self._foreign_per_s)

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


def sure_of(pool: Pool, reading: Reading, now: float, tokens_per_s: float) -> int:
    """Blocks that our own live requests are known to hold, where `explain` has what they may hold at most.

    Who waits in the engine holds nothing: the youngest, of whom nothing came yet. Whatever is taken for our own memory
    too soon hides somebody else's, which is then given out again: with the work of its predecessor on the engine and a
    backlog in front of it, a new gateway meets that in its first seconds.
    """
    waiting, blocks = reading.waiting or 0, 0
    for lease in reversed(pool.leases.values()):
        if lease.started_at >= reading.asked_at:
            continue
        if waiting > 0 and not lease.output_tokens:
            waiting -= lease.sequences
            continue
        blocks += lease.blocks_at(lease.generated(now, tokens_per_s))
    return blocks


def growth(pool: Pool, reading: Reading, known_sequences: int, foreign_blocks: int) -> int:
    """Blocks by which others' requests will grow at most, taken for just begun and for as long as answers here are.

    Each has its part of what they hold, and generates a token a step; of those that have begun together, ever fewer are
    left. Who waits in the engine will hold as much as who runs. A gateway that was killed leaves such requests behind.
    Nothing while nothing is known of how long answers get.
    """
    running = (reading.running or 0) - known_sequences
    if foreign_blocks <= 0 or running <= 0 or not pool.outputs:
        return 0
    block_tokens = pool.capacity.layout.block_tokens
    lengths = max(pool.outputs.values(), key=lambda output: output.mean())
    sequences, held = running + (reading.waiting or 0), foreign_blocks * block_tokens / running
    most = max(sequences * (held + tokens) * lengths.survival(tokens) for tokens in GROWN_TOKENS)
    return max(0, math.ceil(most / block_tokens) - foreign_blocks)


def used_blocks(pool: Pool, reading: Reading) -> int | None:
    """Blocks in use, if the engine says so. One that runs nothing uses nothing: what its gauge shows then is old.

    Gauges of vLLM move only with its steps (vllm#29928).
    """
    if reading.running == 0 and not reading.waiting:
        return 0
    used = reading.used_blocks
    return None if used is None or not 0 <= used <= USED_SHARE_MAX * pool.capacity.blocks else used
