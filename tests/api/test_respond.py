from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import openai
import pytest
from aiohttp import web

from gateway.api import respond
from gateway.api.respond import BUFFER_MAX_BYTES, HttpSink
from gateway.errors import upstream_error
from tests.api.served import Served, parsed, served
from tests.faults import DONE, LAST_CHUNK, chunk, event

GET_11 = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
Play = Callable[[HttpSink], Awaitable[None]]


@asynccontextmanager
async def playing(play: Play) -> AsyncIterator[Served]:
    """A server whose handler plays one answer into a sink."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        sink = HttpSink(request, {"x-request-id": "r1"})
        await play(sink)
        assert sink.response is not None
        return sink.response

    async with served(handle) as server:
        yield server


async def _stream(sink: HttpSink) -> None:
    await sink.start_stream({"x-kvgate-backend": "a"}, event("a"))
    assert sink.write_chunk(chunk(event("b") + event("c")))
    await sink.end_stream(DONE)


async def _broken(sink: HttpSink) -> None:
    await sink.start_stream({}, event("a"))
    sink.write(event("b"))
    sink.fail(upstream_error("It broke."))


async def test_a_stream_is_chunked_for_http_1_1() -> None:
    """One chunk for each write, whoever framed it: the server's own writer or this one."""
    async with playing(_stream) as server:
        reply = parsed(await server.send(GET_11))
    assert reply.status == 200
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.body == chunk(event("a")) + chunk(event("b") + event("c")) + chunk(DONE) + LAST_CHUNK


async def test_a_stream_is_plain_for_http_1_0() -> None:
    """It ends with the connection."""
    async with playing(_stream) as server:
        reply = parsed(await server.send(GET_10))
    assert "transfer-encoding" not in reply.headers
    assert reply.body == event("a") + event("b") + event("c") + DONE


async def test_a_streams_headers_keep_proxies_from_holding_it_back() -> None:
    """And carry the request's id and the decision."""
    async with playing(_stream) as server:
        headers = parsed(await server.send(GET_11)).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert (headers["x-request-id"], headers["x-kvgate-backend"]) == ("r1", "a")


async def test_a_connection_serves_on_after_a_stream() -> None:
    """The framing is sound: what follows is the next answer."""
    async with playing(_stream) as server:
        both = await server.send(GET_11.replace(b"Connection: close\r\n", b"") + GET_11)
    assert both.count(b"HTTP/1.1 200") == 2
    assert both.count(LAST_CHUNK) == 2
    assert both.endswith(LAST_CHUNK)


async def test_a_whole_answer_is_json_as_it_came() -> None:
    """With a length, and the headers of the decision."""

    async def play(sink: HttpSink) -> None:
        await sink.answer(b'{"a": 1}', {"x-kvgate-backend": "a"})

    async with playing(play) as server:
        reply = parsed(await server.send(GET_11))
    assert (reply.status, reply.body) == (200, b'{"a": 1}')
    assert reply.headers["content-type"] == "application/json"
    assert (reply.headers["content-length"], reply.headers["x-request-id"]) == ("8", "r1")


@pytest.mark.parametrize("request_", [GET_11, GET_10])
async def test_a_broken_stream_tells_so_and_never_looks_complete(request_: bytes) -> None:
    """The error as an event; neither `[DONE]` nor a last chunk."""
    async with playing(_broken) as server:
        body = parsed(await server.send(request_)).body
    error = json.loads(body[body.index(b'{"error"') :].split(b"\n")[0])["error"]
    assert error == {"message": "It broke.", "type": "server_error", "param": None, "code": "upstream_error"}
    assert b"[DONE]" not in body
    if request_ == GET_11:
        assert body.startswith(chunk(event("a")) + chunk(event("b")))
        assert not body.endswith(LAST_CHUNK)


async def test_the_client_library_raises_on_a_broken_stream() -> None:
    """After it gave out what had come."""
    async with (
        playing(_broken) as server,
        openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client,
    ):
        stream = await client.completions.create(model="m", prompt="p", stream=True)
        texts = []
        with pytest.raises(openai.APIError, match="It broke"):  # noqa: PT012  # what came before the error counts
            async for part in stream:
                texts.append(part.choices[0].text)  # noqa: PERF401
        assert texts == ["a", "b"]


async def test_a_client_that_does_not_read_is_noticed_and_waited_for() -> None:
    """Writes ask for a pause once the transport holds too much; reading ends it, and nothing is lost."""
    full, total = asyncio.Event(), 0

    async def play(sink: HttpSink) -> None:
        nonlocal total
        await sink.start_stream({}, event("a"))
        block = event("x" * 60_000)
        for _ in range(400):
            total += len(block)
            if not sink.write(block):
                assert sink._transport is not None
                assert sink._transport.get_write_buffer_size() > BUFFER_MAX_BYTES
                full.set()
                await sink.drained()
                assert sink._transport.get_write_buffer_size() <= BUFFER_MAX_BYTES
        await sink.end_stream()

    async with playing(play) as server, server.connection() as (reader, writer):
        writer.write(GET_10)
        await full.wait()
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
    assert len(body) == total + len(event("a"))


@pytest.mark.parametrize("how", ["fail", "abort"])
async def test_a_client_that_never_reads_is_cut_off_at_last(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """What is left in the transport does not hold the socket for ever: its end cancels the handler."""
    monkeypatch.setattr(respond, "FLUSH_MAX_S", 0.01)
    cut = asyncio.Event()

    async def play(sink: HttpSink) -> None:
        await sink.start_stream({}, event("a"))
        while sink.write(event("x" * 60_000)):
            pass
        if how == "fail":
            sink.fail(upstream_error("It broke."))
        else:
            sink.abort()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cut.set()

    async with playing(play) as server, server.connection() as (_, writer):
        writer.write(GET_10)
        await cut.wait()


async def test_writes_to_a_client_that_left_go_nowhere() -> None:
    """They happen in a read callback of the engine's connection: nothing may come back up there."""
    left, done = asyncio.Event(), asyncio.Event()

    async def play(sink: HttpSink) -> None:
        await sink.start_stream({}, event("a"))
        try:
            await left.wait()
        finally:
            assert sink.write(event("b"))
            sink.fail(upstream_error("It broke."))
            sink.abort()
            done.set()

    async with playing(play) as server:
        async with server.connection() as (reader, writer):
            writer.write(GET_11)
            await reader.readuntil(b"\n\n")
        await done.wait()
