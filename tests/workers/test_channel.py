"""The channel between two processes: whole messages, in order, and one word when the other is gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from gateway.workers import channel as channel_module
from gateway.workers.channel import Channel


class End:
    """One end, and what came there."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.is_lost = asyncio.Event()
        self.losses = 0
        self.enough = asyncio.Event()
        self.expected = 0
        self.channel = Channel(msgspec.msgpack.Decoder(bytes), self._lost)

    def hear(self, message: bytes) -> None:
        self.heard.append(message)
        if len(self.heard) >= self.expected:
            self.enough.set()

    async def hears(self, count: int) -> list[bytes]:
        """So many messages, once they have come."""
        self.expected = count
        if len(self.heard) < count:
            self.enough.clear()
            await asyncio.wait_for(self.enough.wait(), 8)
        return self.heard

    def _lost(self) -> None:
        self.losses += 1
        self.is_lost.set()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[End, End]]:
    """Two ends that speak to each other."""
    ends = (End(), End())
    for end, one in zip(ends, socket.socketpair(), strict=True):
        one.setblocking(False)
        await end.channel.open(one, end.hear)
    yield ends
    for end in ends:
        end.channel.close()
    await asyncio.sleep(0)


async def test_messages_arrive_whole_and_in_order() -> None:
    """However large they are, and however many fall into one moment or into one read."""
    sent = [bytes([number % 256]) * size for number, size in enumerate((0, 1, 300_000, 3, 2_000_000, *range(500)))]
    async with pair() as (ours, theirs):
        for message in sent:
            ours.channel.send(message)
        theirs.channel.send(b"back")
        assert await theirs.hears(len(sent)) == sent
        assert await ours.hears(1) == [b"back"]


async def test_what_is_sent_before_it_is_open_waits() -> None:
    ours, theirs = socket.socketpair()
    end, other = End(), End()
    end.channel.send(b"early")
    await asyncio.sleep(0)
    await other.channel.open(theirs, other.hear)
    await end.channel.open(ours, end.hear)
    assert await other.hears(1) == [b"early"]
    end.channel.close()
    await asyncio.wait_for(other.is_lost.wait(), 8)


async def test_a_close_sends_what_is_left_and_the_other_is_told_once() -> None:
    """Who closed is told nothing, and what is sent later goes nowhere."""
    async with pair() as (ours, theirs):
        ours.channel.send(b"last")
        ours.channel.close()
        ours.channel.send(b"too late")
        await asyncio.wait_for(theirs.is_lost.wait(), 8)
        assert (theirs.heard, theirs.losses, ours.losses) == ([b"last"], 1, 0)
        theirs.channel.send(b"nobody there")


async def test_who_reads_nothing_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "UNSENT_MAX_BYTES", 1 << 20)
    ours, theirs = socket.socketpair()
    with theirs:
        end = End()
        await end.channel.open(ours, end.hear)
        for _ in range(8):
            end.channel.send(bytes(1 << 20))
            await asyncio.sleep(0)
        await asyncio.wait_for(end.is_lost.wait(), 8)
        assert end.losses == 1


async def test_a_frame_that_nobody_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is larger than any message: the other end is not what it should be, and is not read any further."""
    monkeypatch.setattr(channel_module, "FRAME_MAX_BYTES", 1 << 10)
    async with pair() as (ours, theirs):
        ours.channel.send(bytes(1 << 11))
        ours.channel.send(b"more")
        await asyncio.wait_for(theirs.is_lost.wait(), 8)
        assert theirs.heard == []
        await asyncio.wait_for(ours.is_lost.wait(), 8)
