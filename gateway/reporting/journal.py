"""The decision journal: what was decided on the last requests and why, and how it then went. Never what they said.

It is told of decisions after they were made and is asked by nobody who makes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.reporting.record import RequestRecord

KEPT_MAX = 1_000
RUNNING = "running"
FINISHED = "finished"
CLIENT_LEFT = "client_left"


Unfinished = Callable[[], RequestRecord]
"""Gives the record of a request that goes on, as of now."""


class Lines(Protocol):
    """Where entries go that are over."""

    def write(self, entry: Mapping[str, object]) -> None:
        """Take one entry; never waits."""


class Journal:
    """The newest decisions by request id, and a file of all of them if there is one.

    Args:
        unix_at_zero_s: Unix time at second 0 of the clock that records are written by. So times of arrival are in order
            whatever happens to the wall clock, and after a restart too.
        lines: the file.
        kept_max: decisions kept in memory.
    """

    def __init__(self, unix_at_zero_s: float = 0.0, lines: Lines | None = None, kept_max: int = KEPT_MAX) -> None:
        self._unix_at_zero_s = unix_at_zero_s
        self._lines = lines
        self._kept_max = kept_max
        self._kept: OrderedDict[str, RequestRecord | Unfinished] = OrderedDict()
        """In the order of the decisions. Clients choose ids: the newest request of one counts."""

    def admitted(self, request_id: str, so_far: Unfinished) -> None:
        """A request was given a place; `so_far` is only called where somebody asks for it."""
        self._put(request_id, so_far)

    def ended(self, record: RequestRecord) -> None:
        """A request is over. Those that admission was never asked about are not for the journal."""
        if not record.decision:
            return
        if record.request_id in self._kept:
            self._kept[record.request_id] = record
        elif not record.backend:  # a place would have been told before, and pushed out by many others since
            self._put(record.request_id, record)
        if self._lines is not None:
            self._lines.write(self._entry(record, is_over=True))

    def find(self, request_id: str) -> dict[str, object] | None:
        """The decision on a request; None if there is none yet, or it is too long ago."""
        found = self._kept.get(request_id)
        return None if found is None else self._shown(found)

    def latest(self, limit: int) -> list[dict[str, object]]:
        """The newest decisions, newest first."""
        return [self._shown(kept) for kept in list(self._kept.values())[: -limit - 1 : -1]]

    def _put(self, request_id: str, kept: RequestRecord | Unfinished) -> None:
        journal = self._kept
        if request_id in journal:
            journal.move_to_end(request_id)
        journal[request_id] = kept
        if len(journal) > self._kept_max:
            journal.popitem(last=False)

    def _shown(self, kept: RequestRecord | Unfinished) -> dict[str, object]:
        if isinstance(kept, RequestRecord):
            return self._entry(kept, is_over=True)
        return self._entry(kept(), is_over=False)

    def _entry(self, record: RequestRecord, *, is_over: bool) -> dict[str, object]:
        real = record.prompt_tokens
        return {
            "request_id": record.request_id,
            "trace_id": record.trace_id or None,
            "arrived_s": round(self._unix_at_zero_s + record.arrived_at, 6),
            "arrived_monotonic_s": round(record.arrived_at, 6),
            "endpoint": record.endpoint,
            "model": record.model[:256],
            "tenant": record.tenant,
            "priority": record.priority.name.lower(),
            "stream": record.stream,
            "decision": record.decision,
            "reason": record.reason,
            "backend": record.backend or None,
            "outcome": _outcome(record) if is_over else RUNNING,
            "code": record.code if is_over else None,
            "prompt_tokens": record.predicted_prompt_tokens if real is None else real,
            "prompt_tokens_predicted": record.predicted_prompt_tokens,
            "output_tokens": record.output_tokens,
            "output_tokens_p50": record.predicted_output_p50,
            "output_tokens_p90": record.predicted_output_p90,
            "output_tokens_reserved": record.predicted_output_bound,
            "sequences": record.sequences,
            "max_tokens": record.max_tokens,
            "kv_tokens": record.kv_tokens,
            "need_tokens": record.need_tokens,
            "headroom_tokens": record.headroom_tokens,
            "wait_s": round(record.queue_wait_s, 4),
            "retry_after_s": _rounded(record.retry_after_s),
            "ttft_s": _rounded(record.ttft_s),
            "duration_s": round(record.duration_s, 4) if is_over else None,
        }


def _outcome(record: RequestRecord) -> str:
    if record.disconnect is not None:
        return CLIENT_LEFT
    return record.error or FINISHED


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
