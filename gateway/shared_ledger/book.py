"""One backend's page in the shared ledger, as one gateway keeps it. Sans-I/O: claims out, replies and failures in.

A gateway has one entry per backend: the peak that its own admission predicts for all that it sends there. It may grow
only by a claim that the store grants, and the store grants none that brings the sum of all entries over what the pool
has. So nothing is sent that does not fit, whoever else is at it in that moment.

Where the store cannot be asked, nobody may count on room that another may be taking. As long as our entry cannot have
lapsed, the others leave us what it says, and no more. Afterwards each gateway keeps to its part of the pool, and to its
part of what was free when it was heard last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gateway.admission.commands import Admit
from gateway.admission.events import Denied, Event, OthersHold
from gateway.admission.holding import Holding
from gateway.domain import UNLIMITED
from gateway.shared_ledger.claims import Claim, LedgerSettings, Reply

HEARTBEAT_S = 0.25
"""What is held is said so often; also how old the word of the others may be that explains the engine's gauge."""
POLL_S = 0.05
"""While somebody waits here, so often."""
RELEASE_S = 0.02
"""While somebody waits elsewhere, what came free is said so soon."""
PAUSE_S = 0.01
"""After a claim that was denied: a race that is lost again and again must not keep the store busy."""
RETRY_S = 0.25
"""A store that does not answer is tried again so often: several times before an entry lapses."""
KEPT_S = 120.0
"""For so long after the store was lost, what others had then counts as theirs. Afterwards the engine's gauge alone
shows it: what they had then has ended, or has grown to where it shows."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An admitted request that is not sent before its claim is granted."""

    admit: Admit
    arrived_at: float
    over_blocks: int
    """What admission knowingly gave it beyond what is allowed: a request that is alone may take what there is."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What follows from an answer, or from there being none."""

    granted: Sequence[Admit] = ()
    events: Sequence[Event] = ()
    """For admission, in this order."""


@dataclass(slots=True)
class Book:
    """See the module. Times are monotonic seconds."""

    backend: str
    settings: LedgerSettings
    pending: dict[int, Pending] = field(default_factory=dict)
    """By ticket; in the order in which they were admitted."""
    is_reachable: bool = False
    is_settled: bool = False
    """Whether everybody who may be there has been heard."""
    replicas: int = 0
    """Seen last when all were heard; 0: never."""
    next_at: float = float("-inf")
    close_at: float = float("-inf")
    """When to look closely again at what is in use."""
    _claimed: frozenset[int] = frozenset()
    """Tickets in the claim under way."""
    _held_blocks: int = 0
    """The store has no less for us, until `_lapses_at`."""
    _lapses_at: float = float("-inf")
    _part_blocks: int = 0
    """What we may hold after that: what we held, and our part of what was free."""
    _reply: Reply | None = None
    _back_at: float = 0.0
    _lost_at: float = 0.0
    _kept: OthersHold | None = None
    """What others had when they were heard last."""
    _lapsed_blocks: int | None = None
    _told: OthersHold | None = None
    _has_freed: bool = False
    _said_at: float = float("-inf")
    _paused_until: float = float("-inf")

    @property
    def share(self) -> float:
        """Part of the pool that this gateway may fill at most."""
        if self.is_settled and self.is_reachable:
            return 1.0
        here = self._reply.replicas if self._reply is not None and self.is_reachable else 1
        return 1.0 / max(self.replicas or self.settings.replicas_max, here)

    def due(self) -> float:
        """When the store is to be asked next."""
        if self.pending:
            return self._paused_until
        if self._has_freed and self.is_reachable and self._reply is not None and self._reply.others_want:
            return min(self.next_at, max(self._paused_until, self._said_at + RELEASE_S))
        return self.next_at

    def hold_back(self, admit: Admit, now: float, *, over_blocks: int) -> None:
        """An admitted request is not to be sent before its claim is granted."""
        self.pending[admit.ticket_id] = Pending(admit, now - admit.waited_s, over_blocks)

    def freed(self) -> None:
        """A request has ended: perhaps somebody waits for its room."""
        self._has_freed = True

    def claim(self, holding: Holding | None, number: int, now: float) -> Claim:
        """What to say now; `holding` is None where nothing is known of the backend yet."""
        self._claimed = frozenset(self.pending)
        self._has_freed, self._said_at = False, now
        if holding is None:
            return Claim(self.backend, number, bool(self._claimed), 0, 0, 0, 0, 0, 0.0)
        # Who is not heard keeps what it was given: a call that is lost must not give it away.
        least = 0 if self.is_reachable else self._held_blocks
        over = max((pending.over_blocks for pending in self.pending.values()), default=0)
        blocks = max(least, holding.blocks - over)
        wanted, waited_s = holding.wanted_blocks, holding.waited_s
        if self.pending:
            # If it is denied, it waits on for as much.
            wanted = max(1, blocks - self._held_blocks)
            waited_s = now - min(pending.arrived_at for pending in self.pending.values())
        return Claim(
            backend=self.backend,
            number=number,
            is_request=bool(self._claimed),
            blocks=blocks,
            room_blocks=holding.room_blocks,
            resident_blocks=holding.resident_blocks,
            sequences=holding.sequences,
            wanted_blocks=wanted if self.share == 1.0 else 0,
            waited_s=waited_s,
        )

    def answered(self, claim: Claim, reply: Reply, now: float) -> Heard:
        """The store has answered."""
        orphaned = self._orphaned(reply)
        if not self.is_reachable:
            self.is_reachable, self._back_at = True, now
        kept = self._kept
        self._settle(claim, reply, now)
        if kept is not None and self._kept is None:
            # Whoever has not come back may have left something behind.
            orphaned += max(0, kept.resident_blocks - reply.resident_blocks)
        self._reply = reply
        if reply.granted:
            self._held_blocks = claim.blocks
        self._lapses_at = self._said_at + self.settings.ttl_s
        waits = claim.wanted_blocks or not self.is_settled
        self.next_at = now + (POLL_S if waits else HEARTBEAT_S)
        claimed = self._taken(self._claimed)
        events = self._tell(self._others(orphaned, now))
        if reply.granted:
            return Heard([pending.admit for pending in claimed], events)
        self._paused_until = now + PAUSE_S
        self.next_at = self._paused_until
        return Heard(events=[*events, *_denied(claimed)])

    def failed(self, claim: Claim, now: float) -> Heard:
        """It has not, and nobody knows whether it has heard the claim."""
        if self.is_reachable:
            if self.is_settled:
                self._keep(claim.room_blocks)
            self.is_reachable = self.is_settled = False
            self._lost_at = now
        self._held_blocks = min(self._held_blocks, claim.blocks)
        orphaned = 0
        if self._kept is not None and now - self._lost_at >= KEPT_S:
            orphaned, self._kept = self._kept.resident_blocks, None
        self.next_at = now + RETRY_S
        events = self._tell(self._others(orphaned, now))
        return Heard(events=[*events, *_denied(self._taken(frozenset(self.pending)))])

    def opening(self) -> Sequence[Event]:
        """What admission is to know before anything was heard."""
        return self._tell(self._others(0, self._lapses_at)) if self._told is None else ()

    def closing(self) -> Sequence[Event]:
        """Its backend has gone: who was to be sent there waits again."""
        return _denied(self._taken(frozenset(self.pending)))

    # Parts

    def _taken(self, ids: frozenset[int]) -> list[Pending]:
        """Those that still wait for the answer; a client may have left meanwhile."""
        taken = [pending for ticket_id, pending in self.pending.items() if ticket_id in ids]
        for pending in taken:
            del self.pending[pending.admit.ticket_id]
        return taken

    def _orphaned(self, reply: Reply) -> int:
        """Blocks that others have given up since the last answer."""
        before, self._lapsed_blocks = self._lapsed_blocks, reply.lapsed_blocks
        return max(0, reply.lapsed_blocks - before) if before is not None and self.is_reachable else 0

    def _settle(self, claim: Claim, reply: Reply, now: float) -> None:
        """Whether everybody has been heard: a store that was lost may have forgotten those who still run."""
        ttl_s, everybody = self.settings.ttl_s, self.replicas and reply.replicas >= self.replicas
        was_settled = self.is_settled
        if everybody:
            self.is_settled = True
        elif reply.age_s < ttl_s:
            self.is_settled = False
        elif not was_settled:
            self.is_settled = not self.replicas or now - self._back_at >= ttl_s
        if self.is_settled:
            self.replicas, self._kept = reply.replicas, None
        elif was_settled:
            self._keep(claim.room_blocks)
            self._back_at = now

    def _keep(self, room_blocks: int) -> None:
        """What is free belongs to all of us: for the time to come, a part of it each."""
        reply = self._reply
        assert reply is not None
        free = max(0, room_blocks - reply.blocks - self._held_blocks)
        self._part_blocks = self._held_blocks + free // reply.replicas
        self._kept = OthersHold(self.backend, reply.blocks, reply.resident_blocks, reply.sequences)

    def _others(self, orphaned: int, now: float) -> OthersHold:
        """All that is known of them now."""
        blocks = resident = sequences = 0
        if self.is_reachable and self._reply is not None:
            blocks = self._reply.blocks + self._reply.promised_blocks
            resident, sequences = self._reply.resident_blocks, self._reply.sequences
        if (kept := self._kept) is not None:
            blocks, resident = max(blocks, kept.blocks), max(resident, kept.resident_blocks)
            sequences = max(sequences, kept.sequences)
        limit = UNLIMITED if self._kept is None else self._part_blocks
        if not self.is_reachable and now < self._lapses_at:
            limit = self._held_blocks
        gateways = max(1, self.replicas, self._reply.replicas if self._reply is not None else 0)
        return OthersHold(self.backend, blocks, resident, sequences, orphaned, self.share, limit, gateways)

    def _tell(self, others: OthersHold) -> Sequence[Event]:
        if others == self._told:
            return ()
        # What was orphaned is told once.
        self._told = replace(others, orphaned_blocks=0)
        return (others,)


def _denied(pending: Sequence[Pending]) -> list[Event]:
    return [Denied(each.admit.ticket_id, each.arrived_at) for each in pending]
