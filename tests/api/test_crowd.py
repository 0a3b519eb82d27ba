"""Connections beyond the limit: told why, let go, and never counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web

from gateway.api.crowd import LINGERING_MAX, Crowd
from gateway.api.server import ApiServer
from tests.api.served import error_of, parsed

ASK = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    """A server with few places."""

    def __init__(self, crowd: Crowd, address: tuple[str, int], stack: AsyncExitStack) -> None:
        self.crowd = crowd
        self._address = address
        self._stack = stack

    async def connect(self) -> Connection:
        """A client, closed at the end."""
        reader, writer = await asyncio.open_connection(*self._address)
        self._stack.callback(writer.close)
        return reader, writer


@asynccontextmanager
async def serving(connections_max: int) -> AsyncIterator[Served]:
    async def hello(_: web.BaseRequest) -> web.Response:
        return web.Response(text="hello")

    server = ApiServer(hello)
    server.crowd = Crowd(connections_max)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with AsyncExitStack() as stack:
            yield Served(server.crowd, runner.addresses[0][:2], stack)
    finally:
        await runner.cleanup()
    assert server.crowd.connections == server.crowd.lingering == 0


async def asked(connection: Connection) -> bytes:
    """The first line of the answer on this connection."""
    reader, writer = connection
    writer.write(ASK)
    answer = await asyncio.wait_for(reader.readuntil(b"hello"), 5)
    return answer.partition(b"\n")[0] + b"\n"


async def ended(connection: Connection) -> bytes:
    """All that comes until the other side ends it."""
    try:
        return await asyncio.wait_for(connection[0].read(), 5)
    except ConnectionError:
        return b""


async def test_one_too_many() -> None:
    """It gets a whole OpenAI error before it asked for anything; then its place is free for nobody's loss."""
    async with serving(2) as server:
        first, second = await server.connect(), await server.connect()
        assert [await asked(each) for each in (first, second)] == [b"HTTP/1.1 200 OK\r\n"] * 2
        reply = parsed(await ended(await server.connect()))
        assert (reply.status, error_of(reply)["code"]) == (503, "gateway_overloaded")
        assert (reply.headers["connection"], reply.headers["retry-after"]) == ("close", "2")
        assert reply.headers["x-should-retry"] == "true"
        assert (server.crowd.connections, server.crowd.turned_away) == (2, 1)
        first[1].close()
        await first[1].wait_closed()
        while server.crowd.connections > 1:  # noqa: ASYNC110  # the server hears of it in one of its next turns
            await asyncio.sleep(0)
        assert await asked(await server.connect()) == b"HTTP/1.1 200 OK\r\n"


async def test_a_crowd_of_those_is_just_closed() -> None:
    """Reading the answer takes time, and time takes descriptors: there is little of both. The books stay right."""
    async with serving(1) as server:
        inside = await server.connect()
        assert await asked(inside) == b"HTTP/1.1 200 OK\r\n"
        answers = [await ended(await server.connect()) for _ in range(3)]
        told = [answer for answer in answers if answer]
        assert told
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in told)
        together = [await server.connect() for _ in range(20)]
        assert server.crowd.lingering <= 1
        assert not all([await ended(each) for each in together])
        assert server.crowd.connections == 1
        assert server.crowd.turned_away == 23
        assert await asked(inside) == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(("places", "connections", "dense"), [(100, 80, False), (100, 81, True), (1, 1, True)])
def test_when_idle_connections_are_a_burden(places: int, connections: int, dense: bool) -> None:
    """Only when few places are left."""
    crowd = Crowd(places)
    crowd.connections = connections
    assert crowd.is_dense is dense


def test_never_more_than_so_many_linger() -> None:
    """However many descriptors there are."""
    assert LINGERING_MAX <= 256
