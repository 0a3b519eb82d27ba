"""The client's side of one request on a `PlainConnection`: heads written by hand, bodies straight to the transport."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Protocol

from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from gateway.api import respond
from gateway.api.asked import Reply
from gateway.api.error_body import sse_error
from gateway.api.respond import BUFFER_MAX_BYTES, STREAM_HEADERS
from gateway.errors import ApiError

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_OK = "HTTP/1.1 200 OK\r\n"
_ANSWER = f"{_OK}content-type: application/json\r\n"
_STREAM = _OK + "".join(f"{name}: {value}\r\n" for name, value in STREAM_HEADERS.items())
_CHUNKED = "Transfer-Encoding: chunked"
_SERVER = f"\r\nServer: {SERVER_SOFTWARE}\r\n"
_LAST_CHUNK = b"0\r\n\r\n"


class Way(Protocol):
    """The connection that an answer goes out on."""

    transport: asyncio.Transport

    @property
    def closes(self) -> bool:
        """Whether it ends with this answer."""

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""


class PlainSink:
    """Implements `endpoints.ApiSink`: what `HttpSink` is on aiohttp, byte for byte."""

    __slots__ = ("_id", "_transport", "_way", "has_begun")

    def __init__(self, way: Way, id_: str) -> None:
        self._way = way
        self._transport = way.transport
        self._id = id_
        self.has_begun = False
        """Something of an answer was written."""

    async def answer(self, body: bytes, headers: Mapping[str, str]) -> None:
        """The whole answer at once, status 200."""
        start = f"{_ANSWER}x-request-id: {self._id}\r\n"
        if not self._write(self._head(start, headers, f"Content-Length: {len(body)}"), body):
            await self._way.drained()

    def reply(self, reply: Reply) -> None:
        """An answer that no engine gave.

        Raises:
            ConnectionError: another one has begun, or the client is gone.
        """
        if self.has_begun:
            raise ConnectionAbortedError("an answer has begun; all that is left is a cut")
        start = f"HTTP/1.1 {reply.status} {_REASONS[reply.status]}\r\n"
        framing = f"Content-Length: {len(reply.body)}"
        self._write(self._head(start, reply.headers, framing, closes=reply.close), reply.body)

    async def start_stream(self, headers: Mapping[str, str], events: bytes) -> None:
        """Status 200 and the first events, in one write."""
        head = self._head(f"{_STREAM}x-request-id: {self._id}\r\n", headers, _CHUNKED)
        if not self._write(head, _chunk(events)):
            await self._way.drained()

    def write(self, events: bytes) -> bool:
        """More events."""
        return self.write_chunk(_chunk(events))

    def write_chunk(self, chunk: bytes) -> bool:
        """More events, in a whole chunk."""
        transport = self._transport
        if transport.is_closing():
            return True  # The client is gone; its request is being cancelled.
        transport.write(chunk)
        return transport.get_write_buffer_size() <= BUFFER_MAX_BYTES

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""
        await self._way.drained()

    async def end_stream(self, events: bytes = b"") -> None:
        """The last events, if any, and the end of the body, in one write."""
        if not self._write(_chunk(events) + _LAST_CHUNK if events else _LAST_CHUNK):
            await self._way.drained()

    def fail(self, error: ApiError) -> None:
        """An error event, then a cut: without the last chunk no client takes the stream for complete."""
        self.write(sse_error(error))
        self._transport.close()
        asyncio.get_running_loop().call_later(respond.FLUSH_MAX_S, self._transport.abort)

    def abort(self) -> None:
        """Cut the connection now: nobody reads."""
        self._transport.abort()

    def _write(self, first: bytes, then: bytes = b"") -> bool:
        self.has_begun = True
        transport = self._transport
        if transport.is_closing():
            raise ConnectionResetError("the client is gone")
        if len(then) <= BUFFER_MAX_BYTES:
            transport.write(first + then)
        else:
            transport.write(first)
            transport.write(then)
        return transport.get_write_buffer_size() <= BUFFER_MAX_BYTES

    def _head(self, start: str, headers: Mapping[str, str], framing: str, *, closes: bool = False) -> bytes:
        """An answer's head, which begins with these lines.

        Raises:
            ValueError: a header holds a character that would end it; a mistake of ours.
        """
        fields = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        checked = self._id + fields
        if checked.count("\n") != len(headers) or checked.count("\r") != len(headers) or "\0" in checked:
            raise ValueError("a header of an answer holds a control character")
        end = "Connection: close\r\n\r\n" if (closes or self._way.closes) and "connection" not in headers else "\r\n"
        return f"{start}{fields}{framing}\r\nDate: {rfc822_formatted_time()}{_SERVER}{end}".encode()


def _chunk(events: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(events), events)
