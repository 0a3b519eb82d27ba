"""What the relay does so that one request, one backend or its own end costs the others nothing."""

from __future__ import annotations

import asyncio

import pytest

from gateway.admission.events import BackendRead
from gateway.admission.snapshot import BackendState
from gateway.backends.upstream import UpstreamTimeouts
from gateway.errors import ApiError
from gateway.reporting.record import UpstreamAttempt
from gateway.request import InferenceRequest
from gateway.routing.breaker import ALONE_MIN, BreakerState
from tests.faults import (
    DONE,
    FAULTS,
    STREAM_HEAD,
    Answer,
    FaultyEngine,
    Step,
    chunk,
    event,
    refusing_url,
    response,
    stream,
)
from tests.relaying import Client, House, relaying, request
from tests.shell import reading, settle

ANSWER = response(b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":5}}')
DEAD = b'{"error":{"message":"EngineCore encountered an issue. See stack trace.","code":500}}'


async def told(house: House, asked: InferenceRequest, client: Client | None = None) -> ApiError:
    """Carry a request that must end in an error answer."""
    with pytest.raises(ApiError) as caught:
        await house.relay.carry(asked, client or Client())
    return caught.value


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "death",
    [
        FAULTS["reset_before_head"],
        FAULTS["close_in_head"],
        (response(DEAD, status=500),),
        (stream(b"data: " + DEAD + b"\n\n", DONE),),
    ],
    ids=["reset", "head", "500", "event"],
)
async def test_a_request_that_engines_die_of_is_sent_twice_at_most(death: Answer, streamed: bool) -> None:
    """Then it is refused here: 502 as before, not to be retried. Others are served; so is it, once it was answered."""
    first = death[0]
    streamed = streamed or (isinstance(first, bytes) and first.startswith(STREAM_HEAD))
    async with FaultyEngine(death, death, (ANSWER,)) as engine, relaying(a=engine.url) as house:
        poison, innocent = request(stream=streamed), request(prompt="good")
        errors = [await told(house, poison) for _ in range(5)]
        assert {(error.status, error.code, error.should_retry) for error in errors} == {(502, "upstream_error", False)}
        assert len(engine.requests) == 2
        assert "not sent again for 60 s" in errors[-1].message
        assert house.records[-1].attempts == ()
        await house.relay.carry(innocent, Client())
        assert house.records[-1].code == 200


@pytest.mark.parametrize("name", ["broken_inside", "reset_in_body", "bad_request", "garbage", "stall_before_head"])
async def test_no_other_failure_makes_a_request_poison(name: str) -> None:
    """An error of one request, a stream that breaks, silence: the engine lives."""
    quick = UpstreamTimeouts(head_s=0.02)
    async with FaultyEngine(FAULTS[name]) as engine, relaying(timeouts=quick, a=engine.url, b=engine.url) as house:
        for _ in range(4):
            client = Client()
            if name == "reset_in_body":
                await house.relay.carry(request(stream=True), client)
            else:
                await told(house, request(stream=True), client)
        assert len(engine.requests) == 4


async def test_an_answer_clears_who_was_there_when_an_engine_died() -> None:
    """It takes two deaths without an answer in between."""
    reset = FAULTS["reset_before_head"]
    async with FaultyEngine(reset, (ANSWER,), reset, (ANSWER,)) as engine, relaying(a=engine.url) as house:
        for _ in range(2):
            await told(house, request())
            await house.relay.carry(request(), Client())
        assert len(engine.requests) == 4


async def test_a_backend_that_fails_everybody_is_left_alone() -> None:
    """After three distinct requests; the others go elsewhere."""
    ill, well = FaultyEngine(FAULTS["broken_inside"]), FaultyEngine((ANSWER,))
    async with ill, well, relaying(a=ill.url, b=well.url) as house:
        house.gate.hear(BackendRead(reading("a", house.gate.now(), blocks=6400)))
        for k in range(20):
            try:
                await house.relay.carry(request(prompt=str(k)), Client())
            except ApiError as error:
                assert error.status == 502  # noqa: PT017  # most succeed
        assert len(ill.requests) == 3
        assert len(well.requests) == 17
        shown = house.backend("a")
        assert (shown.state, shown.breaker) == (BackendState.EJECTED, BreakerState.OPEN)


@pytest.mark.parametrize("name", ["bad_request", "rate_limited"])
async def test_what_is_the_clients_fault_ejects_nobody(name: str) -> None:
    """A hundred of them."""
    async with FaultyEngine(FAULTS[name]) as engine, relaying(a=engine.url, b=engine.url) as house:
        for k in range(100):
            house.admission._roster.engines["a"].standing.busy_until = 0.0
            house.admission._roster.engines["b"].standing.busy_until = 0.0
            await told(house, request(prompt=str(k)))
        assert {house.backend(name).breaker for name in "ab"} == {BreakerState.CLOSED}


async def test_the_last_backend_is_ejected_late_and_says_when_to_come_back() -> None:
    """503 with the time of the next try, instead of one failure after the other."""
    async with FaultyEngine(FAULTS["redirect"]) as engine, relaying(a=engine.url) as house:
        for k in range(ALONE_MIN):
            assert (await told(house, request(prompt=str(k)))).status == 502
        error = await told(house, request())
        assert (error.status, error.code, error.should_retry) == (503, "no_backend", True)
        assert error.retry_after_s is not None
        assert 0.9 < error.retry_after_s < 3


async def test_a_retry_that_finds_no_room_is_told_why_it_was_one() -> None:
    """The backend could not be reached. That the other one has no room is not the answer to this request."""
    async with relaying(a=refusing_url(), b=refusing_url()) as house:
        house.gate.busy("b", 60.0)
        impatient = request()
        impatient.deadline_s = 0.05
        error = await told(house, impatient)
        assert (error.status, error.code, error.should_retry) == (502, "upstream_error", True)
        assert error.headers["x-kvgate-decision"] == "admitted"
        record = house.settled()
        assert record.attempts == (UpstreamAttempt("a", "connect"),)
        assert (record.code, record.outcome, record.reason) == (502, "admitted", "ok")


async def cut_at(house: House, engine: FaultyEngine, asked: InferenceRequest, client: Client) -> ApiError | None:
    """Let a request run until the engine stands still, and let the gateway end then."""
    task = asyncio.ensure_future(house.relay.carry(asked, client))  # noqa: TID251  # awaited below
    await (client.begun if asked.stream else engine.asked).wait()
    await settle()
    house.gate.start_drain()
    house.gate.cut()
    try:
        await task
    except ApiError as error:
        assert task.cancelling() == 0
        return error
    return None


async def test_a_stream_that_the_gateways_end_cuts_off_is_told_so() -> None:
    """An event, then a cut: never a clean end. Its place is free and the engine stops."""
    async with FaultyEngine((STREAM_HEAD + chunk(event("a")), Step.STALL)) as engine, relaying(a=engine.url) as house:
        client = Client()
        assert await cut_at(house, engine, request(stream=True), client) is None
        assert client.steps == ["start_stream", "fail"]
        assert client.error is not None
        assert (client.error.status, client.error.code) == (503, "draining")
        assert await engine.hang_ups.get() == 0
        record = house.settled()
        assert (record.code, record.error, record.disconnect) == (503, "draining", None)


async def test_an_answer_that_the_gateways_end_cuts_off_is_an_error() -> None:
    """503, to be asked elsewhere, and no more on this connection."""
    async with FaultyEngine((Step.STALL,)) as engine, relaying(a=engine.url) as house:
        client = Client()
        error = await cut_at(house, engine, request(), client)
        assert error is not None
        assert (error.status, error.code, error.should_retry, error.close) == (503, "draining", True, True)
        assert client.steps == []
        assert house.settled().code == 503


async def test_who_comes_after_the_end_has_begun_is_sent_away_with_its_connection() -> None:
    async with relaying(a=refusing_url()) as house:
        house.gate.start_drain()
        error = await told(house, request())
        assert (error.status, error.code, error.close) == (503, "draining", True)
