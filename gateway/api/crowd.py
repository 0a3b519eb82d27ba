"""How many clients may be connected at once, and what becomes of one too many: it is told so, and let go."""

from __future__ import annotations

import asyncio
import uuid

from gateway.api.error_body import render_error
from gateway.shedding import overloaded

LINGER_S = 1.0
LINGERING_MAX = 256
LINGERING_SHARE = 1 / 16
"""So many of the places more are given the time to read why; the others are just closed: descriptors are short."""
KEEP_ALIVE_SHARE = 0.8
"""From this share of the places on, a connection ends with its answer: idle ones keep others out."""


class Crowd:
    """The clients of one server."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._dense_above = KEEP_ALIVE_SHARE * connections_max
        self._lingering_max = min(LINGERING_MAX, 1 + int(LINGERING_SHARE * connections_max))
        self.connections = 0
        self.lingering = 0
        self.turned_away = 0
        self.is_leaving = False
        """No connection should outlive its request any more."""

    @property
    def is_dense(self) -> bool:
        """Whether a connection should not outlive its request."""
        return self.is_leaving or self.connections > self._dense_above

    def enter(self, transport: asyncio.Transport) -> bool:
        """Whether a new connection has a place. If not, it is not the caller's any more; else `leave` takes it back."""
        if self.connections < self._connections_max:
            self.connections += 1
            return True
        self.turned_away += 1
        if self.lingering < self._lingering_max:
            transport.set_protocol(_TurnedAway(self, transport))
        else:
            transport.set_protocol(asyncio.Protocol())  # Or the caller would hear of an end without a beginning.
            transport.abort()
        return False

    def leave(self) -> None:
        """A connection that had a place has ended."""
        self.connections -= 1


class _TurnedAway(asyncio.Protocol):
    """A connection that gets an answer without being read: a close with bytes unread would take the answer back."""

    def __init__(self, crowd: Crowd, transport: asyncio.Transport) -> None:
        self._crowd = crowd
        crowd.lingering += 1
        transport.write(_answer())
        if transport.can_write_eof():
            transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._timer.cancel()
        self._crowd.lingering -= 1


def _answer() -> bytes:
    """A whole response, before any request: whoever asks reads it as the answer to what it sends."""
    error = overloaded("This gateway has no place for another connection.", close=True)
    status, headers, body = render_error(error)
    more = {"x-request-id": uuid.uuid4().hex, "connection": "close", "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, **more}.items())
    return f"HTTP/1.1 {status} Service Unavailable\r\n{lines}\r\n".encode() + body
