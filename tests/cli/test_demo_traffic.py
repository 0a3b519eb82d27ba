"""The demo's client against a server that answers, refuses, fails or stops in the middle."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gateway.cli import demo_traffic
from gateway.cli.demo_story import Phase, Refused, Sent
from gateway.cli.demo_traffic import traffic
from gateway.simulation.server import EngineOptions, start_engine

FULL = {"error": {"message": "The queue is full.", "type": "rate_limit_error", "param": None, "code": "queue_full"}}
LATER = {"retry-after": "3", "retry-after-ms": "1"}
CHUNK = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"Once"},"finish_reason":%b}]}\n\n'
)


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A gateway that does the same for every chat."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def refuse(_request: web.Request) -> web.StreamResponse:
    """No room."""
    return web.json_response(FULL, status=429, headers=LATER)


def few(monkeypatch: pytest.MonkeyPatch, requests: int, *, retry_from: int) -> None:
    """A burst that is small and takes no time."""
    monkeypatch.setattr(demo_traffic, "BURST_REQUESTS", requests)
    monkeypatch.setattr(demo_traffic, "BURST_S", 0.0)
    monkeypatch.setattr(demo_traffic, "RETRY_FROM", retry_from)
    monkeypatch.setattr(demo_traffic, "RETRY_EVERY", 1)


async def calm_with(url: str) -> list[Sent]:
    """What became of a calm phase."""
    async with traffic(url, "m") as clients:
        await clients.calm()
        return clients.sent


async def test_calm_requests_are_answered_streamed_and_not() -> None:
    async with start_engine(EngineOptions(model="m", speed=100)) as engine:
        sent = await calm_with(engine.url)
    assert len(sent) == demo_traffic.CALM_REQUESTS
    assert all(one.complete and one.text and not one.fault for one in sent)
    assert {one.streamed: one.pieces > 1 for one in sent} == {True: True, False: False}


async def test_a_refusal_is_kept_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is not tried again by those that shall show it."""
    few(monkeypatch, 3, retry_from=99)
    async with answering(refuse) as url, traffic(url, "m") as clients:
        await clients.burst()
    assert [one.refused for one in clients.sent] == [Refused(429, "queue_full", "3", "The queue is full.")] * 3
    assert not any(one.fault or one.retries for one in clients.sent)


async def test_a_retrying_client_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at first, served when it comes back: the decision is that of the last answer."""
    few(monkeypatch, 5, retry_from=4)

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.headers["x-stainless-retry-count"] == "0":
            return await refuse(request)
        headers = {"x-kvgate-decision": "admitted_after_wait", "x-kvgate-queue-ms": "1500"}
        return web.Response(body=CHUNK % b'"stop"', content_type="text/event-stream", headers=headers)

    async with answering(handle) as url, traffic(url, "m") as clients:
        await clients.burst()
    *_, last = clients.sent
    assert (last.phase, last.retries, last.complete, last.text) == (Phase.RETRY, 1, True, "Once")
    assert (last.decision, last.queued_s, last.refused) == ("admitted_after_wait", 1.5, None)


async def test_what_is_neither_answer_nor_refusal_is_a_fault() -> None:
    """A failure of the server, and a stream that the client takes for whole although its end is missing."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if b'"stream":true' in (await request.read()).replace(b" ", b""):
            return web.Response(body=CHUNK % b"null", content_type="text/event-stream")
        return web.json_response(FULL, status=502)

    async with answering(handle) as url:
        sent = await calm_with(url)
    assert {one.fault for one in sent if one.streamed} == {"the answer has no end"}
    assert all(one.fault.startswith("InternalServerError") for one in sent if not one.streamed)
    assert not any(one.complete or one.refused for one in sent)
