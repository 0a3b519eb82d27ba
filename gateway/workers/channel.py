"""Messages between two processes of one gateway over a local socket: framed, in order, those of one moment together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

SIZE_BYTES = 4
FRAME_MAX_BYTES = 8 << 20
"""Of one message; the largest carries the prefixes of one prompt."""
UNSENT_MAX_BYTES = 64 << 20
"""A process that leaves so much unread hangs, and is treated as one that has died."""

Incoming = TypeVar("Incoming")


class Channel(asyncio.Protocol, Generic[Incoming]):
    """One end. Sending never waits.

    Args:
        decoder: of the messages that come.
        on_lost: called once when nothing more will come, unless it was `close`d here.
    """

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Incoming],
        on_lost: Callable[[], None],
    ) -> None:
        self._decode = decoder.decode
        self._encode_into = msgspec.msgpack.Encoder().encode_into
        self._on_message: Callable[[Incoming], None]
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._unsent = bytearray()
        self._closed = False

    async def open(self, end: socket.socket, on_message: Callable[[Incoming], None]) -> None:
        """Speak over this end of a pair of stream sockets, which belongs to the channel from now on.

        Args:
            end: of the pair.
            on_message: called with each message that comes, in order. If it fails, the channel is lost.
        """
        self._on_message = on_message
        await self._loop.create_connection(lambda: self, sock=end)

    def send(self, message: object) -> None:
        """Send a message, with whatever else is sent before the loop turns. Dropped when the other is gone."""
        if self._closed:
            return
        unsent = self._unsent
        if not unsent:
            self._loop.call_soon(self._flush)
        start = len(unsent)
        self._encode_into(message, unsent, start + SIZE_BYTES)
        unsent[start : start + SIZE_BYTES] = (len(unsent) - start - SIZE_BYTES).to_bytes(SIZE_BYTES, "big")

    def close(self) -> None:
        """Send what is left, and end."""
        if not self._closed:
            self._flush()
            self._closed = True
            if self._transport is not None:
                self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._rest:
            data = self._rest + data
        start, end = 0, len(data)
        while end - start >= SIZE_BYTES and not self._closed:
            size = int.from_bytes(data[start : start + SIZE_BYTES], "big")
            if size > FRAME_MAX_BYTES:
                self._lose()
                return
            after = start + SIZE_BYTES + size
            if after > end:
                break
            message = self._decode(data[start + SIZE_BYTES : after])
            start = after
            self._on_message(message)
        self._rest = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # whatever it was, the other is gone
        """Called by the loop."""
        self._lose()

    def _flush(self) -> None:
        if self._transport is None or self._closed or not self._unsent:
            return
        self._transport.write(bytes(self._unsent))
        self._unsent.clear()
        if self._transport.get_write_buffer_size() > UNSENT_MAX_BYTES:
            self._lose()

    def _lose(self) -> None:
        if not self._closed:
            self._closed = True
            if self._transport is not None:
                self._transport.abort()
            self._on_lost()
