"""Clients of a replay: how they count what a server does to them. The server here is a small fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.open_loop import Client, End, closed_loop, replay
from benchmarks.scaled_trace import spelt_output_tokens
from gateway.simulation.workload import Request

REFUSED_ONCE, NEVER, BROKEN, CUT, ERROR = 201, 202, 203, 204, 205
"""Lengths of answers that tell the server to misbehave."""
PATIENCE_S = 0.1


@dataclass(slots=True)
class Fake:
    """Streams one chunk per token and `usage` at the end."""

    seen: list[int] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        length = spelt_output_tokens((await request.json())["prompt"])
        self.seen.append(length)
        if length == REFUSED_ONCE and self.seen.count(length) == 1:
            return web.Response(status=429, headers={"retry-after": "0"})
        if length == BROKEN:
            return web.Response(status=500, text="broken")
        if length == NEVER:
            await asyncio.Event().wait()
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(length):
            await response.write(b'data: {"choices": [{"text": "x"}]}\n\n')
        if length == ERROR:
            await response.write(b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n')
        elif length != CUT:
            usage = b'data: {"choices": [], "usage": {"completion_tokens": %d}}\n\ndata: [DONE]\n\n' % length
            await response.write(usage)
        return response


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """The fake on a free port."""
    app = web.Application()
    app.router.add_post("/v1/completions", Fake().answer)
    server = TestServer(app)
    await server.start_server()
    yield server
    await server.close()


def client(server: TestServer, *, obeys_retry_after: bool = False, patience_s: float = 10.0) -> Client:
    return Client(str(server.make_url("")).rstrip("/"), patience_s, obeys_retry_after)


async def test_a_served_request_has_its_tokens_and_times(server: TestServer) -> None:
    """Tokens as `usage` counts them, and one gap fewer than chunks."""
    first, second = await replay(client(server), [Request(0.0, 10, 5), Request(0.01, 10, 1)], seed=1)
    assert (first.end, first.output_tokens, len(first.gaps_s)) == (End.SERVED, 5, 4)
    assert first.token_s == pytest.approx(sum(first.gaps_s) / 4)
    assert first.first_token_s is not None
    assert 0 < first.first_token_s <= first.ended_s
    assert (second.end, second.output_tokens, second.token_s) == (End.SERVED, 1, 0)


@pytest.mark.parametrize(
    ("length", "end", "error"),
    [
        (REFUSED_ONCE, End.REFUSED, ""),
        (BROKEN, End.FAILED, "500 broken"),
        (CUT, End.FAILED, ""),
        (ERROR, End.FAILED, "out of memory"),
    ],
)
async def test_what_goes_wrong_is_a_result(server: TestServer, length: int, end: End, error: str) -> None:
    """A 429, another error, a stream without its end, and an error in a stream."""
    (seen,) = await replay(client(server), [Request(0.0, 10, length)], seed=1)
    assert seen.end is end
    assert error in seen.error


async def test_a_refused_client_comes_again_if_it_obeys(server: TestServer) -> None:
    """After the time that it was told, and is served."""
    (seen,) = await replay(client(server, obeys_retry_after=True), [Request(0.0, 10, REFUSED_ONCE)], seed=1)
    assert (seen.end, seen.output_tokens) == (End.SERVED, REFUSED_ONCE)


async def test_a_client_leaves_when_its_patience_ends(server: TestServer) -> None:
    """Without a first token it does not wait for ever."""
    (seen,) = await replay(client(server, patience_s=PATIENCE_S), [Request(0.0, 10, NEVER)], seed=1)
    assert (seen.end, seen.first_token_s) == (End.LEFT, None)
    assert seen.ended_s >= PATIENCE_S


async def test_a_closed_loop_needs_enough_requests(server: TestServer) -> None:
    """Requests that end before the time is up would make the engine look slow."""
    with pytest.raises(ValueError, match="2 requests do not last 10 s"):
        await closed_loop(client(server), [Request(0.0, 10, 3)] * 2, concurrency=1, duration_s=10.0)


async def test_a_closed_loop_cuts_off_what_is_left(server: TestServer) -> None:
    """A request that hangs when the time is up does not count."""
    requests = [Request(0.0, 10, NEVER)] * 3
    assert await closed_loop(client(server), requests, concurrency=2, duration_s=PATIENCE_S) == []
