"""A load generator that costs little: prepared requests on bare protocols, answers read for their framing alone."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast
from urllib.parse import urlsplit

from benchmarks.mock_engine import MODEL

PROMPT_BYTES = 1024
PATIENCE_S = 30.0
"""A phase that takes longer has failed."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM_END = b"0\r\n\r\n"


class LoadError(Exception):
    """An answer was not what the benchmark is about."""


class Client(asyncio.Protocol):
    """One connection, and the end of what it is there for."""

    transport: asyncio.Transport

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance.

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(f"the connection was closed: {exc}")

    def start(self) -> None:
        """Ask."""
        self.transport.write(self.request)

    def fail(self, text: str) -> None:
        """It will not come to its end."""
        if not self.done.done():
            self.done.set_exception(LoadError(text))
            self.transport.close()


ClientT = TypeVar("ClientT", bound=Client)


class ShortClient(Client):
    """Asks again as soon as it has its answer, until a point in the loop's time."""

    def __init__(self, request: bytes, until: float) -> None:
        super().__init__(request)
        self._until = until
        self._now = asyncio.get_running_loop().time
        self._buffer = b""
        self.answers = 0

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, head_end)
        if length is None or not self._buffer.startswith(b"HTTP/1.1 200"):
            self.fail(self._buffer[:400].decode(errors="replace"))
        elif len(self._buffer) >= head_end + 4 + int(length[1]):
            self._buffer = b""
            self.answers += 1
            if self._now() < self._until:
                self.transport.write(self.request)
            elif not self.done.done():
                self.done.set_result(None)


class StreamClient(Client):
    """Asks for one stream and counts its events."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""
        self.events = 0

    def data_received(self, data: bytes) -> None:
        if not self.began.done():
            data = self._tail + data
            if b"\n\n" not in data:
                self._tail = data
                return
            self.began.set_result(None)
            self._tail = b""
            if not data.startswith(b"HTTP/1.1 200"):
                self.fail(data[:400].decode(errors="replace"))
                return
        # An event may come in two reads, and so may the end. Framing follows each event, so none counts twice.
        self.events += (self._tail[-1:] + data).count(b"\n\n")
        self._tail = (self._tail + data)[-len(_STREAM_END) :]
        if self._tail == _STREAM_END and not self.done.done():
            self.done.set_result(None)

    def fail(self, text: str) -> None:
        """It will not come to its end, or not even begin."""
        super().fail(text)
        if not self.began.done():
            self.began.set_result(None)


def chat_request(url: str, *, stream: bool, max_tokens: int) -> bytes:
    """A whole HTTP request with a prompt of `PROMPT_BYTES`."""
    message = {"role": "user", "content": "word " * (PROMPT_BYTES // 5)}
    body = json.dumps({"model": MODEL, "messages": [message], "max_tokens": max_tokens, "stream": stream}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\nauthorization: Bearer none\r\n"
        f"user-agent: benchmark\r\naccept: application/json\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@asynccontextmanager
async def connected(url: str, make: Callable[[], ClientT], count: int) -> AsyncIterator[list[ClientT]]:
    """Clients that are connected and have not asked yet. They are cut off when the block is left."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    clients: list[ClientT] = []
    try:
        for _ in range(count):
            _, client = await asyncio.get_running_loop().create_connection(make, address.hostname, address.port)
            clients.append(client)
        yield clients
    finally:
        for client in clients:
            client.done.cancel()
            client.transport.abort()


async def each(waits: list[asyncio.Future[None]]) -> None:
    """Wait for all.

    Raises:
        LoadError: one failed.
        TimeoutError: one takes longer than `PATIENCE_S`.
    """
    async with asyncio.timeout(PATIENCE_S):
        for wait in waits:
            await wait


async def first(waits: list[asyncio.Future[None]]) -> None:
    """Wait for one.

    Raises:
        TimeoutError: none is done within `PATIENCE_S`.
    """
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
