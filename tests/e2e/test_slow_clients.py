"""Clients that hold a connection and give nothing: silent, drip by drip, with a body that never ends or never comes.

Limits are short only where they must be met: no test depends on a good request being quick.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from gateway import http_front
from gateway.api import body_limits, server
from gateway.api.server import ApiServer
from tests.e2e.stand import Stand, gateway
from tests.faults import FaultyEngine, response

LIMIT_S = 0.1
WITHIN_S = 20.0
"""How long a test waits for what must happen after `LIMIT_S`."""
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"model":"m","prompt":"hi"}'
GOOD = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class House:
    """A gateway with little patience, and the engine behind it."""

    def __init__(self, stand: Stand, engine: FaultyEngine, patch: pytest.MonkeyPatch) -> None:
        self._stand = stand
        self._engine = engine
        self._patch = patch

    def shut_out_the_silent(self) -> None:
        """From now on, who connects and says nothing is not waited for."""
        self._patch.setattr(ApiServer, "silent_s", LIMIT_S)

    @property
    def carried(self) -> int:
        """Requests that reached the engine."""
        return sum(request.line.startswith(b"POST") for request in self._engine.requests)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        host, _, port = self._stand.running.api_url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            async with asyncio.timeout(WITHIN_S):
                yield reader, writer
        finally:
            writer.transport.abort()


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(http_front, "LINGER_S", LIMIT_S / 5)
    monkeypatch.setattr(server, "SWEEP_S", LIMIT_S / 5)
    monkeypatch.setattr(ApiServer, "silent_s", WITHIN_S)
    monkeypatch.setattr(ApiServer, "head_s", LIMIT_S)
    monkeypatch.setattr(body_limits, "BODY_GRACE_S", LIMIT_S)
    monkeypatch.setattr(body_limits, "CHUNKED_MAX_S", LIMIT_S)
    async with (
        FaultyEngine((response(b'{"data":[{"id":"m"}]}'),)) as engine,
        gateway({"name": "b0", "url": engine.url, "kind": "openai"}) as stand,
    ):
        yield House(stand, engine, monkeypatch)


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send a byte now and then until the other side closes; gives what it said."""
    reading = asyncio.get_running_loop().create_task(reader.read())
    while not reading.done():
        writer.write(b"x")
        await asyncio.wait([reading], timeout=LIMIT_S / 10)
    with suppress(ConnectionResetError):  # The answer to what dripped after the end, which may overtake what was said.
        return await reading
    return b""


def status_and_code(answer: bytes) -> tuple[int, str]:
    """Of the one answer on a connection that then closed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


async def test_a_silent_connection_is_closed(house: House) -> None:
    """Without a word: nobody has asked."""
    house.shut_out_the_silent()
    async with house.connection() as (reader, _):
        assert await reader.read() == b""


@pytest.mark.parametrize("begun", [b"P", b"\r\n", HEAD, HEAD + b"X: y", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_end_is_an_error(house: House, begun: bytes) -> None:
    """408 when its time is over, and the connection closes."""
    async with house.connection() as (reader, writer):
        writer.write(begun)
        assert status_and_code(await reader.read()) == (408, "request_timeout")


async def test_a_head_that_drips_gets_no_more_time(house: House) -> None:
    """A byte now and then does not start the clock again."""
    async with house.connection() as (reader, writer):
        writer.write(HEAD + b"X: ")
        assert (await drip(reader, writer))[:12] in (b"HTTP/1.1 408", b"")
    assert house.carried == 0


async def test_a_second_head_is_waited_for_no_longer(house: House) -> None:
    """A good request buys no time for a bad one, in whichever way the connection is read."""
    for first in (GOOD, GOOD.replace(b"Host: x", b"Host: x\r\nTE: trailers")):
        async with house.connection() as (reader, writer):
            writer.write(first)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            await reader.readexactly(len(b'{"data":[{"id":"m"}]}'))
            writer.write(HEAD)
            assert status_and_code(await reader.read()) == (408, "request_timeout")
    assert house.carried == 2


async def test_a_connection_between_two_requests_may_be_silent(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what keeping it alive is for: it outlives one that came later and never asked."""
    for line in (b"", b"TE: trailers\r\n"):
        request = b"GET /health HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n"
        async with house.connection() as (reader, writer):
            for _ in range(2):
                writer.write(request)
                assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200 ")
                house.shut_out_the_silent()
                async with house.connection() as (other, _):
                    assert await other.read() == b""
                monkeypatch.setattr(ApiServer, "silent_s", WITHIN_S)


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 100\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nff\r\n",
    ],
)
async def test_a_body_that_does_not_come_is_an_error(house: House, framing: bytes) -> None:
    """408, and nothing of it reached an engine."""
    async with house.connection() as (reader, writer):
        writer.write(HEAD + framing)
        assert status_and_code(await reader.read()) == (408, "request_timeout")
    assert house.carried == 0


async def test_a_body_that_drips_gets_no_more_time(house: House) -> None:
    """Its length says how long it may take."""
    async with house.connection() as (reader, writer):
        writer.write(HEAD + b"Content-Length: 1000\r\n\r\n")
        assert (await drip(reader, writer))[:12] in (b"HTTP/1.1 408", b"")
    assert house.carried == 0


@pytest.mark.parametrize("length", [100_000_000, 2**40])
async def test_a_length_that_is_too_much_is_refused_unread(house: House, length: int) -> None:
    """Before a byte of the body has come."""
    async with house.connection() as (reader, writer):
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % length)
        assert status_and_code(await reader.read()) == (413, "request_too_large")


async def test_a_body_without_end_is_cut(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same size, chunk by chunk; what was sent is not kept."""
    monkeypatch.setattr(body_limits, "CHUNKED_MAX_S", WITHIN_S)
    chunk = b"40000\r\n" + b" " * 2**18 + b"\r\n"
    async with house.connection() as (reader, writer):
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        reading = asyncio.get_running_loop().create_task(reader.readuntil(b"}}"))
        sent = 0
        while not reading.done():
            writer.write(chunk)
            sent += len(chunk)
            await asyncio.wait([reading], timeout=0.001)
            assert sent < 100_000_000
        assert status_and_code(await reading) == (413, "request_too_large")
    assert house.carried == 0


async def test_a_body_shorter_than_it_says_is_no_request(house: House) -> None:
    """The client ends its direction, or the connection, in the middle: an engine never sees half a body."""
    for ends in ("half", "whole"):
        async with house.connection() as (reader, writer):
            writer.write(HEAD + b"Content-Length: 1000\r\n\r\n" + BODY)
            if ends == "half":
                writer.write_eof()
                assert not (await reader.read()).startswith(b"HTTP/1.1 2")
    assert house.carried == 0


async def test_slow_clients_keep_nobody_waiting(house: House) -> None:
    """With a hundred of them about, a good request is served, and all of them are let go."""

    async def slow(number: int) -> bytes:
        async with house.connection() as (reader, writer):
            writer.write((b"", b"POST /v1", HEAD, HEAD + b"Content-Length: 9\r\n\r\n{")[number % 4])
            with suppress(ConnectionResetError):  # It was closed for its silence while its bytes were on their way.
                return await reader.read()
            return b""

    async with house.connection() as (reader, writer), asyncio.TaskGroup() as group:
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b'{"status":"ok"}')
        house.shut_out_the_silent()
        slow_ones = [group.create_task(slow(number)) for number in range(100)]
        writer.write(GOOD)
        assert (await reader.readuntil(b"}]}")).startswith(b"HTTP/1.1 200 ")
    assert {task.result()[9:12] for task in slow_ones} <= {b"", b"408"}
    assert house.carried == 1
