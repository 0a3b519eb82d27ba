"""The store's client and its functions, on a substitute for the server; the live tests run the same on a real one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import fakeredis
import pytest
from fakeredis.commands_mixins import server_mixin
from redis.asyncio import Redis

from gateway.shared_ledger.claims import LedgerSettings, StoreError
from gateway.shared_ledger.redis_store import HOLD, RedisStore, open_store, reply_of, words_of
from tests.shared_ledger.contract import STORIES, claim, settings
from tests.shared_ledger.lua_server import LuaServer


@pytest.fixture
def client() -> Redis:
    server = fakeredis.FakeServer(version=(7,))
    # Its first connection reads files; that is not to happen on the loop.
    fakeredis.FakeRedis(server=server).ping()
    return fakeredis.FakeAsyncRedis(server=server)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_contract(story: Callable[[Redis], Awaitable[None]], client: Redis) -> None:
    await story(client)
    await client.aclose()


class Clock:
    """The server's, set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def time(self) -> float:
        return self.now_s


async def test_entries_lapse_by_the_time_of_the_server(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(server_mixin, "time", clock)
    one = RedisStore(client, "one", settings(ttl_s=5.0))
    two = RedisStore(client, "two", settings(ttl_s=5.0))
    await one.hold([claim(1, 60)])
    for number in range(1, 5):
        clock.now_s += 1.0
        (reply,) = await two.hold([claim(number, 10)])
        assert (reply.replicas, reply.age_s) == (2, number)
    clock.now_s += 1.0
    (reply,) = await two.hold([claim(6, 90)])
    assert (reply.granted, reply.replicas) == (True, 1)
    assert (reply.lapsed_blocks, reply.lapsed_now) == (60, 1)
    (reply,) = await two.hold([claim(7, 90)])
    assert (reply.lapsed_blocks, reply.lapsed_now) == (60, 0)
    clock.now_s += 5.1  # nobody was there for a whole TTL: it begins anew
    (reply,) = await two.hold([claim(8, 90)])
    assert reply.age_s == 0
    await client.aclose()


async def test_the_quick_substitute_answers_as_the_slow_one(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stories in virtual time use the functions on tables."""
    clock = Clock()
    monkeypatch.setattr(server_mixin, "time", clock)
    quick = LuaServer(clock.time)
    stores = {name: RedisStore(client, name, settings(ttl_s=5.0)) for name in ("one", "two", "three")}
    for number in range(1, 120):
        name = ("one", "two", "three")[number * number % 3 if number % 5 else 2]
        clock.now_s += (number * 37 % 17) / 8
        asked = claim(
            number,
            number * 31 % 70,
            is_request=number % 3 > 0,
            resident=None if number % 4 else number % 9,
            wanted=number * 7 % 50 if number % 6 == 0 else 0,
            waited_s=number % 11,
        )
        (reply,) = await stores[name].hold([asked])
        assert reply == reply_of(quick.call(HOLD, (name, *words_of(asked, 5000))))
    await client.aclose()


@pytest.mark.parametrize("is_there", [False, True])
async def test_nobody_at_home_and_silence_are_told_in_time(is_there: bool) -> None:
    """A server that takes the connection and says nothing must not hold up requests."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if is_there:
            silent.listen()
        port = silent.getsockname()[1]
        store = await asyncio.to_thread(open_store, LedgerSettings(f"redis://127.0.0.1:{port}"), "one")
        with pytest.raises(StoreError):
            await store.hold([claim(1, 1)])
        await store.aclose()


@pytest.mark.parametrize("answer", [None, [], [1] * 9, ["1"] * 10, b"OK"])
def test_an_answer_that_is_none_is_no_answer(answer: object) -> None:
    with pytest.raises(StoreError, match="not understood"):
        reply_of(answer)
