"""What may stand before the engines instead of KVGate: nothing, or a first-come-first-served queue with a simple rule.

A client in such a queue gives up when its first token is overdue. What has been sent is never taken back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence as Many
from dataclasses import dataclass, field
from typing import Protocol

from gateway.simulation.record import Record
from gateway.simulation.replica import Gauges, Replica
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request

THRESHOLD_KV, THRESHOLD_WAITING = 0.8, 5
"""Kubernetes' inference gateway holds requests back when its replicas are fuller than this on average."""
READ_EVERY_S = 0.2
"""Pace of looks at the engines."""


class Front(Protocol):
    """Decides what is sent where. It is told of what it would see; times never decrease."""

    @property
    def queued(self) -> int:
        """Requests that it holds back."""

    def arrived(self, number: int, now: float) -> None:
        """A request came."""

    def finished(self, number: int, now: float) -> None:
        """A request that it sent has its whole answer."""

    def next_wake(self) -> float:
        """When it wants to be woken if nothing happens before; infinity if never."""

    def wake(self, now: float) -> None:
        """Time has passed."""


@dataclass(slots=True)
class Seen:
    """One replica, as a simple gateway knows it."""

    blocks: int
    gauges: Gauges = field(default_factory=Gauges)
    """As of the last look."""
    outstanding: int = 0
    """Requests sent there and not answered."""
    reserved_blocks: int = 0
    """What they take with the longest answers that their clients allow."""


Rule = Callable[[Many[Seen], int, int], bool]
"""Whether, of all these replicas, the one at an index may take a request that needs at most so many blocks."""


def always(_seen: Many[Seen], _index: int, _need_blocks: int) -> bool:
    """Everybody may always take more."""
    return True


def fewer_than(limit: int) -> Rule:
    """Each may have so many requests at once."""
    return lambda seen, index, _: seen[index].outstanding < limit


def within_reservation(seen: Many[Seen], index: int, need_blocks: int) -> bool:
    """What its requests may come to need fits its pool."""
    return seen[index].reserved_blocks + need_blocks <= seen[index].blocks


def below_threshold(seen: Many[Seen], _index: int, _need_blocks: int) -> bool:
    """The pools, or the engines' queues, are not too full on average."""
    loads = [
        max(each.gauges.waiting / THRESHOLD_WAITING, each.gauges.used_blocks / each.blocks / THRESHOLD_KV)
        for each in seen
    ]
    return sum(loads) < len(loads)


class QueueFront:
    """First come, first served: to whoever has least to do, of those that the rule allows."""

    def __init__(
        self, rule: Rule, replicas: Many[Replica], requests: Many[Request], record: Record, patience: Slo | None
    ) -> None:
        """Without `patience` clients wait for ever."""
        self._rule = rule
        self._replicas = replicas
        self._requests = requests
        self._record = record
        self._patience = patience
        self._queue: deque[tuple[int, float]] = deque()
        self._seen = [Seen(replica.engine.config.blocks) for replica in replicas]
        self._at: dict[int, Seen] = {}
        self._next_read_s = 0.0

    @property
    def queued(self) -> int:
        """Requests that it holds back."""
        return len(self._queue)

    def arrived(self, number: int, now: float) -> None:
        """Queue it, and send who can go."""
        prompt_tokens = self._requests[number].prompt_tokens
        patience_s = math.inf if self._patience is None else self._patience.first_token_within_s(prompt_tokens)
        self._queue.append((number, now + patience_s))
        self._send(now)

    def finished(self, number: int, now: float) -> None:
        """There is room for another."""
        seen = self._at.pop(number)
        seen.outstanding -= 1
        seen.reserved_blocks -= self._most_blocks(number)
        self._send(now)

    def next_wake(self) -> float:
        """The next look at the engines, or the end of the head's patience."""
        return min(self._next_read_s, self._queue[0][1] if self._queue else math.inf)

    def wake(self, now: float) -> None:
        """Look if it is time to, and send who can go."""
        if now >= self._next_read_s:
            self._next_read_s = now + READ_EVERY_S
            for seen, replica in zip(self._seen, self._replicas, strict=True):
                seen.gauges = replica.gauges()
        self._send(now)

    def _send(self, now: float) -> None:
        while self._queue:
            number, gives_up_s = self._queue[0]
            if now >= gives_up_s:
                self._record.refuse(number, now)
            elif not self._place(number):
                break
            self._record.decisions += 1
            self._queue.popleft()

    def _place(self, number: int) -> bool:
        """Send it, if some replica may take it."""
        need = self._most_blocks(number)
        allowed = [index for index in range(len(self._seen)) if self._rule(self._seen, index, need)]
        if not allowed:
            return False
        index = min(allowed, key=lambda each: self._seen[each].outstanding)
        seen = self._at[number] = self._seen[index]
        seen.outstanding += 1
        seen.reserved_blocks += need
        self._replicas[index].send(number, self._requests[number])
        return True

    def _most_blocks(self, number: int) -> int:
        """What a request holds if its answer gets as long as its client allows."""
        request, config = self._requests[number], self._replicas[0].engine.config
        longest = config.sequence_tokens_max - request.prompt_tokens
        output = longest if request.max_tokens is None else min(longest, request.max_tokens)
        return -(-(request.prompt_tokens + output) // config.block_tokens)
