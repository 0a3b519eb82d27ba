"""Clients that leave, at every point of the way: the engine is told at once, and the books show what it still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import SLOW, Stand, eventually, gateway
from tests.faults import STREAM_HEAD, Answer, FaultyEngine, Step, response

LONG: dict[str, object] = {"model": "m", "prompt": [7] * 100, "max_tokens": 900, "ignore_eos": True}
LISTING = response(b'{"data":[{"id":"m"}]}')


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SLOW) as running:
        yield running


@pytest.fixture
async def stand(engine: RunningEngine) -> AsyncIterator[Stand]:
    async with gateway(engine.url) as stand:
        yield stand


async def test_in_the_queue(stand: Stand, engine: RunningEngine) -> None:
    """It leaves the queue, nothing was ever sent, and it is counted as gone."""
    async with stand.http.post("/v1/completions", json=LONG | {"stream": True}):
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(stand.post("/v1/completions", LONG))
            await stand.until(lambda state: state.waiting == 1)
            waiter.cancel()
        await stand.until(lambda state: state.waiting == 0)
        assert engine.engine.running == 1
        (line,) = await stand.settled_log(1)
        assert (line["code"], line["disconnect"], line["reason"]) == (499, "queued", "client_gone")


JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "streamed"),
    [
        ((Step.STALL,), True),
        ((Step.STALL,), False),
        ((STREAM_HEAD, Step.STALL), True),
        ((JSON_HEAD, Step.STALL), False),
    ],
    ids=["before the head", "before the head, whole", "before the first token", "before the body, whole"],
)
async def test_before_anything_came(answer: Answer, streamed: bool) -> None:
    """The connection to the engine is closed: that is how an engine hears that nobody listens any more."""
    async with FaultyEngine((LISTING,), answer) as engine:
        backend = {"name": "b0", "url": engine.url, "kind": "openai"}
        async with gateway(backend, telemetry={"interval_s": 60}) as stand:
            while not engine.hang_ups.empty():
                engine.hang_ups.get_nowait()
            async with asyncio.TaskGroup() as group:
                request = group.create_task(stand.complete(stream=streamed))
                await eventually(lambda: any(got.line.startswith(b"POST") for got in engine.requests))
                request.cancel()
            await asyncio.wait_for(engine.hang_ups.get(), 2)
            (line,) = await stand.settled_log(1)
            assert (line["code"], line["disconnect"]) == (499, "prefill")


@pytest.mark.parametrize("streamed", [True, False])
async def test_while_the_engine_generates(stand: Stand, engine: RunningEngine, streamed: bool) -> None:
    """The engine frees its memory within moments, and so does the ledger once a reading has shown it."""
    async with asyncio.TaskGroup() as group:
        request = group.create_task(stand.complete(**LONG, stream=streamed))
        await eventually(lambda: engine.engine.generated_tokens > 3)
        request.cancel()
    await asyncio.wait_for(engine.idle(), 2)
    await stand.ledger_is_zero()
    (line,) = await stand.settled_log(1)
    assert (line["code"], line["disconnect"]) == (499, "decode" if streamed else "prefill")


async def test_in_the_middle_of_a_stream(stand: Stand, engine: RunningEngine) -> None:
    """With the client that users have: leaving the loop is enough."""
    stream = await stand.openai().completions.create(model="m", prompt="x", max_tokens=900, stream=True)
    async for _ in stream:
        break
    await stream.close()
    await asyncio.wait_for(engine.idle(), 2)
    await stand.ledger_is_zero()


async def test_what_the_engine_does_not_stop_stays_on_the_books() -> None:
    """A zombie counts against its backend as draining until it ends; nobody else is let in on its memory."""
    async with (
        start_engine(EngineOptions(model="m", kv_tokens=1024, speed=2.0)) as engine,
        gateway(engine.url) as stand,
    ):
        engine.ignore_aborts()
        body = LONG | {"max_tokens": 300}
        async with asyncio.TaskGroup() as group:
            request = group.create_task(stand.complete(**body, stream=True))
            await eventually(lambda: engine.engine.generated_tokens > 150)
            request.cancel()
        state = await stand.until(lambda state: state.live == 0)
        assert state.backends[0].draining_tokens >= 256
        await asyncio.sleep(0.3)  # Several looks, each of which shows it at work.
        state = await stand.state()
        assert state.backends[0].draining_tokens + state.backends[0].foreign_tokens >= 256
        assert state.backends[0].headroom_tokens <= 1024 - 256
        assert engine.engine.running == 1
        await stand.ledger_is_zero()  # It ends by itself.
        assert engine.engine.running == 0
        assert engine.engine.preemptions == 0


async def test_a_crowd_that_leaves_at_once(stand: Stand, engine: RunningEngine) -> None:
    """Twenty clients, queued and on the engine, leave in the same moment; nothing is kept or released twice."""
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(stand.complete(**LONG, stream=bool(i % 2))) for i in range(20)]
        await stand.until(lambda state: state.live >= 1 and state.waiting >= 1)
        for request in crowd:
            request.cancel()
    await stand.ledger_is_zero()
    await asyncio.wait_for(engine.idle(), 2)
