"""A day of traffic in virtual time: requests arrive, somebody decides, engines step; no clock, no sockets, no chance.

Law: the same requests before the same engines and fronts give the same record. What happens at one time happens in this
order: arrivals, then whatever was planned first. Whatever a front decides on the end of a step is in the next step.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence as Many
from heapq import heappop, heappush

from gateway.simulation.fronts import Front
from gateway.simulation.record import Record, Sample
from gateway.simulation.replica import Replica
from gateway.simulation.workload import Request

SAMPLES = 300
"""Looks at the pools and queues while requests come."""
PROGRESS_EVERY_REQUESTS = 64


class _Kind(enum.IntEnum):
    STEP = 0
    WAKE = 1
    SAMPLE = 2


class World:
    """One run. Several fronts share the replicas; requests go to them in turn."""

    def __init__(
        self,
        requests: Many[Request],
        replicas: Many[Replica],
        fronts: Many[Front],
        record: Record,
        on_settled: Callable[[int], None] | None = None,
    ) -> None:
        """`requests` are in the order of arrival; `on_settled` is told now and then how many are through."""
        self._requests = requests
        self._replicas = replicas
        self._fronts = fronts
        self._record = record
        self._on_settled = on_settled
        self._last_arrival_s = requests[-1].arrives_s if requests else 0.0
        self._blocks = sum(replica.engine.config.blocks for replica in replicas)
        self._planned: list[tuple[float, int, _Kind, int]] = []
        self._plans = 0
        self._wakes_s = [math.inf] * len(fronts)

    def run(self) -> None:
        """Let all come, until each has its answer or was turned away."""
        for index in range(len(self._fronts)):
            self._plan_wake(index)
        self._plan(0.0, _Kind.SAMPLE, 0)
        arrived = 0
        requests, planned, record = self._requests, self._planned, self._record
        while record.settled < len(requests):
            if arrived < len(requests) and (not planned or requests[arrived].arrives_s <= planned[0][0]):
                arrived = self._arrive(arrived)
                continue
            now, _, kind, index = heappop(planned)
            if kind is _Kind.STEP:
                self._end_step(index, now)
            elif kind is _Kind.WAKE:
                self._wake(index, now)
            else:
                self._sample(now)
        record.preemptions = sum(replica.engine.preemptions for replica in self._replicas)
        record.computed_tokens = sum(replica.computed_tokens for replica in self._replicas)

    def _plan(self, at_s: float, kind: _Kind, index: int) -> None:
        self._plans += 1
        heappush(self._planned, (at_s, self._plans, kind, index))

    def _arrive(self, number: int) -> int:
        """Let all come that come at one time, before an engine starts on the first; returns who is next."""
        requests, now = self._requests, self._requests[number].arrives_s
        while number < len(requests) and requests[number].arrives_s == now:
            front = number % len(self._fronts)
            self._fronts[front].arrived(number, now)
            self._plan_wake(front)
            number += 1
        self._begin_steps(now)
        return number

    def _begin_steps(self, now: float) -> None:
        """Start whoever has got work."""
        for index, replica in enumerate(self._replicas):
            if replica.step is None and replica.outstanding:
                self._begin_step(index, now)

    def _begin_step(self, index: int, now: float) -> None:
        step = self._replicas[index].begin()
        self._plan(now + step.duration_s, _Kind.STEP, index)
        inside_s = min(step.duration_s, self._last_arrival_s - now)
        if inside_s > 0:
            self._record.kv_block_seconds += step.used_blocks * inside_s

    def _end_step(self, index: int, now: float) -> None:
        replica, record = self._replicas[index], self._record
        step = replica.end()
        for sequence in step.started:
            record.first_token_s[replica.owners[sequence]] = now
        for sequence in step.finished:
            number = replica.owners.pop(sequence)
            record.end(number, now)
            front = number % len(self._fronts)
            self._fronts[front].finished(number, now)
            self._plan_wake(front)
            if self._on_settled is not None and record.settled % PROGRESS_EVERY_REQUESTS == 0:
                self._on_settled(record.settled)
        self._begin_steps(now)

    def _plan_wake(self, front: int) -> None:
        due = self._fronts[front].next_wake()
        if due < self._wakes_s[front]:
            self._wakes_s[front] = due
            self._plan(due, _Kind.WAKE, front)

    def _wake(self, front: int, now: float) -> None:
        if now != self._wakes_s[front]:
            return  # It was planned, and then something earlier was.
        self._wakes_s[front] = math.inf
        if self._fronts[front].next_wake() <= now:
            self._fronts[front].wake(now)
            self._begin_steps(now)
        self._plan_wake(front)

    def _sample(self, now: float) -> None:
        gauges = [replica.gauges() for replica in self._replicas]
        kv_used = sum(gauge.used_blocks for gauge in gauges) / self._blocks
        queued = sum(front.queued for front in self._fronts) + sum(replica.engine.waiting for replica in self._replicas)
        self._record.samples.append(Sample(now, kv_used, queued))
        if now < self._last_arrival_s:
            self._plan(min(self._last_arrival_s, now + self._last_arrival_s / SAMPLES), _Kind.SAMPLE, 0)
