"""Requests that wait, in the order in which they will be served: the shortest work first, with ageing, by class.

Within a class the request goes first that costs its engine least, times a factor that falls with the time it has
waited: to one half when its patience ends, to nothing if it is more patient than `PATIENCE_MAX_S` and has waited twice
that. So small ones pass large ones, and nobody is passed for ever. A class goes before the next, until a request has
waited so long as the handicap of its class: from then on it stands among the most urgent as if it had just come.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.admission.pacing import work_token_steps
from gateway.admission.snapshot import QueueSnapshot
from gateway.domain import Priority, Reason, Ticket

HANDICAP_S = {Priority.INTERACTIVE: 0.0, Priority.STANDARD: 5.0, Priority.BATCH: 30.0}
AGEING = 0.5
"""Part of its cost that a request has shed when its patience ends."""
PATIENCE_MAX_S = 10.0
"""More patience counts as this much: who has waited twice as long goes first."""
PATIENCE_LEAST_S = 1e-3
CLASS_COST_S = 1e9
"""Stands between classes: more than any request costs."""
HEAP_SLACK = 64
"""Entries of the heap of deadlines that may be out of date before it is cleaned up."""
ROWS_MIN = 16
ROUNDING = 1 + 1e-9
_AT_ZERO, _PER_S, _READY, _BEHIND, _WORK = range(5)
"""Columns of a line. A score falls evenly, from what it would have been at second 0; until a request's handicap is
made good it stands behind, with another."""

Floats = NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Waiting:
    """One request in the queue."""

    ticket: Ticket
    arrived_at: float
    cost_s: float = 0.0
    """Seconds of its engine that it is expected to take: orders the queue. To be set before it is pushed."""
    lack: Reason = Reason.HEADROOM
    """What it was last seen to wait for."""
    _work: float | None = None

    @property
    def work(self) -> float:
        """Token-steps that it will cost its pool, as expected when it was first asked about."""
        if self._work is None:
            self._work = work_token_steps(self.ticket)
        return self._work

    @property
    def row(self) -> tuple[float, float, float, float]:
        """What its place in the line depends on."""
        ticket, arrived_at, cost_s = self.ticket, self.arrived_at, self.cost_s
        priority = ticket.priority
        patience_s = max(PATIENCE_LEAST_S, min(ticket.deadline - arrived_at, PATIENCE_MAX_S))
        per_s = cost_s * AGEING / patience_s
        ready_at = arrived_at + HANDICAP_S[priority]
        return cost_s + per_s * ready_at, per_s, ready_at, cost_s + CLASS_COST_S * priority

    def score(self, now: float) -> float:
        """As `Line.scores` has it."""
        at_zero, per_s, ready_at, behind = self.row
        return behind if now < ready_at else max(at_zero - per_s * now, 0.0)


class Line:
    """Who waits for one model, in the order of their coming, with what orders them as a table."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.tenants: dict[str, int] = {}
        """Waiting requests of each."""
        self.total_work = 0.0
        self._table = np.zeros((5, ROWS_MIN))
        self._handicapped = 0
        """Waiting requests that are not of the most urgent class."""
        self._scores: Floats | None = None
        """As of `_scored_at`; None after a change."""
        self._scored_at = 0.0

    def push(self, waiting: Waiting) -> None:
        """Let a request wait."""
        count = len(self.waiting)
        if count == self._table.shape[1]:
            self._table = np.concatenate((self._table, np.zeros_like(self._table)), axis=1)
        self._table[:, count] = *waiting.row, waiting.work
        self.total_work += waiting.work
        self.waiting.append(waiting)
        self._handicapped += waiting.ticket.priority is not Priority.INTERACTIVE
        self._scores = None
        tenant = waiting.ticket.tenant
        self.tenants[tenant] = self.tenants.get(tenant, 0) + 1

    def pop(self, waiting: Waiting) -> None:
        """Take a request out."""
        last = len(self.waiting) - 1
        place = last if self.waiting[last] is waiting else self.waiting.index(waiting)
        del self.waiting[place]
        if place < last:
            self._table[:, place:last] = self._table[:, place + 1 : last + 1]
        self.total_work -= waiting.work
        self._handicapped -= waiting.ticket.priority is not Priority.INTERACTIVE
        self._scores = None
        tenant = waiting.ticket.tenant
        self.tenants[tenant] -= 1
        if not self.tenants[tenant]:
            del self.tenants[tenant]

    def scores(self, now: float) -> Floats:
        """Who has less goes first; equals in the order of their coming. Not to be changed: it is kept."""
        if self._scores is None or self._scored_at != now:
            table = self._table[:, : len(self.waiting)]
            scores = table[_PER_S] * -now
            scores += table[_AT_ZERO]
            np.maximum(scores, 0.0, out=scores)
            if self._handicapped:
                scores = np.where(table[_READY] > now, table[_BEHIND], scores)
            self._scores, self._scored_at = scores, now
        return self._scores

    def work(self) -> Floats:
        """Of each, as expected when it came."""
        return self._table[_WORK, : len(self.waiting)]


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
        line = self.by_model.get(ticket.model)
        if line is None:
            line = self.by_model[ticket.model] = Line()
        line.push(waiting)
        heapq.heappush(self.deadlines, (ticket.deadline, ticket.id))
        if len(self.deadlines) > 2 * len(self.by_id) + HEAP_SLACK:
            self.deadlines = [(w.ticket.deadline, w.ticket.id) for w in self.by_id.values()]
            heapq.heapify(self.deadlines)

    def pop(self, ticket_id: int) -> Waiting | None:
        """Take a request out; None if it does not wait."""
        waiting = self.by_id.pop(ticket_id, None)
        if waiting is None:
            return None
        line = self.by_model[waiting.ticket.model]
        line.pop(waiting)
        if not line.waiting:
            del self.by_model[waiting.ticket.model]
        return waiting

    def line(self, model: str, now: float) -> Iterator[Waiting]:
        """Who waits for a model, in order, as of now. The queue may change while it is walked."""
        line = self.by_model.get(model)
        if line is None:
            return
        waiting = line.waiting.copy()
        scores = line.scores(now)
        # Mostly only the first is asked for.
        first = int(scores.argmin())
        yield waiting[first]
        for place in np.argsort(scores, kind="stable"):
            if place != first:
                yield waiting[place]

    def head(self, model: str, now: float) -> Waiting:
        """Who is next in a line that is not empty."""
        line = self.by_model[model]
        return line.waiting[int(line.scores(now).argmin())]

    def depth(self, model: str) -> int:
        """How many wait for a model."""
        line = self.by_model.get(model)
        return len(line.waiting) if line is not None else 0

    def is_contended(self, model: str) -> bool:
        """Whether more than one tenant waits for a model."""
        line = self.by_model.get(model)
        return line is not None and len(line.tenants) > 1

    def ahead_of(self, waiting: Waiting, now: float) -> tuple[int, float]:
        """How many of its model go before a request, whether it waits or not, and how much work they are."""
        line = self.by_model.get(waiting.ticket.model)
        if line is None:
            return 0, 0.0
        scores = line.scores(now)
        if waiting in self:
            # Mostly it is the last. Its equals go before it if they came before it.
            place = len(scores) - 1 if line.waiting[-1] is waiting else line.waiting.index(waiting)
            ahead = scores < scores[place]
            ahead[:place] = scores[:place] <= scores[place]
        else:
            ahead = scores <= waiting.score(now)
        return int(np.count_nonzero(ahead)), float(line.work() @ ahead)

    def work_of(self, model: str) -> float:
        """Work of all who wait for a model; never less than what is ahead of any."""
        line = self.by_model.get(model)
        return line.total_work * ROUNDING if line is not None else 0.0

    def everyone(self) -> list[Waiting]:
        """All lines, one after the other. A copy."""
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
