"""Sends the corpus of `tests.smuggling`, each payload on a connection of its own, and keeps what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeAlias

from tests.smuggling import Payload

Connect: TypeAlias = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

AT_ONCE = 32
QUIET_S = 0.3
"""A connection that brings nothing for so long waits for more of a body. Too short a time can only miss a fault."""
PROBE = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
"""Ends a connection that is still in step."""


def to(url: str) -> Connect:
    """Connections to an HTTP server."""
    host, _, port = url.removeprefix("http://").partition(":")
    return lambda: asyncio.open_connection(host, int(port))


async def exchange(connect: Connect, data: bytes) -> bytes:
    """All that comes back for these bytes."""
    reader, writer = await connect()
    answer = b""
    try:
        writer.write(data)
        with suppress(TimeoutError, ConnectionError):
            while part := await asyncio.wait_for(reader.read(1 << 16), QUIET_S):
                answer += part
    finally:
        writer.transport.abort()
    return answer


async def answers(connect: Connect, payloads: Iterable[Payload]) -> dict[int, bytes]:
    """What comes back for each payload."""
    slots = asyncio.Semaphore(AT_ONCE)
    got: dict[int, bytes] = {}

    async def one(payload: Payload) -> None:
        async with slots:
            got[payload.number] = await exchange(connect, payload.data + PROBE)

    async with asyncio.TaskGroup() as group:
        for payload in payloads:
            group.create_task(one(payload))
    return got
