"""The client's side of one request: an answer in one piece, or a stream whose bytes go straight to the transport."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway.api.error_body import sse_error
from gateway.errors import ApiError

BUFFER_MAX_BYTES = 64 * 1024
"""Bytes that may wait in the transport for a slow client before the engine's socket is no longer read."""
FLUSH_MAX_S = 5.0
"""For how long a broken stream's last bytes may take to reach the client."""
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class HttpSink:
    """Implements `relay.Sink` on aiohttp. `response` is what the handler returns."""

    __slots__ = ("_base_headers", "_chunked", "_request", "_transport", "_writer", "response")

    def __init__(self, request: web.BaseRequest, base_headers: Mapping[str, str]) -> None:
        self._request = request
        self._base_headers = base_headers
        self._transport = request.transport
        self._writer: AbstractStreamWriter | None = None
        self._chunked = False
        self.response: web.StreamResponse | None = None

    async def answer(self, body: bytes, headers: Mapping[str, str]) -> None:
        """The whole answer at once, status 200."""
        self.response = web.Response(
            body=body, headers={"content-type": "application/json", **self._base_headers, **headers}
        )

    async def start_stream(self, headers: Mapping[str, str], events: bytes) -> None:
        """Status 200 and the first events, in one write."""
        response = web.StreamResponse(headers={**STREAM_HEADERS, **self._base_headers, **headers})
        self._chunked = self._request.version >= HttpVersion11
        if self._chunked:
            response.enable_chunked_encoding()
        self.response = response
        self._writer = await response.prepare(self._request)
        await response.write(events)

    def write(self, events: bytes) -> bool:
        """More events, framed here: aiohttp's own writer is a coroutine, and this runs in a read callback."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return True  # The client is gone; its handler is being cancelled.
        transport.write(b"%x\r\n%b\r\n" % (len(events), events) if self._chunked else events)
        return transport.get_write_buffer_size() <= BUFFER_MAX_BYTES

    def write_chunk(self, chunk: bytes) -> bool:
        """More events, in a whole chunk: not every client here knows those."""
        return self.write(chunk[chunk.index(b"\r\n") + 2 : -2])

    async def drained(self) -> None:
        """Wait until the client has taken most of what was written."""
        assert self._writer is not None
        await self._writer.drain()

    async def end_stream(self, events: bytes = b"") -> None:
        """The last events, if any: the stream is complete."""
        assert self.response is not None
        await self.response.write_eof(events)

    def fail(self, error: ApiError) -> None:
        """An error event, then a cut: without the last chunk no client takes the stream for complete."""
        self.write(sse_error(error))
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(FLUSH_MAX_S, self._transport.abort)

    def abort(self) -> None:
        """Cut the connection now: nobody reads."""
        if self._transport is not None:
            self._transport.abort()
