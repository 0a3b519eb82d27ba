"""Connections without sockets: what is written on one side arrives on the other a moment later, in order."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

LATENCY_S = 0.0005


class BugError(Exception):
    """Planted: our own code at the client's side of a request has a bug."""


class End(enum.Enum):
    """How a connection ends, as the gateway sees it."""

    CLOSE = "close"
    RESET = "reset"


class Peer(Protocol):
    """The engine's side."""

    def received(self, data: bytes) -> None: ...
    def hung_up(self) -> None:
        """The gateway closed the connection."""


class Wire(asyncio.Transport):
    """One connection, seen from the gateway."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.Protocol,
        always_silent_fd: int,
        note: Callable[[str, object], None],
    ) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._fd = always_silent_fd
        self._note = note
        self._up: deque[bytes | None] = deque()
        self._down: deque[bytes | End] = deque()
        self._paused = False
        self._held = 0
        """Deliveries that came due while reading was paused."""
        self._closing = False
        self.peer: Peer | None = None

    # The gateway's side

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._send_up(bytes(data))

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._lose(None)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        for _ in range(self._held):
            self._loop.call_soon(self._arrive_down)
        self._held = 0

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def fileno(self) -> int:
        return self._fd

    def setsockopt(self, *_: object) -> None:
        pass

    # The engine's side

    def answer(self, data: bytes) -> None:
        """Send bytes to the gateway."""
        self._send_down(data)

    def end(self, how: End) -> None:
        """Close or reset from the engine's side."""
        self._send_down(how)

    # Parts

    def _send_up(self, data: bytes | None) -> None:
        self._up.append(data)
        self._loop.call_later(LATENCY_S, self._arrive_up)

    def _arrive_up(self) -> None:
        # By the queue, not the timer: timers of equal times have no order.
        data = self._up.popleft()
        if self.peer is None:
            return
        if data is None:
            self._note("hung up", self.peer)
            self.peer.hung_up()
        else:
            self.peer.received(data)

    def _send_down(self, what: bytes | End) -> None:
        self._down.append(what)
        self._loop.call_later(LATENCY_S, self._arrive_down)

    def _arrive_down(self) -> None:
        if self._paused and not self._closing:
            self._held += 1
            return
        what = self._down.popleft()
        if self._closing:
            return
        if what is End.CLOSE:
            self._protocol.eof_received()
        elif what is End.RESET:
            self._lose(ConnectionResetError())
        else:
            try:
                self._protocol.data_received(what)
            except BugError as error:
                self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._send_up(None)
            self._loop.call_soon(self._protocol.connection_lost, error)
