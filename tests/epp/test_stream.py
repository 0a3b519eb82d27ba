"""One stream: read ahead, watched while something else is awaited, written to by one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest

from gateway.epp.messages import Body, Head, Message, ProtocolError, Reply, Side, Trailers
from gateway.epp.stream import READ_AHEAD, GoneError, Stream

HEAD = Head(Side.REQUEST, {})
ANSWERED = Head(Side.RESPONSE, {})


def piece(data: bytes, *, last: bool = False) -> Body:
    return Body(Side.REQUEST, data, last)


class Wire:
    """What a stream reads from and writes to."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self.taken = 0
        self.written: list[Reply] = []
        self.writers = 0

    async def read(self) -> AsyncIterator[Message]:
        while (message := await self.messages.get()) is not None:
            self.taken += 1
            yield message

    async def write(self, reply: Reply) -> None:
        self.writers += 1
        assert self.writers == 1
        await asyncio.sleep(0)
        self.writers -= 1
        self.written.append(reply)

    def say(self, messages: Iterable[Message | None]) -> None:
        for message in messages:
            self.messages.put_nowait(message)


@asynccontextmanager
async def opened(*messages: Message | None) -> AsyncIterator[tuple[Stream, Wire]]:
    wire = Wire()
    wire.say(messages)
    async with asyncio.TaskGroup() as group:
        stream = Stream(wire.read(), wire.write, group)
        try:
            yield stream, wire
        finally:
            stream.close()


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_messages_come_in_order_and_the_end_again_and_again() -> None:
    async with opened(HEAD, piece(b"x"), None) as (stream, _):
        assert await stream.next() is HEAD
        assert await stream.next() == piece(b"x")
        for _ in range(3):
            with pytest.raises(GoneError):
                await stream.next()


async def test_it_reads_ahead_so_far_and_no_further() -> None:
    """Who sends more waits in the network: memory is bounded."""
    async with opened(*[HEAD] * 50) as (stream, wire):
        await turns()
        assert wire.taken == READ_AHEAD + 1
        await stream.next()
        await turns()
        assert wire.taken == READ_AHEAD + 2


@pytest.mark.parametrize("sign", [None, ANSWERED])
@pytest.mark.parametrize("early", [True, False])
async def test_a_wait_ends_when_nobody_waits_for_it(sign: Message | None, early: bool) -> None:
    """At the end of the stream, and at an answer of Envoy's own, even behind trailers and before the wait begins."""
    async with opened() as (stream, wire):
        if early:
            wire.say([Trailers(Side.REQUEST), sign])
            await turns()

        async def wait() -> None:
            async with stream.attentive():
                await asyncio.get_running_loop().create_future()

        waiting = asyncio.get_running_loop().create_task(wait())
        await turns()
        if not early:
            wire.say([Trailers(Side.REQUEST), sign])
        with pytest.raises(GoneError):
            await asyncio.wait_for(waiting, 5.0)


async def test_a_wait_that_ends_by_itself() -> None:
    """What comes after it does not touch it, and its own timeout is its own."""
    async with opened() as (stream, wire):
        async with stream.attentive():
            await asyncio.sleep(0)
        wire.say([None])
        await turns()
        with pytest.raises(GoneError):
            await stream.next()
    async with opened() as (stream, _):
        with pytest.raises(TimeoutError):
            async with stream.attentive():
                raise TimeoutError


@pytest.mark.parametrize(
    ("messages", "body"),
    [
        ([piece(b"a"), piece(b""), piece(b"b", last=True)], (b"ab", False)),
        ([piece(b"a"), Trailers(Side.REQUEST)], (b"a", True)),
        ([piece(b"12345", last=True)], (b"12345", False)),
        ([piece(b"123456", last=True)], None),
        ([piece(b"123"), piece(b"456")], None),
    ],
)
async def test_bodies(messages: list[Message], body: tuple[bytes, bool] | None) -> None:
    """Put together, up to a limit."""
    async with opened(*messages) as (stream, _):
        assert await stream.request_body(5) == body


@pytest.mark.parametrize(("message", "error"), [(None, GoneError), (ANSWERED, GoneError), (HEAD, ProtocolError)])
async def test_bodies_without_end(message: Message | None, error: type[Exception]) -> None:
    async with opened(piece(b"a"), message) as (stream, _):
        with pytest.raises(error):
            await stream.request_body(5)


async def test_writers_take_turns() -> None:
    """gRPC takes one message at a time."""
    async with opened() as (stream, wire):
        stream.send_beside(["a1", "a2", "a3"])
        stream.send_beside(["b1", "b2"])
        await stream.send("c")
        await turns()
        assert sorted(map(str, wire.written)) == ["a1", "a2", "a3", "b1", "b2", "c"]
