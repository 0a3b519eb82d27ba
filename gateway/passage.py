"""The passage of an answer from an engine's connection to its client: looked at first, then pushed through."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Mapping
from contextlib import suppress
from types import coroutine
from typing import Protocol

import msgspec

from gateway.backends.failures import first_event_error
from gateway.backends.upstream import Exchange, FailureKind, Head, UpstreamFailure
from gateway.domain import Usage
from gateway.errors import ApiError
from gateway.gate import Place
from gateway.sse import SseError
from gateway.stream_watch import StreamWatch, read_answer

ERROR_MAX_BYTES = 64 << 10
FIRST_MAX_BYTES = 64 << 10
"""Of comments before the first event with data."""
END_MAX_S = 1.0
"""So long is waited for the end of a body after the stream in it has ended."""
UNREAD_MAX_S = 60.0
"""A client that takes nothing for so long is gone for all purposes."""


class Sink(Protocol):
    """Where an answer goes: the client's side of the HTTP surface.

    What is awaited may raise ConnectionError: the client is gone.
    """

    async def answer(self, body: bytes, headers: Mapping[str, str]) -> None:
        """The whole answer at once, status 200."""

    async def start_stream(self, headers: Mapping[str, str], events: bytes) -> None:
        """Status 200 and the first events. After this, an error can only be told within the stream."""

    def write(self, events: bytes) -> bool:
        """More events; False asks to wait for `drained`."""

    def write_chunk(self, chunk: bytes) -> bool:
        """As `write`, for events that stand in a whole chunk of HTTP/1.1's coding."""

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""

    async def end_stream(self, events: bytes = b"") -> None:
        """The last events, if any: the stream is complete."""

    def fail(self, error: ApiError) -> None:
        """The stream broke: tell so in an event, then cut the connection."""


class Tap:
    """Takes a stream from the engine's connection, watches it, and hands it to the client: once per read, no task."""

    __slots__ = ("_place", "_sink", "_tokens_per_event", "_watch", "last")

    def __init__(self, watch: StreamWatch, place: Place, sink: Sink, tokens_per_event: float) -> None:
        self._watch = watch
        self._place = place
        self._sink = sink
        self._tokens_per_event = tokens_per_event
        self.last = b""
        """The stream's last events: they go out together with its end."""

    def on_data(self, data: bytes) -> bool:
        watch = self._watch
        try:
            events = watch.take(data)
        except SseError as error:
            raise UpstreamFailure(FailureKind.PROTOCOL, str(error), request_sent=True) from error
        if not events:
            return True
        self._place.output_tokens = int(watch.events * self._tokens_per_event)
        if watch.done:
            self.last = events
            return False  # What comes after the stream's own end is no part of it, and not waited for.
        return self._sink.write(events)

    def on_chunk(self, data: bytes) -> bool | None:
        """Most reads bring one chunk with one event like the last: it is what the client is to get, framing and all."""
        watch = self._watch
        if not watch.take_chunk(data):
            return None
        self._place.output_tokens = int(watch.events * self._tokens_per_event)
        return self._sink.write_chunk(data)

    def count(self) -> None:
        """Note how far the answer has come."""
        self._place.output_tokens = int(self._watch.events * self._tokens_per_event)


async def first_events(exchange: Exchange, watch: StreamWatch) -> bytes:
    """All up to the first event with data. Engines find out that they cannot serve after their 200: look before passing
    it on; comments that keep a connection alive tell nothing."""
    first = b""
    try:
        while True:
            data = await exchange.some()
            if not data:
                raise UpstreamFailure(FailureKind.TRUNCATED, "the stream ended before it began", request_sent=True)
            first += watch.take(data)
            if watch.events:
                return first
            if len(first) > FIRST_MAX_BYTES:
                raise UpstreamFailure(FailureKind.PROTOCOL, "the stream has no data", request_sent=True)
    except SseError as error:
        raise UpstreamFailure(FailureKind.PROTOCOL, str(error), request_sent=True) from error


async def let_end(exchange: Exchange) -> None:
    """Give an answer that is complete a moment to end its body too, so that its connection can be used again."""
    if exchange.ended_at is not None:
        return  # Mostly its last bytes came together.
    with suppress(UpstreamFailure, TimeoutError):
        async with asyncio.timeout(END_MAX_S):
            exchange.resume()
            while not await exchange.pump(_Void()):
                exchange.resume()


class _Void:
    """Takes anything."""

    def on_data(self, data: bytes) -> bool:
        del data
        return True


async def error_body(exchange: Exchange) -> bytes:
    """The body of an error answer; empty if it is broken or too long: the status alone says enough."""
    try:
        return await exchange.read(ERROR_MAX_BYTES)
    except UpstreamFailure:
        return b""


async def taken(step: Awaitable[None]) -> None:
    """Wait until the client has taken what this step gives it.

    Raises:
        ConnectionError: it takes nothing.
    """
    steps = step.__await__()
    try:
        waits_for = next(steps)
    except StopIteration:
        return  # Almost always: the client's transport had room. A timer would cost more than the step.
    try:
        async with asyncio.timeout(UNREAD_MAX_S):
            await _rest(waits_for, steps)
    except TimeoutError:
        raise ConnectionAbortedError("the client takes nothing") from None


@coroutine
def _rest(waits_for: object, steps: Generator[object, None, None]) -> Generator[object, None, None]:
    """Go on with something awaited that waits for this."""
    yield waits_for
    yield from steps


def whole_answer(body: bytes) -> tuple[Usage | None, bool]:
    """Usage of an answer in one piece, and whether a sequence of it was cut off by its limit.

    Raises:
        UpstreamFailure: it is no answer. A body that was cut short may be framed well, and an error may come as a 200.
    """
    usage, hit_length = read_answer(body)
    if usage is None:  # With usage, all of it was read.
        try:
            msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UpstreamFailure(FailureKind.PROTOCOL, "its answer is no JSON object", request_sent=True) from error
        if first_event_error(body) is not None:
            raise UpstreamFailure(FailureKind.PROTOCOL, "it reported an error as its answer", request_sent=True)
    return usage, hit_length


def expect(head: Head, content_type: bytes) -> None:
    """Check what kind of answer this is.

    Raises:
        UpstreamFailure: it is of another type.
    """
    given = head.headers.get(b"content-type", b"")
    if not given.lower().startswith(content_type):
        raise UpstreamFailure(FailureKind.PROTOCOL, "the engine sent another type of content", request_sent=True)
