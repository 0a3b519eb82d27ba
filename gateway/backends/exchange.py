"""One request and its response on one connection to an engine: pushed bytes, back-pressure, and one kind of failure.

A payload byte goes `Connection.data_received` -> `ResponseParser.feed` -> `Receiver.on_data`, all synchronous: no task,
timer or queue per chunk, and few calls, which are what a chunk costs. Nothing is buffered but what arrives before
`pump` is called, and that stops at `EARLY_MAX_BYTES` plus one read of the socket.
"""

from __future__ import annotations

import asyncio
import enum
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from gateway.backends.http1 import Head, MalformedResponseError, ResponseParser

EARLY_MAX_BYTES = 64 * 1024
"""Payload kept for a consumer that has not called `pump` yet; reading pauses beyond it."""
JOIN_MAX_BYTES = 64 * 1024
"""A request body up to this size is copied behind its head, to leave in one segment."""


class FailureKind(enum.Enum):
    """What went wrong with an engine. Closed and small: the values label metrics."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    RESET = "reset"
    PROTOCOL = "protocol"
    TRUNCATED = "truncated"
    LOCAL = "local"
    """Nothing went wrong with it: this process has no file descriptor, memory or place for another connection."""


class UpstreamFailure(Exception):  # noqa: N818 - a value of the protocol, told apart by kind, like a refusal
    """The one exception of this client. Its text is safe for logs and clients: no host, no bytes of an answer."""

    def __init__(self, kind: FailureKind, message: str, *, request_sent: bool) -> None:
        super().__init__(message)
        self.kind = kind
        self.request_sent = request_sent
        """Whether the engine may have got any byte of the request: only where not may another backend be tried."""


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """Limits on an engine's silence. The last two are looked at in coarse steps and end up to a quarter late."""

    connect_s: float = 2.0
    head_s: float = 600.0
    """From the request to the first byte of the body."""
    idle_s: float = 60.0
    """Between two bytes of a body after that; stands still while the receiver has paused it."""


class Receiver(Protocol):
    """Where payload goes."""

    def on_data(self, data: bytes) -> bool:
        """Take payload, chunk framing removed; False asks to pause until `Exchange.resume`.

        It runs inside the event loop's read callback and must not block. It may raise `UpstreamFailure` for a fault
        that it finds in the payload, which ends the exchange; anything else it raises is a bug, goes to the loop's
        exception handler and ends the exchange as well.
        """


class Connection(asyncio.Protocol):
    """One socket to an engine: carries one exchange at a time, and watches for the end of the peer while idle."""

    __slots__ = ("_look", "_on_lost", "exchange", "idle_since", "keepalive_s", "transport")

    transport: asyncio.Transport

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self._on_lost = on_lost
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self.keepalive_s = 0.0
        self._look: select.poll | None = None

    def is_silent(self) -> bool:
        """Whether it is as it was left, idle: bytes or an end that wait to be read make it useless.

        The event loop tells of an end too, but perhaps in the very turn in which the next request is to be written, and
        after it: what is known then of this socket, only the system can say.
        """
        if self.transport.is_closing():
            return False
        if self._look is None:
            self._look = select.poll()
            self._look.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._look.poll(0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance.

    def data_received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.received(data)
        else:
            self.transport.abort()  # An answer to no question would be taken for the answer to the next one.

    def eof_received(self) -> None:
        if self.exchange is not None:
            self.exchange.lost(None)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)
        if self.exchange is not None:
            self.exchange.lost(exc)

    def send(self, head: bytes, body: bytes) -> bool:
        """Write a request; False if the very first write failed, so that no byte of it can have left."""
        transport = self.transport
        if len(body) <= JOIN_MAX_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))  # One system call, without a copy.
        return not transport.is_closing()


class Exchange:
    """A request that was sent, and its response. Its one consumer takes `head` and then, once, `pump` or `read`."""

    __slots__ = (
        "_connection",
        "_early",
        "_express",
        "_failure",
        "_has_payload",
        "_head_waiter",
        "_is_paused",
        "_loop",
        "_on_chunk",
        "_parser",
        "_quiet_bytes",
        "_quiet_since",
        "_take",
        "_waiter",
        "bytes_received",
        "ended_at",
    )

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, *, is_bodiless: bool = False) -> None:
        self._connection = connection
        self._loop = loop
        self._parser = ResponseParser(is_bodiless=is_bodiless)
        self._take: Callable[[bytes], bool] | None = None
        """`on_data` of who takes the payload now."""
        self._on_chunk: Callable[[bytes], bool | None] | None = None
        self._express: Callable[[bytes], bool | None] | None = None
        """`_on_chunk`, while what comes next is the start of a chunk."""
        self._early = b""
        self._failure: UpstreamFailure | None = None
        self._head_waiter: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False
        self._has_payload = False
        self._quiet_bytes = 0
        self._quiet_since = loop.time()
        self.bytes_received = 0
        """Bytes of the response so far, head and framing included."""
        self.ended_at: float | None = None
        """Loop time at which the response ended or failed."""

    @property
    def keepalive_s(self) -> float:
        """Seconds for which the connection may idle now: 0 unless the response has ended cleanly and allows reuse."""
        return self._parser.keepalive_s if self._parser.complete and self._failure is None else 0.0

    async def head(self) -> Head:
        """Wait for the response head.

        Raises:
            UpstreamFailure: there will be none.
        """
        if self._parser.head is None and self._failure is None:
            self._head_waiter = self._loop.create_future()
            await self._head_waiter
            self._head_waiter = None
        if self._parser.head is None:
            assert self._failure is not None
            raise self._failure
        return self._parser.head

    async def some(self) -> bytes:
        """What has come of the payload, waiting for it if need be; empty at its end. For a look before `pump`.

        Raises:
            UpstreamFailure: the body ended, but not cleanly, and all that came of it was taken.
        """
        while not self._early and self.ended_at is None:
            await self._sleep()
        early, self._early = self._early, b""
        if early:
            self.resume()
        elif self._failure is not None:
            raise self._failure
        return early

    async def pump(self, receiver: Receiver, on_chunk: Callable[[bytes], bool | None] | None = None) -> bool:
        """Push the payload into `receiver` until the body has ended cleanly; False if the receiver asked to pause.

        After a pause, `resume` and pump again.

        Args:
            on_chunk: gets what the socket brings before anybody has read it, wherever a chunk begins. What is one
                whole chunk it may take, framing and all, and answers as `on_data`; anything else it leaves: None.

        Raises:
            UpstreamFailure: the body ended in any other way.
        """
        self._take = receiver.on_data
        self._on_chunk = on_chunk
        if self._early:
            early, self._early = self._early, b""
            self.resume()
            try:
                if not receiver.on_data(early):
                    self._pause()
            except UpstreamFailure as failure:
                self._failure = failure  # Counts even if the response, taken early, has ended by itself.
                self._end(failure)
        while self.ended_at is None and not self._is_paused:
            await self._sleep()
        self._take = self._on_chunk = self._express = None
        if self._failure is not None:
            raise self._failure
        return self.ended_at is not None

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            UpstreamFailure: as `pump`, and PROTOCOL for a body longer than `limit_bytes`.
        """
        if self.ended_at is not None and self._failure is None and len(self._early) <= limit_bytes:
            early, self._early = self._early, b""
            return early  # Mostly it came together with the head.
        collector = _Collector(limit_bytes)
        ended = await self.pump(collector)
        assert ended, "a collector never pauses"
        return b"".join(collector.parts)

    def resume(self) -> None:
        """Go on after `on_data` returned False; harmless at any other time, also after the end."""
        if self._is_paused:
            self._is_paused = False
            if not self._connection.transport.is_closing():
                self._connection.transport.resume_reading()

    def abort(self) -> None:
        """Close the socket now, so that the engine stops; harmless after the end."""
        self._fail(FailureKind.RESET, "the exchange was aborted")

    def received(self, data: bytes) -> None:
        """The socket brought bytes."""
        if self._failure is not None:
            return
        self.bytes_received += len(data)
        if self._express is None or (has_room := self._express(data)) is None:
            self._read(data)
        elif not has_room:
            self._pause()

    def _read(self, data: bytes) -> None:
        """The socket brought bytes that nobody has taken as they came."""
        parser = self._parser
        try:
            payload = parser.feed(data)
            has_room = not payload or (self._take or self._keep)(payload)
        except MalformedResponseError as error:
            self._fail(FailureKind.PROTOCOL, str(error))
            return
        except UpstreamFailure as failure:
            self._end(failure)
            return
        if parser.complete:
            if self.ended_at is None:
                self.resume()
                self._end()
            return
        if payload:
            self._has_payload = True
        if not has_room:
            self._pause()
        if self._on_chunk is not None:
            self._express = self._on_chunk if self._has_payload and parser.is_between_chunks else None
        elif self._head_waiter is not None and parser.head is not None:
            _wake(self._head_waiter)

    def lost(self, exc: Exception | None) -> None:
        """The socket has ended: by the peer's close, or by an error."""
        if self.ended_at is not None:
            return
        if self._parser.head is None or exc is not None:
            self._fail(FailureKind.RESET, "the engine closed the connection")
            return
        self._parser.feed_eof()
        if self._parser.complete:
            self._end()
        else:
            self._fail(FailureKind.TRUNCATED, "the response ended before its end")

    def check_quiet(self, now: float, timeouts: UpstreamTimeouts) -> None:
        """Fail if the engine has been silent for too long. Called in coarse steps, so that no chunk touches a timer."""
        if self.ended_at is not None:
            return
        # An engine may send its head at once and then be silent until the prompt is read.
        is_body = self._has_payload
        if is_body and (self._is_paused or self.bytes_received != self._quiet_bytes):
            self._quiet_bytes = self.bytes_received
            self._quiet_since = now
        elif now - self._quiet_since >= (timeouts.idle_s if is_body else timeouts.head_s):
            self._fail(FailureKind.TIMEOUT, "the engine was silent for too long")

    def _keep(self, payload: bytes) -> bool:
        self._early += payload
        _wake(self._waiter)
        return len(self._early) <= EARLY_MAX_BYTES

    def _pause(self) -> None:
        if not self._is_paused and self.ended_at is None:
            self._is_paused = True
            if not self._connection.transport.is_closing():
                self._connection.transport.pause_reading()
        if self._is_paused:
            _wake(self._waiter)

    async def _sleep(self) -> None:
        """Until the next payload that somebody waits for, a pause, or the end."""
        self._waiter = self._loop.create_future()
        await self._waiter

    def _fail(self, kind: FailureKind, message: str) -> None:
        if self.ended_at is None:
            self._end(UpstreamFailure(kind, message, request_sent=True))

    def _end(self, failure: UpstreamFailure | None = None) -> None:
        """The first end counts; one after it changes nothing."""
        if self.ended_at is not None:
            return
        self.ended_at = self._loop.time()
        if failure is not None:
            self._failure = failure
            self._connection.transport.abort()
        _wake(self._head_waiter)
        _wake(self._waiter)


class _Collector:
    """Keeps a body of limited size."""

    def __init__(self, limit_bytes: int) -> None:
        self.parts: list[bytes] = []
        self._left_bytes = limit_bytes

    def on_data(self, data: bytes) -> bool:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise UpstreamFailure(FailureKind.PROTOCOL, "the response is longer than allowed here", request_sent=True)
        self.parts.append(data)
        return True


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
