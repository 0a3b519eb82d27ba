"""What the demo asks its servers: the gateway's state, and how often each engine had to preempt."""

from __future__ import annotations

import asyncio
import http.client
from urllib.parse import urlsplit

import msgspec

from gateway.backends.exposition import parse

ANSWER_MAX_S = 2.0
OK = 200
PREEMPTIONS = b"vllm:num_preemptions_total"


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A backend's KV cache in the gateway's books; tokens."""

    name: str
    capacity_tokens: int
    resident_tokens: int
    reserved_tokens: int
    draining_tokens: int
    foreign_tokens: int
    headroom_tokens: int
    requests: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is booked: all of it is headroom."""
        booked = self.reserved_tokens + self.draining_tokens + self.foreign_tokens + self.requests
        return booked == 0 and self.headroom_tokens == self.capacity_tokens > 0


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one model and class that wait."""

    depth: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The part of `/api/v1/state` that the demo shows."""

    backends: tuple[Pool, ...]
    queues: tuple[Line, ...]
    queue_requests_max: int

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return sum(line.depth for line in self.queues)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits and all memory is back."""
        return self.queued == 0 and all(pool.is_whole for pool in self.backends)


async def read_state(admin_url: str) -> State:
    """The gateway's state now.

    Raises:
        OSError: it does not answer, or not with its state.
    """
    page = await asyncio.to_thread(fetch, f"{admin_url}/api/v1/state")
    try:
        return msgspec.json.decode(page, type=State)
    except msgspec.DecodeError as error:
        raise OSError(f"{admin_url} answers with something else: {error}") from error


async def read_preemptions(engine_url: str) -> int:
    """How often an engine has thrown out a running request, by its own count.

    Raises:
        OSError: it does not answer, or does not say.
    """
    page = await asyncio.to_thread(fetch, f"{engine_url}/metrics")
    samples = parse(page, frozenset((PREEMPTIONS,))).get(PREEMPTIONS)
    if not samples:
        raise OSError(f"{engine_url} does not count preemptions")
    return round(sum(value for _, value in samples))


def fetch(url: str) -> bytes:
    """A page of the loopback; no proxy is asked, whatever the environment says. Blocks: call it in a thread.

    Raises:
        OSError: no answer in time, or another status than 200.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_MAX_S)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {error!r}") from error
    finally:
        connection.close()
    if answer.status != OK:
        raise OSError(f"{url}: status {answer.status}")
    return body
