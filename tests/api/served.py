"""The API's own server on loopback, around a relay that is none, and a client that sends bytes as they are given."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from gateway.api.asked import Asked, Reply
from gateway.api.auth import KeyRing, TenantKeys, key_hash
from gateway.api.crowd import Crowd
from gateway.api.endpoints import Api, ApiSettings
from gateway.api.parse import DEFAULT_POLICY
from gateway.api.plain_connection import PlainApi
from gateway.api.plain_sink import PlainSink
from gateway.api.server import ApiServer
from gateway.domain import Priority
from gateway.errors import ApiError
from gateway.passage import Sink
from gateway.relay import Relay
from gateway.request import COMPLETIONS, InferenceRequest, Tenant, TraceContext

BODY_BYTES_MAX = 10_000
BODY = b'{"model":"m","prompt":"hi"}'
POST = f"POST {COMPLETIONS} HTTP/1.1"
ASK = f"{POST}\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
TENANT = Tenant("team", Priority.STANDARD, 0.5)
KEYS = KeyRing([TenantKeys(TENANT, (key_hash("secret"),))])


@dataclass(frozen=True)
class Response:
    """One response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes
    """Framing included."""


@dataclass
class Served:
    """A server that listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A client's connection, torn down at the end."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def send(self, data: bytes) -> bytes:
        """Everything the server answers to these bytes until it closes."""
        async with self.connection() as (reader, writer):
            writer.write(data)
            return await reader.read()

    async def ask(self, line: str, *headers: str, body: bytes = b"") -> Response:
        """One request on a connection of its own, and its whole response."""
        length = (f"Content-Length: {len(body)}",) if body else ()
        lines = (line, "Host: x", "Connection: close", *length, *headers, "", "")
        return parsed(await self.send("\r\n".join(lines).encode() + body))


def parsed(data: bytes) -> Response:
    """A response taken apart."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Response(int(status.split()[1]), headers, body)


@asynccontextmanager
async def served(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    plain: PlainApi | None = None,
    crowd: Crowd | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Served]:
    """Serve while the block runs, with the settings that matter as the gateway has them.

    Args:
        handler: answers what aiohttp reads.
        plain: answers plain requests past aiohttp; None: they go the same way as all others.
        crowd: counts the connections.
        tls: for the listener; None: plain.
    """
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=BODY_BYTES_MAX)

    server = ApiServer(
        handler,
        request_factory=make_request,
        handler_cancellation=True,
        auto_decompress=False,
        lingering_time=0.05,
        access_log=None,
    )
    server.plain, server.crowd, server.linger_s = plain, crowd, 0.05
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        yield Served(host, port)
    finally:
        await runner.cleanup()


class FakeRelay:
    """Answers every request with `{}`, or does what it is told."""

    def __init__(self) -> None:
        self.requests: list[InferenceRequest] = []
        self.estimated: list[InferenceRequest] = []
        self.turned: list[tuple[str, str, str]] = []
        self.play: Callable[[Sink], Awaitable[None]] | None = None

    async def estimate(self, request: InferenceRequest) -> dict[str, object]:
        self.estimated.append(request)
        return {"decision": "admit"}

    async def carry(self, request: InferenceRequest, sink: Sink) -> None:
        self.requests.append(request)
        if self.play is None:
            await sink.answer(b"{}", {"x-kvgate-backend": "a"})
        else:
            await self.play(sink)

    def turned_away(
        self, endpoint: str, request_id: str, error: ApiError, duration_s: float, came_in: TraceContext
    ) -> None:
        assert duration_s >= 0
        self.turned.append((endpoint, request_id, error.code))

    def models(self) -> dict[str, int | None]:
        return {"m": 4096, "org/big": None}


class House(Served):
    """A served API over a fake relay."""

    def __init__(self, server: Served, relay: FakeRelay) -> None:
        super().__init__(server.host, server.port)
        self.relay = relay
        self.draining = False


@dataclass
class Plain:
    """The API for plain requests."""

    api: Api
    body_bytes_max: int = BODY_BYTES_MAX

    def answer(self, asked: Asked, id_: str, sink: PlainSink) -> Awaitable[Reply | None]:
        return self.api.answer(asked, id_, sink)


@asynccontextmanager
async def serving(
    keys: KeyRing | None = None,
    *,
    plain_way: bool = True,
    crowd: Crowd | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[House]:
    """The API while the block runs; `plain_way`: plain requests go past aiohttp, as in the gateway."""
    relay = FakeRelay()
    api = Api(
        cast("Relay", relay),
        keys or KeyRing(),
        ApiSettings(BODY_BYTES_MAX, DEFAULT_POLICY, 1_700_000_000),
        lambda: house.draining,
    )
    async with served(api.handle, Plain(api) if plain_way else None, crowd, tls) as server:
        house = House(server, relay)
        yield house


def error_of(reply: Response) -> dict[str, object]:
    """The error object of a reply, which has all of its four fields and the headers of every error."""
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-should-retry"] in ("true", "false")
    assert len(reply.headers["x-request-id"]) >= 1
    body = json.loads(reply.body)
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return cast("dict[str, object]", body["error"])
