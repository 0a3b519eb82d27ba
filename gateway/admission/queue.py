"""Requests that wait, in the order in which they will be served: first come, first served, with a head start by class.

A request counts as having arrived later than it did by the handicap of its class. So an urgent one passes a patient one
that came shortly before it, and nobody is passed for ever: whoever waits long enough is older than any newcomer.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.admission.pacing import work_token_steps
from gateway.admission.snapshot import QueueSnapshot
from gateway.domain import Priority, Reason, Ticket

HANDICAP_S = {Priority.INTERACTIVE: 0.0, Priority.STANDARD: 5.0, Priority.BATCH: 30.0}
HEAP_SLACK = 64
"""Entries of the heap of deadlines that may be out of date before it is cleaned up."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One request in the queue."""

    ticket: Ticket
    arrived_at: float
    lack: Reason = Reason.HEADROOM
    """What it was last seen to wait for."""
    rank: tuple[float, int] = field(init=False)
    """Served in ascending order."""
    work: float = field(init=False)
    """Token-steps that it will cost its pool, as expected when it came."""

    def __post_init__(self) -> None:
        self.rank = (self.arrived_at + HANDICAP_S[self.ticket.priority], self.ticket.id)
        self.work = work_token_steps(self.ticket)


@dataclass(slots=True)
class Line:
    """Who waits for one model."""

    waiting: list[Waiting] = field(default_factory=list)
    tenants: dict[str, int] = field(default_factory=dict)
    """Waiting requests of each."""


@dataclass(slots=True)
class Queue:
    """All waiting requests, by model. Its bound is kept by the caller, which must answer for what it turns away."""

    by_model: dict[str, Line] = field(default_factory=dict)
    by_id: dict[int, Waiting] = field(default_factory=dict)
    deadlines: list[tuple[float, int]] = field(default_factory=list)
    """Heap; entries of requests that have left the queue are skipped when they come up."""

    def __len__(self) -> int:
        return len(self.by_id)

    def __contains__(self, waiting: Waiting) -> bool:
        return self.by_id.get(waiting.ticket.id) is waiting

    def push(self, waiting: Waiting) -> None:
        """Let a request wait."""
        ticket = waiting.ticket
        assert ticket.id not in self.by_id, f"ticket {ticket.id} waits twice"
        self.by_id[ticket.id] = waiting
        line = self.by_model.setdefault(ticket.model, Line())
        bisect.insort(line.waiting, waiting, key=_rank)
        line.tenants[ticket.tenant] = line.tenants.get(ticket.tenant, 0) + 1
        heapq.heappush(self.deadlines, (ticket.deadline, ticket.id))
        if len(self.deadlines) > 2 * len(self.by_id) + HEAP_SLACK:
            self.deadlines = [(w.ticket.deadline, w.ticket.id) for w in self.by_id.values()]
            heapq.heapify(self.deadlines)

    def pop(self, ticket_id: int) -> Waiting | None:
        """Take a request out; None if it does not wait."""
        waiting = self.by_id.pop(ticket_id, None)
        if waiting is None:
            return None
        model, tenant = waiting.ticket.model, waiting.ticket.tenant
        line = self.by_model[model]
        place = bisect.bisect_left(line.waiting, waiting.rank, key=_rank)
        assert line.waiting[place] is waiting
        del line.waiting[place]
        line.tenants[tenant] -= 1
        if not line.tenants[tenant]:
            del line.tenants[tenant]
        if not line.waiting:
            del self.by_model[model]
        return waiting

    def line(self, model: str) -> list[Waiting]:
        """Who waits for a model, in order. A copy: the queue may change while it is walked."""
        line = self.by_model.get(model)
        return line.waiting.copy() if line is not None else []

    def depth(self, model: str) -> int:
        """How many wait for a model."""
        line = self.by_model.get(model)
        return len(line.waiting) if line is not None else 0

    def is_contended(self, model: str) -> bool:
        """Whether more than one tenant waits for a model."""
        line = self.by_model.get(model)
        return line is not None and len(line.tenants) > 1

    def ahead_of(self, waiting: Waiting) -> list[Waiting]:
        """Who of its model would be served before a request, whether it waits or not."""
        line = self.by_model.get(waiting.ticket.model)
        if line is None:
            return []
        return line.waiting[: bisect.bisect_left(line.waiting, waiting.rank, key=_rank)]

    def head(self, model: str) -> Waiting:
        """Who is next in a line that is not empty."""
        return self.by_model[model].waiting[0]

    def everyone(self) -> list[Waiting]:
        """All lines, one after the other. A copy too."""
        return [waiting for line in self.by_model.values() for waiting in line.waiting]

    def models(self) -> list[str]:
        """Models that somebody waits for."""
        return list(self.by_model)

    def next_deadline(self) -> float | None:
        """When the first request stops waiting."""
        while self.deadlines and not self._is_current(*self.deadlines[0]):
            heapq.heappop(self.deadlines)
        return self.deadlines[0][0] if self.deadlines else None

    def expired(self, now: float) -> Iterator[Waiting]:
        """Take out whoever's deadline has come."""
        while (due := self.next_deadline()) is not None and due <= now:
            waiting = self.pop(self.deadlines[0][1])
            assert waiting is not None
            yield waiting

    def snapshots(self, now: float, need_tokens: Callable[[Ticket], int]) -> Iterator[QueueSnapshot]:
        """Each line's classes for people and metrics."""
        for model, line in self.by_model.items():
            groups: dict[Priority, list[Waiting]] = {}
            for waiting in line.waiting:
                groups.setdefault(waiting.ticket.priority, []).append(waiting)
            for priority, group in groups.items():
                tokens = sum(need_tokens(waiting.ticket) for waiting in group)
                oldest = min(waiting.arrived_at for waiting in group)
                yield QueueSnapshot(model, priority, len(group), tokens, now - oldest)

    def _is_current(self, deadline: float, ticket_id: int) -> bool:
        waiting = self.by_id.get(ticket_id)
        return waiting is not None and waiting.ticket.deadline == deadline


def _rank(waiting: Waiting) -> tuple[float, int]:
    return waiting.rank
