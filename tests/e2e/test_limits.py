"""What becomes of requests where the gateway itself comes to its limits: descriptors, memory, a late event loop."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import aiohttp
import pytest

from gateway.simulation.server import RunningEngine, start_engine
from tests.e2e.stand import SETTLE_MAX_S, SLOW, SMALL, Answer, Stand, gateway, is_retryable

FILES = 128
CLIENTS = 24
"""Places that so many descriptors give."""


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as engine:
        yield engine


@pytest.fixture
async def stand(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    monkeypatch.setattr("gateway.vitals.LAGS_PER_MEMORY", 1 << 60)  # Memory is what the test says.
    async with gateway(engine.url) as stand:
        yield stand


async def test_all_places_are_taken(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client above the limit is told so; when places are scarce, a connection ends with its answer."""
    monkeypatch.setattr("gateway.app.files_max", lambda: FILES)
    async with gateway(engine.url) as stand:
        crowd = [await _connect(stand) for _ in range(CLIENTS)]
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{stand.running.api_url}/health") as answer:
                assert (answer.status, answer.headers["retry-after"]) == (503, "2")
                assert (await answer.json())["error"]["code"] == "gateway_overloaded"
            for _, writer in crowd[:2]:
                writer.close()
                await writer.wait_closed()
            served = await _until(stand, lambda answer: answer.status == 200)
            assert served.headers["connection"] == "close"
        finally:
            for _, writer in crowd:
                writer.close()
        await _until(stand, lambda answer: "connection" not in answer.headers)


async def test_no_descriptor_is_left_for_an_engine(
    stand: Stand, engine: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That says nothing of the engine: it stays in service, and the client is told to come again."""
    loop = asyncio.get_running_loop()
    real = loop.create_connection

    async def none_left(factory: object, host: str | None = None, port: int | None = None, **more: object) -> object:
        if port == urlsplit(engine.url).port:
            raise OSError(errno.EMFILE, "Too many open files")
        return await real(factory, host, port, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(loop, "create_connection", none_left)
    # Those that telemetry left open would do.
    backend = stand.running.backends["b0"]
    monkeypatch.setattr(backend._upstream, "take_idle", lambda _now: None)
    for _ in range(4):
        answer = await stand.complete(max_tokens=2)
        assert (answer.status, answer.error.code) == (503, "gateway_overloaded")
        assert is_retryable(answer)
    await asyncio.sleep(0)
    assert (await stand.state()).backend("b0").state == "ready"
    monkeypatch.undo()
    assert (await stand.complete(max_tokens=2)).status == 200


async def test_memory_that_runs_out(stand: Stand) -> None:
    """New requests are turned away before their body is read; health is told as ever."""
    stand.running.shedding.on_memory(0.95)
    reader, writer = await _connect(stand)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"x-should-retry: true" in head.lower()
    answer = await stand.complete()
    assert (answer.status, answer.error.code) == (503, "gateway_overloaded")
    assert is_retryable(answer)
    assert (await stand.get("/health")).status == 200
    assert (await stand.admin("/api/v1/state")).status == 200
    stand.running.shedding.on_memory(0.5)
    assert (await stand.complete(max_tokens=2)).status == 200
    assert [line.get("error") for line in await stand.settled_log(3)] == ["gateway_overloaded"] * 2 + [None]


async def test_who_runs_already_is_not_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that began goes on to its end."""
    monkeypatch.setattr("gateway.vitals.LAGS_PER_MEMORY", 1 << 60)
    async with start_engine(SLOW) as engine, gateway(engine.url) as stand:
        stream = await stand.openai().completions.create(model="m", prompt="x", max_tokens=8, stream=True)
        await anext(aiter(stream))
        stand.running.shedding.on_memory(0.95)
        assert (await stand.complete()).status == 503
        ends = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
        assert ends[-1] == "length"


async def _until(stand: Stand, holds: Callable[[Answer], bool]) -> Answer:
    """The first answer of which this holds: the gateway hears of a client that left in one of its next turns."""
    async with asyncio.timeout(SETTLE_MAX_S):
        while not holds(answer := await stand.complete(max_tokens=2)):
            pass
    return answer


async def _connect(stand: Stand) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that says nothing yet."""
    api = urlsplit(stand.running.api_url)
    return await asyncio.open_connection(api.hostname, api.port)
