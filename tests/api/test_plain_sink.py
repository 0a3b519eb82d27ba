"""An answer on a plain connection: what goes out, what waits, and what is never written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.api import respond
from gateway.api.asked import Reply
from gateway.api.plain_sink import PlainSink
from gateway.api.respond import BUFFER_MAX_BYTES
from gateway.errors import upstream_error
from gateway.passage import Sink
from tests.api.served import ASK, parsed, serving
from tests.faults import DONE, LAST_CHUNK, chunk, event
from tests.shell import settle


@dataclass
class Pipe(asyncio.Transport):
    """A transport that keeps what is written; `unread` of it wait for the client."""

    written: list[bytes] = field(default_factory=list)
    unread: int = 0
    closing: bool = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unread

    def close(self) -> None:
        self.closing = True

    abort = close


@dataclass
class Way:
    """A connection of which only the transport is there."""

    transport: asyncio.Transport
    closes: bool = False
    waits: int = 0

    async def drained(self) -> None:
        self.waits += 1


async def test_a_whole_answer_is_one_write() -> None:
    """A long body is not copied for that."""
    pipe = Pipe()
    sink = PlainSink(Way(pipe), "r1")
    await sink.answer(b"{}", {"x-kvgate-backend": "a"})
    (data,) = pipe.written
    reply = parsed(data)
    assert (reply.status, reply.body) == (200, b"{}")
    assert (reply.headers["x-request-id"], reply.headers["x-kvgate-backend"]) == ("r1", "a")
    assert (reply.headers["content-type"], reply.headers["content-length"]) == ("application/json", "2")
    long = b"x" * (BUFFER_MAX_BYTES + 1)
    pipe = Pipe()
    await PlainSink(Way(pipe), "r1").answer(long, {})
    assert pipe.written[1] is long or pipe.written[1] == long


@pytest.mark.parametrize("closes", [False, True])
async def test_the_last_answer_of_a_connection_says_so(closes: bool) -> None:
    """Once, whoever wants it: the connection or the answer itself."""
    for reply in (Reply(404, {}, b"{}"), Reply(413, {"connection": "close"}, b"{}", close=True)):
        pipe = Pipe()
        PlainSink(Way(pipe, closes), "r").reply(reply)
        said = pipe.written[0].lower().count(b"\r\nconnection: close\r\n")
        assert said == int(closes or reply.close)


async def test_a_stream_is_a_chunk_for_each_write() -> None:
    """The first with the head."""
    pipe = Pipe()
    sink = PlainSink(Way(pipe), "r1")
    await sink.start_stream({"x-kvgate-backend": "a"}, event("a"))
    assert sink.write(event("b") + event("c"))
    assert sink.write_chunk(chunk(event("d")))
    await sink.end_stream(DONE)
    assert len(pipe.written) == 4
    reply = parsed(b"".join(pipe.written))
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
    chunks = (event("a"), event("b") + event("c"), event("d"), DONE)
    assert reply.body == b"".join(map(chunk, chunks)) + LAST_CHUNK


async def test_a_full_transport_is_waited_for() -> None:
    """At each step that can wait; a write can only say so."""
    pipe = Pipe(unread=BUFFER_MAX_BYTES + 1)
    way = Way(pipe)
    sink = PlainSink(way, "r")
    await sink.start_stream({}, event("a"))
    assert not sink.write(event("b"))
    await sink.drained()
    await sink.end_stream()
    await PlainSink(way, "r").answer(b"{}", {})
    assert way.waits == 4


async def test_nothing_is_written_to_a_client_that_left() -> None:
    """Whoever can be told is told."""
    pipe = Pipe(closing=True)
    sink = PlainSink(Way(pipe), "r")
    with pytest.raises(ConnectionError):
        await sink.answer(b"{}", {})
    with pytest.raises(ConnectionError):
        await sink.start_stream({}, event("a"))
    assert sink.write(event("b"))
    assert pipe.written == []


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0"])
async def test_a_header_cannot_be_split(value: str) -> None:
    """Names and values are our own; a mistake there must not become another header."""
    pipe = Pipe()
    with pytest.raises(ValueError, match="control character"):
        await PlainSink(Way(pipe), "r").answer(b"{}", {"x-kvgate-backend": value})
    with pytest.raises(ValueError, match="control character"):
        await PlainSink(Way(pipe), "r").answer(b"{}", {f"x{value}": "a"})
    assert pipe.written == []


async def test_no_second_answer_follows_a_begun_one() -> None:
    pipe = Pipe()
    sink = PlainSink(Way(pipe), "r")
    await sink.start_stream({}, event("a"))
    with pytest.raises(ConnectionError, match="has begun"):
        sink.reply(Reply(500, {}, b"{}"))
    assert len(pipe.written) == 1


async def test_a_broken_stream_tells_so_and_is_cut() -> None:
    """It never looks complete."""

    async def play(sink: Sink) -> None:
        await sink.start_stream({}, event("a"))
        sink.fail(upstream_error("It broke."))

    async with serving() as house:
        house.relay.play = play
        body = parsed(await house.send(ASK)).body
    assert body.startswith(chunk(event("a")))
    assert b"It broke." in body
    assert not body.endswith(LAST_CHUNK)


async def test_back_pressure_reaches_the_writer_and_ends() -> None:
    """Writes ask for a pause once the transport holds too much; reading ends it, and nothing is lost."""
    full, total = asyncio.Event(), 0

    async def play(sink: Sink) -> None:
        nonlocal total
        await sink.start_stream({}, event("a"))
        block = event("x" * 60_000)
        for _ in range(300):
            total += len(chunk(block))
            if not sink.write(block):
                full.set()
                await sink.drained()
        await sink.end_stream()

    async with serving() as house, house.connection() as (reader, writer):
        house.relay.play = play
        writer.write(ASK.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        await full.wait()
        body = parsed(await reader.read()).body
    assert len(body) == len(chunk(event("a"))) + total + len(LAST_CHUNK)
    assert body.endswith(LAST_CHUNK)


@pytest.mark.parametrize("how", ["fail", "abort"])
async def test_a_client_that_never_reads_is_cut_off_at_last(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What is left in the transport does not hold the socket for ever: its end cancels the request."""
    monkeypatch.setattr(respond, "FLUSH_MAX_S", 0.01)
    cut = asyncio.Event()

    async def play(sink: Sink) -> None:
        await sink.start_stream({}, event("a"))
        while sink.write(event("x" * 60_000)):
            pass
        if how == "fail":
            sink.fail(upstream_error("It broke."))
        else:
            assert isinstance(sink, PlainSink)
            sink.abort()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cut.set()

    async with serving() as house, house.connection() as (_, writer):
        house.relay.play = play
        writer.write(ASK)
        await cut.wait()


async def test_who_waits_for_a_client_that_leaves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for ever."""
    waiting, told = asyncio.Event(), asyncio.Event()

    async def play(sink: Sink) -> None:
        await sink.start_stream({}, event("a"))
        while sink.write(event("x" * 60_000)):
            pass
        waiting.set()
        try:
            await sink.drained()
        except (ConnectionError, asyncio.CancelledError):
            told.set()
            raise

    async with serving() as house:
        house.relay.play = play
        async with house.connection() as (_, writer):
            writer.write(ASK)
            await waiting.wait()
            await settle()
        await told.wait()
