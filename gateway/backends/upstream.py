"""The pooled HTTP/1.1 client that all engine files share: one `Upstream` for each base URL.

A connection is used again only if its peer still seems to be there: one that ends while idle leaves the pool at once,
and the socket is asked once more before a request is written to it. What remains is a close that is already on its way.
A request whose first write fails has not left and goes to a fresh connection, once; after that a lost connection is
`RESET` with `request_sent` and never repeated here: the engine may be at work on it, and generation costs.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from types import TracebackType
from urllib.parse import urlsplit

from gateway.backends.exchange import (
    Connection,
    Exchange,
    FailureKind,
    Receiver,
    UpstreamFailure,
    UpstreamTimeouts,
)
from gateway.backends.http1 import Head

__all__ = ["Exchange", "FailureKind", "Head", "Receiver", "Upstream", "UpstreamFailure", "UpstreamTimeouts"]

KEEPALIVE_S = 4.0
"""uvicorn, and so vLLM, closes after 5 s and does not say so; a request written at that moment would be lost."""

_AUTHORITY = re.compile(r"[0-9A-Za-z._:\[\]-]+")
_PATH = re.compile(r"/[!-~]*")
_HEADER_LINES = re.compile(rb"(?:[!-9;-~]++:[^\x00\r\n]*+\r\n)*+")
_SWEEPS_PER_TIMEOUT = 8
_OUR_OWN_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TCP_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A host that vanished during a long prefill is noticed after 30 s, not after `head_s`."""


class Upstream:
    """A client of one base URL.

    Args:
        base_url: `http://host:port`, with a path prefix if the API has one. A trailing `/v1` goes: paths carry it.
        connections_max: open connections; one more is refused, as waiting is admission's business.
        idle_connections_max: connections kept for reuse.
        keepalive_s: for how long, from the end of a response; the server's own `Keep-Alive: timeout` rules if shorter.
        tls: for `https`; None means the system's trust store.

    Raises:
        ValueError: `base_url` is not a plain http(s) URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: UpstreamTimeouts | None = None,
        connections_max: int = 1024,
        idle_connections_max: int = 64,
        keepalive_s: float = KEEPALIVE_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or not _AUTHORITY.fullmatch(url.netloc):
            raise ValueError("a base URL is http(s)://host[:port][/prefix]")
        if url.query or url.fragment:
            raise ValueError("a base URL has no query and no fragment")
        self._prefix = url.path.rstrip("/").removesuffix("/v1")
        if self._prefix and not _PATH.fullmatch(self._prefix):
            raise ValueError("the path of a base URL is printable ASCII")
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if url.scheme == "https" else None
        self._host_line = b"Host: " + url.netloc.encode("ascii") + b"\r\n"
        self._timeouts = timeouts or UpstreamTimeouts()
        self._connections_max = connections_max
        self._idle_connections_max = idle_connections_max
        self._keepalive_s = keepalive_s
        self._connecting = 0
        self._open: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it is used, always the same: to ask which one is running takes a call of the system."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    @property
    def open_connections(self) -> int:
        """Connections to the engine, idle ones included."""
        return len(self._open)

    @property
    def idle_connections(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    def exchange(
        self, method: bytes, path: str, headers: bytes = b"", body: bytes = b""
    ) -> AbstractAsyncContextManager[Exchange]:
        """Send a request on entering; on leaving, reuse the connection after a clean end, and else close it at once.

        Args:
            path: from the root of the API, with its query; the base URL's prefix comes before it.
            headers: whole lines, each with its CRLF. Host and Content-Length are written here.

        Raises:
            ValueError: path or headers would break the framing; a mistake of the caller.
            UpstreamFailure: on entering; the request was not sent.
        """
        if not _HEADER_LINES.fullmatch(headers):
            raise ValueError("header lines are `name: value` and end in CRLF")
        length = b"" if method == b"GET" and not body else b"Content-Length: %d\r\n" % len(body)
        head = b"%b%b%b%b\r\n" % (_request_line(method, self._prefix, path), self._host_line, headers, length)
        return _Sending(self, head, body, is_bodiless=method == b"HEAD")

    async def fetch(
        self,
        path: str,
        *,
        method: bytes = b"GET",
        headers: bytes = b"",
        body: bytes = b"",
        limit_bytes: int = 1 << 20,
        timeout_s: float = 2.0,
    ) -> tuple[int, bytes]:
        """Status and body of a small answer, such as a metrics page.

        Raises:
            UpstreamFailure: as in an exchange; TIMEOUT after `timeout_s` in all, PROTOCOL beyond `limit_bytes`.
        """
        try:
            async with asyncio.timeout(timeout_s), self.exchange(method, path, headers, body) as exchange:
                head = await exchange.head()
                return head.status, await exchange.read(limit_bytes)
        except TimeoutError:
            raise UpstreamFailure(FailureKind.TIMEOUT, "the engine took too long", request_sent=True) from None

    async def aclose(self) -> None:
        """Close every connection, in use or not, and take no more requests."""
        self._connections_max = 0
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in tuple(self._open):
            connection.transport.abort()
        while self._open:
            await self._loss()

    async def retire(self) -> None:
        """Keep no connection beyond its exchange, and wait until the last one has ended."""
        self._idle_connections_max = 0
        for connection in tuple(self._idle):
            connection.transport.abort()
        while self._open or self._connecting:
            await self._loss()

    def take_idle(self, now: float) -> Connection | None:
        """The connection used last, if one is still good."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if now - connection.idle_since < connection.keepalive_s and connection.is_silent():
                return connection
            connection.transport.abort()
        return None

    async def connect(self) -> Connection:
        """A fresh connection.

        Raises:
            UpstreamFailure: CONNECT, or LOCAL where it is not the engine's fault.
        """
        if len(self._open) + self._connecting >= self._connections_max:
            kind = FailureKind.LOCAL if self._connections_max else FailureKind.CONNECT
            raise UpstreamFailure(kind, "no place for another connection to this engine", request_sent=False)
        loop = asyncio.get_running_loop()
        self._connecting += 1
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self._forget), self._host, self._port, ssl=self._tls
                )
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA refuses.
            if isinstance(error, OSError) and error.errno in _OUR_OWN_LIMITS:
                text = "this gateway cannot open another connection"
                raise UpstreamFailure(FailureKind.LOCAL, text, request_sent=False) from error
            text = f"could not connect to the engine ({type(error).__name__})"
            raise UpstreamFailure(FailureKind.CONNECT, text, request_sent=False) from error
        finally:
            self._connecting -= 1
            self._lost.set()
        if len(self._open) >= self._connections_max or transport.is_closing():
            transport.abort()
            raise UpstreamFailure(FailureKind.CONNECT, "the connection closed at once", request_sent=False)
        _watch_for_dead_host(transport)
        self._open[connection] = None
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(self._sweep_s, self._sweep, loop)
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back after its exchange: into the pool, or out of the world."""
        exchange, connection.exchange = connection.exchange, None
        assert exchange is not None
        if exchange.ended_at is None:
            exchange.abort()
            assert exchange.ended_at is not None
        transport = connection.transport
        connection.keepalive_s = min(exchange.keepalive_s, self._keepalive_s)
        is_full = len(self._idle) >= self._idle_connections_max
        if connection.keepalive_s <= 0 or is_full or transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
        else:
            connection.idle_since = exchange.ended_at
            self._idle[connection] = None

    @property
    def _sweep_s(self) -> float:
        shortest_s = min(self._timeouts.head_s, self._timeouts.idle_s, self._keepalive_s)
        return min(max(shortest_s / _SWEEPS_PER_TIMEOUT, 0.005), 1.0)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all connections: one timer for all is cheaper than one for each, moved twice by each request."""
        now = loop.time()
        for connection in tuple(self._open):
            if connection.exchange is not None:
                connection.exchange.check_quiet(now, self._timeouts)
            elif now - connection.idle_since >= connection.keepalive_s:
                connection.transport.abort()
        self._sweep_timer = loop.call_later(self._sweep_s, self._sweep, loop) if self._open else None

    def _forget(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        self._idle.pop(connection, None)
        self._lost.set()

    async def _loss(self) -> None:
        self._lost.clear()
        await self._lost.wait()


@lru_cache(maxsize=256)
def _request_line(method: bytes, prefix: str, path: str) -> bytes:
    if not _PATH.fullmatch(path):
        raise ValueError("a path starts with / and is printable ASCII")
    return b"%b %b HTTP/1.1\r\n" % (method, (prefix + path).encode("ascii"))


class _Sending:
    """The `async with` of an exchange: owns the connection from the first byte written to the last byte read."""

    __slots__ = ("_body", "_connection", "_head", "_is_bodiless", "_upstream")

    def __init__(self, upstream: Upstream, head: bytes, body: bytes, *, is_bodiless: bool) -> None:
        self._upstream = upstream
        self._head = head
        self._body = body
        self._is_bodiless = is_bodiless

    async def __aenter__(self) -> Exchange:
        loop = self._upstream.loop
        connection = self._upstream.take_idle(loop.time())
        if connection is None or not connection.send(self._head, self._body):
            connection = await self._upstream.connect()
            if not connection.send(self._head, self._body):
                raise UpstreamFailure(FailureKind.RESET, "the engine closed the connection", request_sent=False)
        self._connection = connection
        connection.exchange = Exchange(connection, loop, is_bodiless=self._is_bodiless)
        return connection.exchange

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._upstream.release(self._connection)


def _watch_for_dead_host(transport: asyncio.Transport) -> None:
    peer = transport.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_KEEPALIVE.items():
        if hasattr(socket, name):  # Absent on some systems; SO_KEEPALIVE alone still helps there.
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
