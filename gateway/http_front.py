"""The front that clients of the API talk to: HTTP, and behind it the relay."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from gateway.api.auth import KeyRing
from gateway.api.endpoints import Api, ApiServer, ApiSettings
from gateway.front import Parts
from gateway.relay import Relay
from gateway.reporting.tracing import Tracing, open_tracing

KEEPALIVE_S = 75.0
LINGER_S = 2.0
SHUTDOWN_MAX_S = 1.0
"""What still runs when the gateway is told to end at once may go on for so long."""
LINE_MAX_BYTES = 8190
HEADERS_MAX = 64
LISTEN_BACKLOG = 1024


@asynccontextmanager
async def serve_http(parts: Parts) -> AsyncIterator[str]:
    """Serve the API while the block runs; gives its URL.

    Raises:
        OSError: its address cannot be listened on.
    """
    async with open_tracing("https" if parts.tls else "http") as tracing:
        counter = _Counter(parts, tracing)
        parts.successors.append(counter.hand_over)
        runner = web.ServerRunner(_server(counter), shutdown_timeout=SHUTDOWN_MAX_S)
        await runner.setup()
        try:
            yield await listen_at(runner, parts.config.listen.host, parts.config.listen.port, parts.passed, parts.tls)
        finally:
            await runner.cleanup()


async def listen_at(
    runner: web.BaseRunner, host: str, port: int, passed: socket.socket | None, tls: ssl.SSLContext | None = None
) -> str:
    """Listen at an address, or on a socket that does; gives the URL.

    Raises:
        OSError: the address cannot be listened on.
    """
    if passed is None:
        await web.TCPSite(runner, host, port, backlog=LISTEN_BACKLOG, ssl_context=tls).start()
    else:
        await web.SockSite(runner, passed, backlog=LISTEN_BACKLOG, ssl_context=tls).start()
        host = passed.getsockname()[0]
    bound = runner.addresses[0][1]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}"


class _Counter:
    """Where requests come in. Each stays with the API that it met, whatever is reloaded meanwhile."""

    def __init__(self, parts: Parts, tracing: Tracing | None) -> None:
        self._tracing = tracing
        self.hand_over(parts)

    def hand_over(self, parts: Parts) -> None:
        """Others answer from now on."""
        self.api = _api(parts, self._tracing)
        self.body_bytes_max = int(parts.config.input.body_bytes_max)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        return await self.api.handle(request)


def _api(parts: Parts, tracing: Tracing | None) -> Api:
    config = parts.config
    relay = Relay(
        parts.gate,
        parts.backends,
        parts.pricing,
        parts.tokens,
        parts.settings,
        parts.on_record,
        parts.on_admitted,
        tracing,
    )
    started_at = int(time.time())  # noqa: TID251  # a wall clock time that clients are shown
    settings = ApiSettings(int(config.input.body_bytes_max), config.parse_policy(), started_at)
    return Api(relay, KeyRing(config.tenant_keys()), settings, parts.is_draining)


def _server(counter: _Counter) -> web.Server:
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        limit = counter.body_bytes_max
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=limit)

    return ApiServer(
        counter.handle,
        request_factory=make_request,
        # Without it a client that left keeps its place in the queue and its GPU.
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGER_S,
        auto_decompress=False,
        max_line_size=LINE_MAX_BYTES,
        max_field_size=LINE_MAX_BYTES,
        max_headers=HEADERS_MAX,
        access_log=None,
    )
