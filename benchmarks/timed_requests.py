"""Requests that are timed one by one over connections that are used again: a client that costs little."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Self, cast
from urllib.parse import urlsplit

from benchmarks.children import MODEL

TIMED_OUT = 0
"""Status of a request whose client left before its answer came."""
BROKEN = -1
"""Status of a request whose connection was lost."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what came of it."""

    status: int
    duration_s: float
    waited: bool = False
    """Whether the gateway says that it waited for room."""
    retry_after: bool = False


def completion_request(
    url: str, *, output_tokens: int, stream: bool = False, prompt_tokens: int = 32, token: int = 7
) -> bytes:
    """A whole HTTP request for a completion that is exactly so long. The prompt is one token again and again."""
    fields: dict[str, object] = {"model": MODEL, "prompt": [token] * prompt_tokens, "max_tokens": output_tokens}
    body = json.dumps({**fields, "ignore_eos": True, "stream": stream}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Pool:
    """Connections to one server."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._address = address.hostname, address.port
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._open:
            connection.transport.abort()

    async def ask(self, request: bytes, patience_s: float) -> Asked:
        """Send it and wait for its answer; whoever waits longer than that leaves."""
        loop = asyncio.get_running_loop()
        began = perf_counter()  # uvloop's own clock counts milliseconds.
        try:
            connection = await self._connection()
        except OSError:
            return Asked(BROKEN, perf_counter() - began)
        answered = connection.begin(loop)
        connection.transport.write(request)
        try:
            async with asyncio.timeout(patience_s):
                head = await answered
        except TimeoutError:
            connection.transport.abort()
            self._open.discard(connection)
            return Asked(TIMED_OUT, perf_counter() - began)
        except ConnectionError:
            self._open.discard(connection)
            return Asked(BROKEN, perf_counter() - began)
        duration_s = perf_counter() - began
        if connection.transport.is_closing() or b"\r\nconnection: close" in head:
            connection.transport.abort()
            self._open.discard(connection)
        else:
            self._idle.append(connection)
        waited = b"x-kvgate-queue-ms:" in head and b"x-kvgate-queue-ms: 0\r\n" not in head
        return Asked(int(head.split(b" ", 2)[1]), duration_s, waited, b"\r\nretry-after:" in head)

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
            self._open.discard(connection)
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        self._open.add(connection)
        return connection


class _Connection(asyncio.Protocol):
    """Reads one answer after the other, whole."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._answered: asyncio.Future[bytes] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance.

    def begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[bytes]:
        """An answer is to come: its head, in lower case, once all of it is there."""
        self._answered, self._buffer = loop.create_future(), b""
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or self._answered is None or self._answered.done():
            return
        head = head.lower() + b"\r\n"
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            is_whole = body.endswith(b"\r\n0\r\n\r\n")
        else:
            is_whole = len(body) >= int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or b"0")
        if is_whole:
            self._answered.set_result(head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionResetError(str(exc)))
