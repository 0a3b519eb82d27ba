"""Requests that wait, in the order in which they will be served: the shortest work first, with ageing, by class.

Within a class the request goes first that costs its engine least, times a factor that falls with the time it has
waited: to one half when its patience ends, to nothing if it is more patient than `PATIENCE_MAX_S` and has waited twice
that. So small ones pass large ones, and nobody is passed for ever. A class goes before the next, until a request has
waited so long as the handicap of its class: from then on it stands among the most urgent as if it had just come.
"""

from __future__ import annotations

import heapq
import math
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
NEAR = 1e-12
"""Scores that lie no further apart than this part of what they are reckoned from may change places by rounding."""
_AT_ZERO, _PER_S, _READY, _BEHIND, _WORK = range(5)
"""Columns of a line. A score falls evenly, from what it would have been at second 0; until a request's handicap is
made good it stands behind, with another."""

Floats = NDArray[np.float64]
Row = tuple[float, float, float, float]
"""The first four of a line's columns."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One request in the queue."""

    ticket: Ticket
    arrived_at: float
    cost_s: float = 0.0
    """Seconds of its engine that it is expected to take: orders the queue. To be set before it is pushed."""
    lack: Reason = Reason.HEADROOM
    """What it was last seen to wait for."""
    row: Row = (0.0, 0.0, 0.0, 0.0)
    """What its place in the line depends on; set when it is pushed."""
    _work: float | None = None

    @property
    def work(self) -> float:
        """Token-steps that it will cost its pool, as expected when it was first asked about."""
        if self._work is None:
            self._work = work_token_steps(self.ticket)
        return self._work

    def reckoned(self) -> Row:
        """Its row, of what is known of it now."""
        ticket, arrived_at, cost_s = self.ticket, self.arrived_at, self.cost_s
        priority = ticket.priority
        patience_s = max(PATIENCE_LEAST_S, min(ticket.deadline - arrived_at, PATIENCE_MAX_S))
        per_s = cost_s * AGEING / patience_s
        ready_at = arrived_at + HANDICAP_S[priority]
        return cost_s + per_s * ready_at, per_s, ready_at, cost_s + CLASS_COST_S * priority

    def score(self, now: float) -> float:
        """What `Line.scores` would have if it were pushed now."""
        return score_of(self.reckoned(), now)

    def precedes(self, other: Waiting, now: float) -> bool:
        """Whether it would go before one that is in line, if it were pushed now."""
        return self.score(now) < score_of(other.row, now)


def score_of(row: Row, now: float) -> float:
    """One of `Line.scores`."""
    at_zero, per_s, ready_at, behind = row
    return behind if now < ready_at else max(at_zero - per_s * now, 0.0)


def behind_until(row: Row, gap: float, ahead: Row, now: float) -> float:
    """Up to when a row that stands behind another by so much now surely stays there: scores never rise."""
    at_zero, per_s, ready_at, _ = row
    if now < ready_at:
        return math.nextafter(ready_at, -math.inf)
    gap -= NEAR * (at_zero + ahead[_AT_ZERO])
    if gap <= 0.0:
        return now
    return now + gap / per_s if per_s > 0.0 else math.inf


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
        self._first = self._compared = 0
        """Place of who goes first among so many, from `_first_from` to `_first_until`."""
        self._first_from, self._first_until = math.inf, -math.inf

    def push(self, waiting: Waiting) -> None:
        """Let a request wait."""
        count = len(self.waiting)
        if count == self._table.shape[1]:
            self._table = np.concatenate((self._table, np.zeros_like(self._table)), axis=1)
        table, row, work = self._table, waiting.reckoned(), waiting.work
        waiting.row = row
        # One by one: to make an array of them first takes several times as long.
        table[_AT_ZERO, count], table[_PER_S, count], table[_READY, count], table[_BEHIND, count] = row
        table[_WORK, count] = work
        self.total_work += work
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
        self._compared -= place < self._compared
        if place == self._first:
            self._first_from = math.inf
        elif place < self._first:
            self._first -= 1
        # Mostly it is the last, which was let in only to be turned away: the others stand as they stood.
        self._scores = self._scores[:last] if self._scores is not None and place == last else None
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

    def first(self, now: float) -> int:
        """Place of who goes first in a line that is not empty: the first that has the least of `scores`."""
        waiting = self.waiting
        if not self._first_from <= now <= self._first_until:
            scores = self.scores(now)
            self._first, self._compared = int(scores.argmin()), len(waiting)
            # Whoever was found goes mostly at once. Only for one who stays it is worth to know how long.
            is_known = self._first_from < math.inf
            self._first_from, self._first_until = now, self._first_stays_until(scores, now) if is_known else now
        while self._compared < len(waiting):
            place, self._compared = self._compared, self._compared + 1
            first, newcomer = waiting[self._first].row, waiting[place].row
            gap = score_of(newcomer, now) - score_of(first, now)
            if gap < 0.0:
                self._first, first, newcomer, gap = place, newcomer, first, -gap
            self._first_from = now
            self._first_until = min(self._first_until, behind_until(newcomer, gap, first, now))
        return self._first

    def _first_stays_until(self, scores: Floats, now: float) -> float:
        """Up to when nobody overtakes who is first: scores fall evenly, each as fast as it does now, down to zero."""
        first, table = self._first, self._table[:, : len(scores)]
        at_zero, ready = table[_AT_ZERO], table[_READY]
        falls = np.where((scores > 0.0) & (ready <= now), table[_PER_S], 0.0)
        waits = ready[ready > now]
        until = math.nextafter(float(waits.min()), -math.inf) if len(waits) else math.inf
        gaps = scores - scores[first]
        gaps -= NEAR * (at_zero + at_zero[first])
        if falls[first] > 0.0:
            # Where it stops falling, those behind it come on.
            closing, left = falls - falls[first], scores[first] - 2 * NEAR * at_zero[first]
            until = min(until, now + max(0.0, float(left / falls[first])))
        else:
            closing = falls
        if ((gaps <= 0.0) & (closing != 0.0)).any():
            return now
        nearing = closing > 0.0
        return min(until, now + float((gaps[nearing] / closing[nearing]).min(initial=math.inf)))

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
        """Who waits for a model, in order, as of now. The queue must not change before the second is asked for."""
        line = self.by_model.get(model)
        if line is None:
            return
        # Mostly only the first is asked for.
        first = line.waiting[line.first(now)]
        yield first
        waiting = line.waiting.copy()
        for place in np.argsort(line.scores(now), kind="stable"):
            if waiting[place] is not first:
                yield waiting[place]

    def head(self, model: str, now: float) -> Waiting:
        """Who is next in a line that is not empty."""
        line = self.by_model[model]
        return line.waiting[line.first(now)]

    def depth(self, model: str) -> int:
        """How many wait for a model."""
        line = self.by_model.get(model)
        return len(line.waiting) if line is not None else 0

    def is_contended(self, model: str, tenant: str | None = None) -> bool:
        """Whether more than one tenant waits for a model; or would, if one of this tenant came."""
        line = self.by_model.get(model)
        return line is not None and (len(line.tenants) > 1 or (tenant is not None and tenant not in line.tenants))

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
        return int(np.count_nonzero(ahead)), float(line.work().dot(ahead))

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
