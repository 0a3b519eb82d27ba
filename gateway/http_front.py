"""The front that clients of the API talk to: HTTP, and behind it the relay."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from gateway.api.asked import Asked, Reply
from gateway.api.auth import KeyRing
from gateway.api.crowd import Crowd
from gateway.api.endpoints import Api, ApiSettings
from gateway.api.plain_sink import PlainSink
from gateway.api.server import ApiServer
from gateway.descriptors import BACKLOG_MAX
from gateway.front import Parts
from gateway.relay import Relay
from gateway.reporting.tracing import Tracing, open_tracing

KEEPALIVE_S = 75.0
LINGER_S = 2.0
SHUTDOWN_MAX_S = 1.0
"""What still runs when the gateway is told to end at once may go on for so long."""
LINE_MAX_BYTES = 8190
HEADERS_MAX = 64
EMPTY_LOOK_S = 0.05
HAND_OVER_S = 1.0
"""For so long, who is connected is served as ever although this process will end: its request may be on its way."""


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
            listen, backlog = parts.config.listen, parts.places.backlog
            url = await listen_at(runner, listen.host, listen.port, parts.passed, parts.tls, backlog=backlog)
            if parts.passed is not None:
                parts.leavers.append(partial(_leave, runner, counter))
            parts.emptiers.append(partial(_empty, runner, counter))
            yield url
        finally:
            await runner.cleanup()


async def listen_at(
    runner: web.BaseRunner,
    host: str,
    port: int,
    passed: socket.socket | None,
    tls: ssl.SSLContext | None = None,
    *,
    backlog: int = BACKLOG_MAX,
) -> str:
    """Listen at an address, or on a socket that does; gives the URL.

    Raises:
        OSError: the address cannot be listened on.
    """
    if passed is None:
        await web.TCPSite(runner, host, port, backlog=backlog, ssl_context=tls).start()
    else:
        await web.SockSite(runner, passed, backlog=backlog, ssl_context=tls).start()
        host = passed.getsockname()[0]
    bound = runner.addresses[0][1]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}"


async def _leave(runner: web.ServerRunner, counter: _Counter) -> None:
    """Take no more connections from a socket that outlives this process: they wait in it for the next one.

    A request that is on its way already is still served, so nobody who connected before is turned away.
    """
    for site in tuple(runner.sites):
        await site.stop()
    counter.crowd.is_leaving = True
    await asyncio.sleep(HAND_OVER_S)


async def _empty(runner: web.ServerRunner, counter: _Counter) -> None:
    """Let go of those who wait for nothing, and of the others with the last byte of their answers."""
    assert runner.server is not None
    runner.server.pre_shutdown()
    while counter.crowd.connections:  # noqa: ASYNC110  # it happens once in the life of a process
        await asyncio.sleep(EMPTY_LOOK_S)


class _Counter:
    """Where requests come in. Each stays with the API that it met, whatever is reloaded meanwhile."""

    def __init__(self, parts: Parts, tracing: Tracing | None) -> None:
        self._tracing = tracing
        self.crowd = Crowd(parts.places.connections_max)
        self.hand_over(parts)

    def hand_over(self, parts: Parts) -> None:
        """Others answer from now on."""
        self.api = _api(parts, self._tracing)
        self.body_bytes_max = int(parts.config.input.body_bytes_max)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        response = await self.api.handle(request)
        if self.crowd.is_dense:
            if not response.prepared:
                response.force_close()
            request.protocol.close()
        return response

    def answer(self, asked: Asked, id_: str, sink: PlainSink) -> Awaitable[Reply | None]:
        """Answer one request that was read past aiohttp."""
        return self.api.answer(asked, id_, sink)


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
    relay.quarantine = parts.quarantine
    started_at = int(time.time())  # noqa: TID251  # a wall clock time that clients are shown
    settings = ApiSettings(int(config.input.body_bytes_max), config.parse_policy(), started_at)
    return Api(relay, KeyRing(config.tenant_keys()), settings, parts.is_draining, parts.shedding.refusal)


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

    server = ApiServer(
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
    server.crowd = counter.crowd
    server.plain = counter
    server.keepalive_s, server.linger_s = KEEPALIVE_S, LINGER_S
    return server
