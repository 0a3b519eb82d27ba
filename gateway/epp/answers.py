"""What an engine's answer tells as it passes through the picker. Its place is left as soon as the engine is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import structlog

from estimator.demand import End
from gateway.backends.failures import refusal
from gateway.domain import Outcome, Usage
from gateway.epp.messages import Head
from gateway.errors import ApiError, upstream_error
from gateway.gate import Gate, Place
from gateway.passage import ERROR_MAX_BYTES
from gateway.pricing import Answer, Pricing
from gateway.relay import ANSWER_MAX_BYTES
from gateway.sse import SseError
from gateway.stream_watch import StreamWatch, read_answer
from gateway.trip import Trip

OK = 200
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500
VIA_UPSTREAM = "via_upstream"
"""Envoy's word for an answer that it was given, and did not make itself."""

log = structlog.get_logger()


class BrokenAnswerError(Exception):
    """An answer cannot be what it claims; its client must not take it for complete."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Deal:
    """A request that has its place, and whom its answer is told to."""

    gate: Gate
    pricing: Pricing
    place: Place
    answer: Answer
    trip: Trip

    def finished(self, usage: Usage | None, *, hit_length: bool, events: int) -> None:
        """The engine has ended its answer by itself."""
        self.place.end(Outcome.FINISHED, usage)
        if usage is not None:
            self.pricing.learn(self.answer, usage, End.LENGTH if hit_length else End.STOP, events=events)
        self.trip.answered(usage, hit_length=hit_length)

    def broken(self, text: str, reason: str) -> BrokenAnswerError:
        """The engine's answer broke off; what came of it counts."""
        self.place.end(Outcome.BROKEN, failure=self.trip.name)
        self.cut()
        self.trip.upstream_failed(self.place.backend, reason)
        error = upstream_error(f"The engine failed: {text}.")
        self.trip.failed(error)
        return BrokenAnswerError(error)

    def cut(self) -> None:
        """Nobody waits for the rest of the answer."""
        self.pricing.learn_cut(self.answer, self.place.output_tokens)


class Watcher(Protocol):
    """Takes an answer as it comes."""

    def take(self, data: bytes) -> bytes:
        """A piece from the engine in; what the client is given out.

        Raises:
            BrokenAnswerError: the answer makes no sense.
        """

    def end(self) -> None:
        """That was all.

        Raises:
            BrokenAnswerError: it cannot be.
        """


def watcher(deal: Deal, head: Head, endpoint: str) -> Watcher:
    """Who watches an answer with this head.

    Args:
        deal: the request.
        head: of the answer.
        endpoint: where Envoy was told to send it.
    """
    status = int(head.headers.get(":status", "0"))
    if head.details and head.details != VIA_UPSTREAM:
        return Unreached(deal, status, head.details)
    if head.served and head.served != endpoint:
        return Elsewhere(deal, head.served)
    if status != OK:
        return Rejection(deal, status, head.headers.get("retry-after", ""))
    if head.headers.get("content-type", "").lower().startswith("text/event-stream"):
        return Streamed(deal)
    return Whole(deal)


class Streamed:
    """An answer in events: watched as the proxy watches it, without the usage that only the picker asked for."""

    def __init__(self, deal: Deal) -> None:
        self._deal = deal
        self._watch = StreamWatch(keep_usage=deal.trip.request.include_usage)
        self._tokens_per_event = deal.pricing.of(deal.answer.model).tokens_per_event

    def take(self, data: bytes) -> bytes:
        deal, watch = self._deal, self._watch
        if watch.done:
            return b""
        try:
            events = watch.take(data)
        except SseError as error:
            raise deal.broken(str(error), "protocol") from error
        if watch.events and deal.trip.first_token_at is None:
            deal.trip.first_token(deal.gate.now())
        deal.place.output_tokens = int(watch.events * self._tokens_per_event)
        if watch.done:
            self._finish()
        return events

    def end(self) -> None:
        watch = self._watch
        if not watch.done:
            if not watch.failed:
                raise self._deal.broken("the stream ended without its end", "reset")
            self._finish()

    def _finish(self) -> None:
        deal, watch = self._deal, self._watch
        if not watch.failed:
            deal.finished(watch.usage, hit_length=watch.hit_length, events=watch.events)
            deal.trip.delivered()  # Clients hang up on the last event: what follows is of no interest to them.
            return
        # Its error has passed on to the client.
        deal.place.end(Outcome.FINISHED, watch.usage, failure=deal.trip.name)
        deal.trip.answered(watch.usage, finished=False, hit_length=watch.hit_length)
        deal.trip.upstream_failed(deal.place.backend, "http_5xx")
        deal.trip.failed(upstream_error("The engine failed: it reported an error in its stream."))


class Whole:
    """An answer in one JSON object: passed on as it comes, and read when it is complete."""

    def __init__(self, deal: Deal) -> None:
        self._deal = deal
        self._kept = bytearray()

    def take(self, data: bytes) -> bytes:
        if len(self._kept) <= ANSWER_MAX_BYTES:
            self._kept += data
        return data

    def end(self) -> None:
        usage, hit_length = read_answer(bytes(self._kept)) if len(self._kept) <= ANSWER_MAX_BYTES else (None, False)
        self._deal.finished(usage, hit_length=hit_length, events=0)
        self._deal.trip.delivered()


class Rejection:
    """An engine's error, which goes on to the client in the engine's words."""

    def __init__(self, deal: Deal, status: int, retry_after: str) -> None:
        self._deal = deal
        self._status = status
        self._retry_after = retry_after
        self._kept = b""

    def take(self, data: bytes) -> bytes:
        self._kept += data[: ERROR_MAX_BYTES - len(self._kept)]
        return data

    def end(self) -> None:
        deal, status = self._deal, self._status
        found = refusal(status, self._kept, self._retry_after)
        is_busy = found.busy_for_s is not None
        is_its_fault = not is_busy and not 400 <= status < SERVER_ERROR
        outcome = Outcome.REFUSED if is_busy or status < SERVER_ERROR else Outcome.BROKEN
        deal.place.end(outcome, failure=deal.trip.name if is_its_fault else None)
        if found.busy_for_s is not None:
            deal.gate.busy(deal.place.backend, found.busy_for_s)
        if is_busy or found.error.status >= SERVER_ERROR:
            deal.trip.upstream_failed(deal.place.backend, _reason(status))
        deal.trip.failed(found.error)
        deal.trip.code = status


class Unreached:
    """An answer that Envoy made because it had none from the engine."""

    def __init__(self, deal: Deal, status: int, details: str) -> None:
        is_unsent = "connection_failure" in details or "connection_timeout" in details
        reason = "connect" if is_unsent else "timeout" if "timeout" in details else "reset"
        deal.place.end(Outcome.NOT_SENT if is_unsent else Outcome.BROKEN, failure=deal.trip.name)
        if is_unsent:
            deal.gate.unreachable(deal.place.backend)
        deal.trip.upstream_failed(deal.place.backend, reason)
        deal.trip.failed(upstream_error("The engine failed: Envoy had no answer from it."))
        deal.trip.code = status

    def take(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        pass


class Elsewhere:
    """An answer of another backend than the one that was named: its memory was not ours to give."""

    def __init__(self, deal: Deal, served: str) -> None:
        self._trip = deal.trip
        log.warning("served_elsewhere", backend=deal.place.backend, served=served)
        deal.place.end(Outcome.NOT_SENT)

    def take(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self._trip.delivered()


def _reason(status: int) -> str:
    if status == TOO_MANY_REQUESTS:
        return "http_429"
    return "http_5xx" if status >= SERVER_ERROR else "protocol"
