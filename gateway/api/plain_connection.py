"""One client's connection, as long as it only sends what leaves no doubt; at the first doubt aiohttp takes over.

aiohttp's server spends several times as long on a request as everything that KVGate does with it. So plain requests
(`plain_head`) are read and answered here. Whatever else comes is handed over as it came, together with the connection
for the rest of its life: aiohttp's parser alone judges what is odd.

One request is at work at a time; what a client sends ahead waits, and beyond a bound it is not read. A client that
leaves cancels its request, also if it only closes its own direction: so does aiohttp's `handler_cancellation`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol, cast

from gateway.api.asked import Asked, Reply
from gateway.api.crowd import Crowd
from gateway.api.plain_head import PlainHead, PlainHeads
from gateway.api.plain_sink import PlainSink
from gateway.api.request_headers import request_id
from gateway.api.respond import FLUSH_MAX_S

AHEAD_MAX_BYTES = 64 * 1024
"""Of what a client sends before it has its answer; then its socket is not read."""
UNREAD_MAX_S = 60.0
"""A client that takes nothing of an error for so long is gone."""


class PlainApi(Protocol):
    """What answers plain requests."""

    @property
    def body_bytes_max(self) -> int:
        """Longest body that is taken."""

    def answer(self, asked: Asked, id_: str, sink: PlainSink) -> Awaitable[Reply | None]:
        """See `Api.answer`."""


class House(Protocol):
    """What serves the connections."""

    crowd: Crowd | None
    heads: PlainHeads
    """What all connections read heads with."""
    linger_s: float
    """For how long the rest of a body is taken that nobody wants any more."""
    is_closing: bool
    """Connections end with the answer that they wait for."""

    def error(self, error: Exception, path: str, id_: str) -> Reply:
        """What to answer where this came instead of an answer."""

    def full_parser(self) -> asyncio.Protocol:
        """Somebody who can read all of HTTP/1."""

    def came(self, connection: PlainConnection) -> None:
        """A connection was made."""

    def left(self, connection: PlainConnection) -> None:
        """A connection is lost, or somebody else's now."""


class PlainConnection(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_ahead",
        "_api",
        "_body",
        "_body_waiter",
        "_drain_waiter",
        "_house",
        "_is_in",
        "_is_last",
        "_is_writing_paused",
        "_left_bytes",
        "_lingering",
        "_loop",
        "_parts",
        "idle_since",
        "task",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, house: House, api: PlainApi, loop: asyncio.AbstractEventLoop) -> None:
        self._house = house
        self._api = api
        self._loop = loop
        self._is_in = False
        self._is_last = False
        """The client wants no more than this answer."""
        self._left_bytes = 0
        """Of the body, still to come."""
        self._parts: list[bytes] = []
        self._body: bytes | None = None
        self._body_waiter: asyncio.Future[None] | None = None
        self._ahead = b""
        self._lingering: asyncio.TimerHandle | None = None
        """Ends it while the rest of a body comes that nobody wants."""
        self._is_writing_paused = False
        self._drain_waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        """Works on the request; None: there is none."""
        self.idle_since = loop.time()

    @property
    def closes(self) -> bool:
        """Whether it ends with its present answer."""
        crowd = self._house.crowd
        return self._is_last or self._house.is_closing or (crowd is not None and crowd.is_dense)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance.
        crowd = self._house.crowd
        if crowd is None or crowd.enter(self.transport):
            self._is_in = True
            self._house.came(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._leave()
        if self.task is not None:
            self.task.cancel()
        if self._lingering is not None:
            self._lingering.cancel()
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_exception(ConnectionResetError("the client is gone"))

    def data_received(self, data: bytes) -> None:
        if self._left_bytes:
            data = self._take_body(data)
        if not data:
            return
        if self.task is None and not self._left_bytes and not self.transport.is_closing():
            self._begin(data)
            return
        self._ahead += data
        if len(self._ahead) > AHEAD_MAX_BYTES:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._drain_waiter is not None and not self._drain_waiter.done():
            self._drain_waiter.set_result(None)

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written.

        Raises:
            ConnectionError: it is gone.
        """
        if self.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if self._is_writing_paused:
            self._drain_waiter = self._loop.create_future()
            try:
                await self._drain_waiter
            finally:
                self._drain_waiter = None

    async def body(self) -> bytes:
        """The body of the present request, once it is whole."""
        if self._left_bytes:
            self._body_waiter = self._loop.create_future()
            try:
                await self._body_waiter
            finally:
                self._body_waiter = None
        parts, self._parts = self._parts, []
        return b"".join(parts)

    def end(self) -> None:
        """Close it if nobody is waiting for an answer."""
        if self.task is None:
            self.transport.close()

    def _begin(self, data: bytes) -> None:
        """A new request, or something else."""
        head = self._house.heads.read(data)
        if head is None or head.body_bytes > self._api.body_bytes_max:
            self._hand_over(data)
            return
        self._is_last = head.closes
        end = head.end + head.body_bytes
        body: bytes | None = data[head.end : end]
        if len(data) < end:
            self._left_bytes = end - len(data)
            self._parts = [data[head.end :]]
            body = None
        elif len(data) > end:
            self._ahead = data[end:]
        self.task = self._loop.create_task(self._serve(head, body))

    def _take_body(self, data: bytes) -> bytes:
        """Add to the body; gives what comes after it."""
        surplus = data[self._left_bytes :]
        if surplus:
            data = data[: self._left_bytes]
        self._left_bytes -= len(data)
        if self.task is not None:
            self._parts.append(data)
        if not self._left_bytes:
            if self._body_waiter is not None and not self._body_waiter.done():
                self._body_waiter.set_result(None)
            if self._lingering is not None:
                self._lingering.cancel()
                self._lingering = None
                self._next()
        return surplus

    async def _serve(self, head: PlainHead, body: bytes | None) -> None:
        """From the head of a request to the last byte of its answer."""
        id_ = request_id(head.headers)
        sink = PlainSink(self, id_)
        asked = _Plain(self, head, body)
        try:
            try:
                reply = await self._api.answer(asked, id_, sink)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001  # a mistake of ours in one request must end no other
                reply = self._house.error(error, asked.path, id_)
            if reply is not None:
                self._is_last = self._is_last or reply.close
                sink.reply(reply)
                if self._is_writing_paused:
                    async with asyncio.timeout(UNREAD_MAX_S):
                        await self.drained()
        except (ConnectionError, TimeoutError):
            self.transport.close()
            self._loop.call_later(FLUSH_MAX_S, self.transport.abort)
        self._ended()

    def _ended(self) -> None:
        """An answer is out."""
        self.task = None
        self._parts = []
        if self._left_bytes and not self.transport.is_closing():
            # A close with bytes unread would take the answer back: the client may go on sending for a moment.
            self._lingering = self._loop.call_later(self._house.linger_s, self.transport.close)
        else:
            self._next()

    def _next(self) -> None:
        """Nothing of the last request is left: the next one, or the end."""
        transport = self.transport
        if transport.is_closing():
            return
        if self.closes:
            transport.close()
            return
        self.idle_since = self._loop.time()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            if len(ahead) > AHEAD_MAX_BYTES:
                transport.resume_reading()
            self._begin(ahead)

    def _hand_over(self, data: bytes) -> None:
        self._leave()
        successor = self._house.full_parser()
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)
        successor.data_received(data)

    def _leave(self) -> None:
        if self._is_in:
            self._is_in = False
            self._house.left(self)
            if self._house.crowd is not None:
                self._house.crowd.leave()


class _Plain:
    """A request of a `PlainConnection`. Implements `Asked`."""

    __slots__ = ("_connection", "arrived", "body_bytes", "headers", "method", "path")

    def __init__(self, connection: PlainConnection, head: PlainHead, body: bytes | None) -> None:
        self._connection = connection
        self.method: str = head.method
        target = head.target
        self.path: str = target.partition("?")[0] if "?" in target else target
        self.headers: dict[str, str] = head.headers
        self.body_bytes: int | None = head.body_bytes
        self.arrived = body

    async def read(self) -> bytes:
        return await self._connection.body()
