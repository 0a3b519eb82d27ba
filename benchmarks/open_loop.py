"""Clients that come when a trace says so, however slow the server is, and leave when the first token takes too long."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from benchmarks.scaled_trace import prompt_ids
from gateway.simulation.workload import Request
from tests.engines.incoming import Incoming
from tests.engines.servers import MODEL_NAME

ANSWER_WAIT_MAX_S = 120.0
"""For a whole answer whose first token has come."""
RETRY_AFTER_DEFAULT_S = 1.0


class End(enum.Enum):
    """How a request ended for its client."""

    SERVED = "served"
    REFUSED = "refused"
    LEFT = "left"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Client:
    """What all clients have in common."""

    base_url: str
    """The server, without `/v1`."""
    patience_s: float
    """From its arrival to its first token; then a client leaves."""
    obeys_retry_after: bool = False
    """Comes again when a 429 says so, as long as its patience lasts."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one client saw. Times count from its arrival, not from when it was sent."""

    end: End
    ended_s: float
    """On the clock on which `Request.arrives_s` is."""
    first_token_s: float | None = None
    gaps_s: tuple[float, ...] = ()
    output_tokens: int = 0
    error: str = ""

    @property
    def token_s(self) -> float:
        """Mean time per output token after the first one."""
        return sum(self.gaps_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


async def replay(client: Client, requests: Sequence[Request], seed: int) -> list[Seen]:
    """Sends each request at its time; comes back when all have ended. Failures are results."""
    source = random.Random(seed)
    bodies = [_body(request, source) for request in requests]
    async with _session() as session, asyncio.TaskGroup() as tasks:
        began_at = asyncio.get_running_loop().time()
        running = [
            tasks.create_task(_send(session, client, body, _Stream(began_at, began_at + request.arrives_s)))
            for request, body in zip(requests, bodies, strict=True)
        ]
    return [task.result() for task in running]


async def closed_loop(client: Client, requests: Sequence[Request], concurrency: int, duration_s: float) -> list[Seen]:
    """Sends them one after the other, so many at once, and cuts off what is left at the end.

    Raises:
        ValueError: they did not last so long.
    """
    loop = asyncio.get_running_loop()
    source = random.Random(0)
    waiting = [_body(request, source) for request in reversed(requests)]
    seen: list[Seen] = []
    async with _session() as session:
        began_at = loop.time()

        async def worker() -> None:
            while waiting:
                seen.append(await _send(session, client, waiting.pop(), _Stream(began_at, loop.time())))

        try:
            async with asyncio.timeout(duration_s), asyncio.TaskGroup() as tasks:
                for _ in range(concurrency):
                    tasks.create_task(worker())
        except TimeoutError:
            return seen
    raise ValueError(f"{len(requests)} requests do not last {duration_s:.0f} s")


def _session() -> aiohttp.ClientSession:
    # A connection per request, so that a client that leaves is seen to leave.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=None)
    )


def _body(request: Request, source: random.Random) -> bytes:
    return msgspec.json.encode(
        {
            "model": MODEL_NAME,
            "prompt": prompt_ids(request, source),
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )


@dataclass(slots=True)
class _Stream:
    """One client's stream as it comes in."""

    began_at: float
    arrived_at: float
    incoming: Incoming = field(default_factory=Incoming)

    def seen(self, end: End, error: str = "") -> Seen:
        incoming = self.incoming
        return Seen(
            end,
            asyncio.get_running_loop().time() - self.began_at,
            incoming.chunks_at[0] - self.arrived_at if incoming.chunks_at else None,
            incoming.gaps_s,
            incoming.output_tokens,
            error or incoming.error,
        )


async def _send(session: aiohttp.ClientSession, client: Client, body: bytes, stream: _Stream) -> Seen:
    """Waits for its arrival, then sends it, again if need be, until it ends."""
    loop, incoming = asyncio.get_running_loop(), stream.incoming
    await asyncio.sleep(stream.arrived_at - loop.time())
    leaves_at = stream.arrived_at + client.patience_s
    try:
        async with asyncio.timeout_at(leaves_at) as patience:
            while True:
                retry_after_s = await _attempt(session, client, body, stream, patience)
                if retry_after_s is None:
                    return stream.seen(End.SERVED if incoming.is_done and not incoming.error else End.FAILED)
                if not client.obeys_retry_after or loop.time() + retry_after_s > leaves_at:
                    return stream.seen(End.REFUSED)
                await asyncio.sleep(retry_after_s)
    except TimeoutError:
        return stream.seen(End.FAILED, "the answer took too long") if incoming.chunks_at else stream.seen(End.LEFT)
    except aiohttp.ClientError as trouble:
        return stream.seen(End.FAILED, repr(trouble))


async def _attempt(
    session: aiohttp.ClientSession, client: Client, body: bytes, stream: _Stream, patience: asyncio.Timeout
) -> float | None:
    """One try; the seconds to wait before another if it was refused for now, else None."""
    loop = asyncio.get_running_loop()
    headers = {"content-type": "application/json"}
    async with session.post(f"{client.base_url}/v1/completions", data=body, headers=headers) as response:
        if response.status == 429:
            return float(response.headers.get("retry-after", RETRY_AFTER_DEFAULT_S))
        if response.status != 200:
            stream.incoming.error = f"{response.status} {(await response.text())[:300]}"
            return None
        async for line in response.content:
            if line.startswith(b"data: "):
                was_waiting = not stream.incoming.chunks_at
                stream.incoming.take(line.removeprefix(b"data: ").strip(), loop.time())
                if was_waiting and stream.incoming.chunks_at:
                    patience.reschedule(loop.time() + ANSWER_WAIT_MAX_S)
    return None
