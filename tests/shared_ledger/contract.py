"""What a store must do, whatever it runs on: one story for the substitute in `make test` and for real servers."""

from __future__ import annotations

from redis.asyncio import Redis

from gateway.shared_ledger.claims import Claim, LedgerSettings
from gateway.shared_ledger.redis_store import RedisStore

TTL_S = 60.0


def settings(prefix: str = "kvgate", ttl_s: float = TTL_S) -> LedgerSettings:
    return LedgerSettings("redis://unused", prefix=prefix, ttl_s=ttl_s)


def claim(
    number: int,
    blocks: int,
    *,
    is_request: bool = True,
    room: int = 100,
    resident: int | None = None,
    wanted: int = 0,
    waited_s: float = 0.0,
    backend: str = "a",
) -> Claim:
    return Claim(backend, number, is_request, blocks, room, resident, 1, wanted, waited_s)


async def grants_what_fits(client: Redis) -> None:
    one, two = RedisStore(client, "one", settings("fits")), RedisStore(client, "two", settings("fits"))
    (first,) = await one.hold([claim(1, 60, resident=50)])
    assert (first.granted, first.replicas, first.blocks) == (True, 1, 0)
    (second,) = await two.hold([claim(1, 41)])
    assert (second.granted, second.replicas, second.blocks, second.resident_blocks) == (False, 2, 60, 50)
    (third,) = await two.hold([claim(2, 40)])
    assert third.granted
    (fourth,) = await one.hold([claim(2, 61)])
    assert (fourth.granted, fourth.blocks, fourth.sequences) == (False, 40, 1)


async def states_what_is(client: Redis) -> None:
    """Who says what is, and asks for nothing, is believed."""
    one, two = RedisStore(client, "one", settings("states")), RedisStore(client, "two", settings("states"))
    await one.hold([claim(1, 90)])
    (reply,) = await two.hold([claim(1, 30, is_request=False)])
    assert reply.granted
    (reply,) = await one.hold([claim(2, 90, is_request=False)])
    assert reply.blocks == 30


async def knows_late_and_repeated_calls(client: Redis) -> None:
    one, two = RedisStore(client, "one", settings("late")), RedisStore(client, "two", settings("late"))
    await one.hold([claim(2, 80)])
    (repeated,) = await one.hold([claim(2, 80)])
    (late,) = await one.hold([claim(1, 10)])
    assert not repeated.granted
    assert not late.granted
    (reply,) = await two.hold([claim(1, 30)])
    assert (reply.granted, reply.blocks) == (False, 80)


async def promises_room_to_who_waits_longest(client: Redis) -> None:
    one, two, three = (RedisStore(client, name, settings("waits")) for name in ("one", "two", "three"))
    await one.hold([claim(1, 70)])
    (large,) = await two.hold([claim(1, 50, wanted=50, waited_s=5.0)])
    assert not large.granted
    (small,) = await three.hold([claim(1, 10)])
    assert (small.granted, small.promised_blocks, small.others_want) == (False, 50, True)
    (older,) = await three.hold([claim(2, 10, wanted=10, waited_s=9.0)])
    assert (older.granted, older.promised_blocks) == (True, 0)
    await one.hold([claim(2, 0, is_request=False)])
    (large,) = await two.hold([claim(2, 50)])
    assert large.granted


async def keeps_backends_and_deployments_apart(client: Redis) -> None:
    one, other = RedisStore(client, "one", settings("apart")), RedisStore(client, "two", settings("elsewhere"))
    replies = await one.hold([claim(1, 100, backend="a"), claim(2, 100, backend="b")])
    assert [reply.granted for reply in replies] == [True, True]
    (reply,) = await other.hold([claim(1, 100)])
    assert (reply.granted, reply.replicas) == (True, 1)
    keys = {str(key, "ascii") if isinstance(key, bytes) else key for key in await client.keys("{apart:*")}
    assert keys == {"{apart:a}:ends", "{apart:a}:books", "{apart:b}:ends", "{apart:b}:books"}
    assert all([0 < await client.pttl(key) <= 3_600_000 for key in keys])


async def lets_gateways_go(client: Redis) -> None:
    one, two = RedisStore(client, "one", settings("goes")), RedisStore(client, "two", settings("goes"))
    await one.hold([claim(1, 60)])
    await two.hold([claim(1, 40)])
    await one.leave([("a", 25)])
    await one.leave([("a", 25)])
    (reply,) = await two.hold([claim(2, 100)])
    assert (reply.granted, reply.replicas, reply.lapsed_blocks) == (True, 1, 25)


async def comes_back_to_an_empty_server(client: Redis) -> None:
    """Its functions are gone with its entries; both come back by themselves."""
    store = RedisStore(client, "one", settings("empty"))
    await store.hold([claim(1, 60)])
    await client.flushall()
    await client.function_flush()
    (reply,) = await store.hold([claim(2, 60)])
    assert reply.granted
    assert reply.age_s < TTL_S


STORIES = (
    grants_what_fits,
    states_what_is,
    knows_late_and_repeated_calls,
    promises_room_to_who_waits_longest,
    keeps_backends_and_deployments_apart,
    lets_gateways_go,
    comes_back_to_an_empty_server,
)
