"""The store on Redis 7 or Valkey: one function library, two keys in one hash slot per backend."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from importlib import resources
from typing import TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.shared_ledger.claims import Claim, LedgerSettings, Reply, StoreError

TIMEOUT_S = 0.25
"""A round trip takes a fraction of a millisecond; a request waits no longer for a store that hangs."""
CONNECTIONS_MAX = 4
Call: TypeAlias = tuple[str, str, tuple[str | int, ...]]
"""Function, backend, arguments."""
HOLD, LEAVE = "kvgate_hold_1", "kvgate_leave_1"
LIBRARY = (resources.files("gateway.shared_ledger") / "ledger.lua").read_text("utf-8")
"""The functions that run in the store."""


class RedisStore:
    """One gateway's way to the store. One call at a time.

    Args:
        client: its connections.
        gateway: a name that no other gateway has, and none had before.
        settings: of the ledger.
    """

    def __init__(self, client: Redis, gateway: str, settings: LedgerSettings) -> None:
        self._client = client
        self._gateway = gateway
        self._prefix = settings.prefix
        self._ttl_ms = math.ceil(settings.ttl_s * 1000)

    async def hold(self, claims: Sequence[Claim]) -> Sequence[Reply]:
        """See `Store`."""
        calls: list[Call] = [(HOLD, claim.backend, (self._gateway, *words_of(claim, self._ttl_ms))) for claim in claims]
        return [reply_of(answer) for answer in await self._call(calls)]

    async def leave(self, held_blocks: Sequence[tuple[str, int]]) -> None:
        """See `Store`."""
        await self._call([(LEAVE, name, (self._gateway, blocks)) for name, blocks in held_blocks])

    async def aclose(self) -> None:
        """See `Store`."""
        await self._client.aclose()

    async def _call(self, calls: Sequence[Call]) -> list[object]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answers = await self._sent(calls)
                if any("Function not found" in str(answer) for answer in answers if isinstance(answer, RedisError)):
                    # A store that was just started. Functions change nothing when they are called twice.
                    await self._client.function_load(LIBRARY, replace=True)
                    answers = await self._sent(calls)
        except (RedisError, OSError, TimeoutError) as error:
            # What was sent on these connections may still be answered: nobody may take that for the next answer.
            await self._client.connection_pool.disconnect(inuse_connections=True)
            raise StoreError(str(error) or type(error).__name__) from error
        for answer in answers:
            if isinstance(answer, RedisError):
                raise StoreError(str(answer)) from answer
        return answers

    async def _sent(self, calls: Sequence[Call]) -> list[object]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for function, backend, args in calls:
                slot = f"{{{self._prefix}:{backend}}}"
                _ = pipeline.fcall(function, 2, f"{slot}:ends", f"{slot}:books", *map(str, args))
            return list(await pipeline.execute(raise_on_error=False))


def open_store(settings: LedgerSettings, gateway: str) -> RedisStore:
    """The store; nothing is sent yet.

    Raises:
        ValueError: the URL makes no sense to the client library.
    """
    client = Redis.from_url(
        settings.url,
        password=settings.password,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        max_connections=CONNECTIONS_MAX,
        client_name="kvgate",
        driver_info=None,  # to find it out, files are read in the middle of a call
    )
    return RedisStore(client, gateway, settings)


def words_of(claim: Claim, ttl_ms: int) -> tuple[int, ...]:
    """A claim as arguments."""
    return (
        claim.number,
        ttl_ms,
        int(claim.is_request),
        claim.blocks,
        claim.room_blocks,
        -1 if claim.resident_blocks is None else claim.resident_blocks,
        claim.sequences,
        claim.wanted_blocks,
        int(claim.waited_s * 1000),
    )


def reply_of(answer: object) -> Reply:
    """What the store answers.

    Raises:
        StoreError: it is not understood.
    """
    if not isinstance(answer, list) or len(answer) != 10 or not all(isinstance(number, int) for number in answer):
        raise StoreError("the store answers in a way that is not understood")
    granted, replicas, blocks, resident, sequences, promised, wanted, lapsed, lapsed_now, age_ms = answer
    return Reply(
        granted=bool(granted),
        replicas=replicas,
        blocks=blocks,
        resident_blocks=resident,
        sequences=sequences,
        promised_blocks=promised,
        others_want=bool(wanted),
        lapsed_blocks=lapsed,
        lapsed_now=lapsed_now,
        age_s=age_ms / 1000,
    )
