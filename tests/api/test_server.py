"""The API's server as a whole: how long it waits for whom, and how it ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.api import server
from gateway.api.plain_head import PlainHeads
from gateway.api.server import ApiServer
from gateway.passage import Sink
from tests.api.served import ASK, parsed, serving
from tests.faults import chunk, event


@pytest.mark.parametrize("asked", [False, True])
async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    """Whether or not it ever asked for anything."""
    monkeypatch.setattr(server, "SWEEP_S", 0.01)
    monkeypatch.setattr(ApiServer, "keepalive_s", 0.05)
    monkeypatch.setattr(ApiServer, "silent_s", 0.05)
    async with serving() as house, house.connection() as (reader, writer):
        if asked:
            writer.write(ASK)
            await reader.readuntil(b"{}")
        assert await reader.read() == b""


async def test_a_connection_that_waits_for_its_answer_is_not_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes."""
    monkeypatch.setattr(server, "SWEEP_S", 0.005)
    monkeypatch.setattr(ApiServer, "keepalive_s", 0.01)

    async def slowly(sink: Sink) -> None:
        await asyncio.sleep(0.1)
        await sink.answer(b"{}", {})

    async with serving() as house:
        house.relay.play = slowly
        assert parsed(await house.send(ASK)).status == 200


async def test_what_clients_show_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads, with the keys in them, are known again only for a moment, also when the last client has left."""
    monkeypatch.setattr(server, "SWEEP_S", 0.005)
    forgotten = asyncio.Event()
    forget = PlainHeads.forget

    def note(heads: PlainHeads) -> None:
        if heads._known:
            forgotten.set()
        forget(heads)

    monkeypatch.setattr(PlainHeads, "forget", note)
    async with serving() as house:
        assert parsed(await house.send(ASK.replace(b"Host: x", b"Host: x\r\nConnection: close"))).status == 200
        await forgotten.wait()


async def test_the_end_of_the_server_cuts_what_goes_on_and_lets_go_of_the_rest() -> None:
    """Idle connections at once; requests are cancelled when their time is over."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def forever(sink: Sink) -> None:
        await sink.start_stream({}, event("a"))
        began.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    async with AsyncExitStack() as clients:
        async with serving() as house:
            house.relay.play = forever
            idle, _ = await clients.enter_async_context(house.connection())
            reader, writer = await clients.enter_async_context(house.connection())
            writer.write(ASK)
            await began.wait()
        assert ended.is_set()
        assert await idle.read() == b""
        assert (await reader.read()).endswith(chunk(event("a")))


async def test_an_answer_that_is_nearly_there_still_goes_out_at_the_end() -> None:
    """And says that it is the last one."""
    began, go = asyncio.Event(), asyncio.Event()

    async def wait(sink: Sink) -> None:
        began.set()
        await go.wait()
        await sink.answer(b"{}", {})

    async with AsyncExitStack() as clients:
        async with serving() as house:
            house.relay.play = wait
            reader, writer = await clients.enter_async_context(house.connection())
            writer.write(ASK)
            await began.wait()
            asyncio.get_running_loop().call_later(0.02, go.set)
        reply = parsed(await reader.read())
    assert (reply.status, reply.headers["connection"]) == (200, "close")
