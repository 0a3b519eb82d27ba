from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from estimator.demand import End
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Usage
from gateway.errors import ApiError
from gateway.relay import RelaySettings
from gateway.reporting.record import RequestRecord
from gateway.request import UNTRACED
from tests.faults import DONE, STREAM_HEAD, FaultyEngine, Flood, chunk, event, response, stream
from tests.relaying import Client, relaying, request
from tests.shell import MODEL

ANSWER = b'{"choices":[{"text":"hi","finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":5}}'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":8}}\n\n'


async def test_an_answer_in_one_piece_passes_as_it_came() -> None:
    """Bytes, decision headers, usage, and a place given back before the client has it."""
    async with FaultyEngine((response(ANSWER),)) as engine, relaying(a=engine.url) as house:
        client = Client()
        await house.relay.carry(request(), client)
        assert client.steps == ["answer"]
        assert client.body == ANSWER
        assert client.headers["x-kvgate-backend"] == "a"
        assert client.headers["x-kvgate-decision"] == "admitted"
        assert client.headers["x-kvgate-queue-ms"] == "0"
        assert int(client.headers["x-kvgate-kv-tokens"]) > 0
        assert engine.requests[0].line == b"POST /v1/completions HTTP/1.1"
        assert engine.requests[0].headers[b"x-request-id"] == b"r-1"
        record = house.settled()
        assert (record.code, record.outcome, record.reason, record.error) == (200, "admitted", "ok", "")
        assert (record.prompt_tokens, record.output_tokens, record.finished) == (2, 5, True)
        assert record.ttft_s is None
        assert house.backend().draining_tokens == 0


async def test_headers_can_be_switched_off() -> None:
    """`response_headers: false`."""
    settings = RelaySettings(5.0, 0.01, headers=False)
    async with FaultyEngine((response(ANSWER),)) as engine, relaying(settings, a=engine.url) as house:
        client = Client()
        await house.relay.carry(request(), client)
        assert client.headers == {}


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_passes_and_usage_only_if_asked_for(asked: bool) -> None:
    """The engine is always asked for usage: the ledger and the predictions live on it."""
    events = (event("a"), event("b"), USAGE, DONE)
    async with FaultyEngine((stream(*events),)) as engine, relaying(a=engine.url) as house:
        client = Client()
        options = {"stream_options": {"include_usage": True}} if asked else {}
        await house.relay.carry(request(stream=True, **options), client)
        assert client.body == b"".join(events if asked else (*events[:2], DONE))
        assert (client.steps[0], client.steps[-1]) == ("start_stream", "end_stream")
        assert json.loads(engine.requests[0].body)["stream_options"] == {"include_usage": True}
        record = house.settled()
        assert (record.code, record.stream, record.output_tokens, record.finished) == (200, True, 8, True)
        assert record.ttft_s is not None
        assert 0 <= record.ttft_s <= record.duration_s
        assert house.pricing.of(MODEL).tokens_per_event > 1


async def test_progress_counts_tokens_and_not_events() -> None:
    """Where engines put several tokens into an event, the ledger still grows as they do."""
    more, end = asyncio.Event(), asyncio.Event()
    answer = (STREAM_HEAD + chunk(event("a")), more, chunk(event("b")), end, chunk(DONE) + b"0\r\n\r\n")
    async with FaultyEngine(answer) as engine, relaying(a=engine.url) as house, asyncio.TaskGroup() as group:
        house.pricing.of(MODEL).tokens_per_event = 4.0
        client = Client()
        task = group.create_task(house.relay.carry(request(stream=True), client))
        await engine.asked.wait()
        more.set()
        await client.wrote.wait()
        (place,) = house.gate._places.values()
        assert place.output_tokens == 8
        end.set()
        await task
    assert house.settled().code == 200


async def test_a_slow_reader_slows_the_engine_down() -> None:
    """Each refusal to take more is waited out, and nothing is lost."""
    block = chunk(event("x" * 200) * 50)
    answer = (STREAM_HEAD, Flood(block, 400), chunk(DONE) + b"0\r\n\r\n")
    async with FaultyEngine(answer) as engine, relaying(a=engine.url) as house:
        client = Client(takes_bytes=20_000)
        await house.relay.carry(request(stream=True), client)
        assert client.steps.count("drained") > 1
        assert client.body == event("x" * 200) * 20_000 + DONE
        assert house.settled().code == 200


async def test_what_follows_a_comment_is_looked_at_before_200() -> None:
    """Providers keep connections alive with comments; an error after one is still the first event."""
    error = b'data: {"error":{"message":"too long","code":400,"type":"invalid_request_error"}}\n\n'
    async with FaultyEngine((stream(b": ping\n\n", error, DONE),)) as engine, relaying(a=engine.url) as house:
        client = Client()
        with pytest.raises(ApiError) as caught:
            await house.relay.carry(request(stream=True), client)
        assert (caught.value.status, caught.value.message) == (400, "too long")
        assert client.steps == []
        record = house.settled()
        assert (record.code, record.attempts) == (400, ())


async def test_comments_pass_with_the_first_event() -> None:
    """They are part of the stream."""
    async with FaultyEngine((stream(b": ping\n\n", event("a"), DONE),)) as engine, relaying(a=engine.url) as house:
        client = Client()
        await house.relay.carry(request(stream=True), client)
        assert client.body == b": ping\n\n" + event("a") + DONE


async def test_nothing_is_learned_of_a_length_that_was_a_setting() -> None:
    """`ignore_eos` requests are priced to their end, and only the prompt teaches."""
    async with FaultyEngine((response(ANSWER),)) as engine, relaying(a=engine.url) as house:
        before = house.pricing.of(MODEL).demand.output_lengths.forecast()
        await house.relay.carry(request(ignore_eos=True), Client())
        assert house.pricing.of(MODEL).demand.output_lengths.forecast() is before
        await house.relay.carry(request(), Client())
        assert house.pricing.of(MODEL).demand.output_lengths.forecast() is not before


@pytest.mark.parametrize(("reason", "end"), [("stop", End.STOP), ("length", End.LENGTH)])
async def test_why_an_answer_ended_is_learned(reason: str, end: End) -> None:
    """One that hit its limit would have been longer."""
    learned: list[tuple[Usage, End, int]] = []
    body = ANSWER.replace(b"stop", reason.encode())
    async with FaultyEngine((response(body),)) as engine, relaying(a=engine.url) as house:
        house.pricing.learn = (  # type: ignore[method-assign]
            lambda answer, usage, end, *, events: learned.append((usage, end, events))
        )
        await house.relay.carry(request(), Client())
    assert learned == [(Usage(2, 5), end, 0)]


async def test_a_model_that_nobody_serves_is_not_found() -> None:
    """Admission is never asked: it is no decision."""
    async with relaying(a="http://127.0.0.1:1") as house:
        with pytest.raises(ApiError) as caught:
            await house.relay.carry(request(model="other"), Client())
        assert caught.value.code == "model_not_found"
        record = house.settled()
        assert (record.code, record.outcome, record.backend) == (404, "", "")
        assert house.relay.models() == {MODEL: 1024}


async def test_a_request_that_never_fits_is_refused() -> None:
    """With the decision in its record."""
    async with relaying(a="http://127.0.0.1:1") as house:
        with pytest.raises(ApiError) as caught:
            await house.relay.carry(request(prompt=[1] * 2_000), Client())
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.headers == {"x-kvgate-decision": "refused", "x-kvgate-queue-ms": "0"}
        record = house.settled()
        assert (record.code, record.outcome, record.reason) == (400, "rejected", "too_large")


@pytest.mark.parametrize(("deadline_s", "refused"), [(0.05, True), (None, False)])
async def test_the_clients_own_timeout_bounds_its_wait(deadline_s: float | None, refused: bool) -> None:
    """Our answer must arrive before the client gives up; without one the configured patience counts."""
    hold = asyncio.Event()
    async with (
        FaultyEngine((hold, response(ANSWER))) as engine,
        relaying(RelaySettings(60.0, 0.01), a=engine.url) as house,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(house.relay.carry(request(ignore_eos=True, max_tokens=900), Client()))
        await engine.asked.wait()
        second = request(ignore_eos=True, max_tokens=900)
        second.deadline_s = deadline_s
        task = group.create_task(_outcome(house.relay.carry(second, Client())))
        await asyncio.sleep(0)
        if not refused:
            hold.set()
        error = await task
        hold.set()
        await first
        assert (error is not None) == refused
        if error is not None:
            assert error.status == 429
            assert error.retry_after_s is not None


async def _outcome(carried: object) -> ApiError | None:
    try:
        await carried  # type: ignore[misc]
    except ApiError as error:
        return error
    return None


async def test_a_request_turned_away_before_is_counted_too() -> None:
    """Bad input never reaches the relay; its record is made here all the same."""
    async with relaying() as house:
        house.relay.turned_away("/v1/completions", "r-2", ApiError(415, "unsupported_media_type", "no"), 0.25, UNTRACED)
        record = house.settled()
        assert (record.code, record.error, record.duration_s) == (415, "unsupported_media_type", 0.25)


async def test_a_clamped_request_asks_for_less() -> None:
    """The engine is told the limit that admission reserved for."""
    limits = AdmissionLimits(clamp=True)
    async with FaultyEngine((response(ANSWER),)) as engine, relaying(limits=limits, a=engine.url) as house:
        await house.relay.carry(request(prompt=[1] * 64, max_tokens=5_000), Client())
        assert json.loads(engine.requests[0].body)["max_tokens"] == 1024 - 64
        assert house.settled().code == 200


async def test_who_listens_hears_of_an_admission_before_the_engine_does() -> None:
    """The record of that moment: where it goes and what was reserved, nothing of its end."""
    admitted: list[tuple[str, int, RequestRecord]] = []

    def hear(request_id: str, so_far: Callable[[], RequestRecord]) -> None:
        admitted.append((request_id, len(engine.requests), so_far()))

    async with FaultyEngine((response(ANSWER),)) as engine, relaying(a=engine.url) as house:
        house.relay._on_admitted = hear
        await house.relay.carry(request(), Client())
        house.settled()
    ((request_id, asked, record),) = admitted
    assert (request_id, asked) == ("r-1", 0)
    assert (record.backend, record.decision, record.max_tokens) == ("a", "admitted", 16)
    assert record.output_tokens is None
