"""What the relay does when an engine, a client or the gateway fails: each end is told once, and gives back all."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gateway import passage
from gateway.admission.events import BackendRead
from gateway.admission.snapshot import BackendState
from gateway.backends.upstream import UpstreamTimeouts
from gateway.errors import ApiError
from gateway.reporting.record import Phase, UpstreamAttempt
from tests.faults import (
    DONE,
    ERROR_EVENT,
    FAULTS,
    STREAM_HEAD,
    Answer,
    FaultyEngine,
    Flood,
    Step,
    chunk,
    event,
    refusing_url,
    response,
    stream,
)
from tests.relaying import QUICK, Client, House, relaying, request
from tests.shell import reading, settle

JSON = b"Content-Type: application/json\r\n"
ANSWER = response(b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":5}}')


async def refusal_of(house: House, *, stream: bool = False, client: Client | None = None) -> ApiError:
    """Carry one request that must end in an error answer."""
    with pytest.raises(ApiError) as caught:
        await house.relay.carry(request(stream=stream), client or Client())
    return caught.value


async def test_a_request_that_could_not_be_delivered_goes_to_another_backend() -> None:
    """Once; both attempts are in its record, and the place at the first is free."""
    async with FaultyEngine((ANSWER,)) as engine, relaying(a=refusing_url(), b=engine.url) as house:
        house.gate.hear(BackendRead(reading("a", house.gate.now(), blocks=640)))
        client = Client()
        await house.relay.carry(request(), client)
        record = house.settled()
        assert (record.code, record.backend) == (200, "b")
        assert record.attempts == (UpstreamAttempt("a", "connect", retried=True),)
        assert client.headers["x-kvgate-backend"] == "b"
        assert house.backend("a").draining_tokens == 0


async def test_no_request_is_tried_more_than_twice() -> None:
    """Whatever the number of backends: a storm of retries helps nobody."""
    async with relaying(a=refusing_url(), b=refusing_url(), c=refusing_url()) as house:
        error = await refusal_of(house)
        assert (error.status, error.code, error.should_retry) == (502, "upstream_error", True)
        record = house.settled()
        assert [attempt.retried for attempt in record.attempts] == [True, False]
        assert {attempt.reason for attempt in record.attempts} == {"connect"}
        assert len({attempt.backend for attempt in record.attempts}) == 2


async def test_without_another_backend_the_first_failure_is_told() -> None:
    """It says what went wrong, rather than that nothing is left; and nothing was tried again."""
    async with relaying(a=refusing_url()) as house:
        error = await refusal_of(house)
        assert (error.status, error.code, error.should_retry) == (502, "upstream_error", True)
        assert "127.0.0.1" not in error.message
        assert (error.headers["x-kvgate-backend"], error.headers["x-kvgate-decision"]) == ("a", "admitted")
        assert house.settled().attempts == (UpstreamAttempt("a", "connect"),)


async def test_retries_have_a_budget() -> None:
    """When everything fails, the retries of a few requests use it up, and a tenth of the later ones fills it."""
    async with relaying(a=refusing_url(), b=refusing_url()) as house:
        house.relay._retries.credit = 0.9
        retried = []
        for _ in range(12):
            house.records.clear()
            await refusal_of(house)
            retried.append(len(house.records[0].attempts) == 2)
            for name in ("a", "b"):
                house.gate.hear(BackendRead(reading(name, house.gate.now())))
        assert retried[0]
        assert retried[1:].count(True) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reset_before_head", "reset"),
        ("close_before_head", "reset"),
        ("close_in_head", "reset"),
        ("garbage", "protocol"),
        ("both_framings", "protocol"),
        ("endless_head", "protocol"),
        ("bad_chunk_size", "protocol"),
        ("switching_protocols", "protocol"),
        ("interim_flood", "protocol"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_request_that_was_sent_is_never_repeated(fault: str, reason: str, streamed: bool) -> None:
    """The engine may be at work on it: its memory stays reserved until that is known to be free."""
    async with FaultyEngine(FAULTS[fault]) as engine, relaying(a=engine.url, b=engine.url) as house:
        client = Client()
        error = await refusal_of(house, stream=streamed, client=client)
        assert (error.status, error.code, error.should_retry) == (502, "upstream_error", False)
        assert client.steps == []
        record = house.settled()
        assert [(a.reason, a.retried) for a in record.attempts] == [(reason, False)]
        assert house.backend(record.backend).draining_tokens > 0
        assert len(engine.requests) == 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_silent_engine_times_out(streamed: bool) -> None:
    """504, and not to be tried again."""
    async with FaultyEngine(FAULTS["stall_before_head"]) as engine, relaying(timeouts=QUICK, a=engine.url) as house:
        error = await refusal_of(house, stream=streamed)
        assert (error.status, error.code, error.should_retry) == (504, "upstream_timeout", False)
        assert house.settled().attempts == (UpstreamAttempt("a", "timeout"),)
        assert house.backend().draining_tokens > 0


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (FAULTS["reset_in_body"], 502, "reset"),
        (FAULTS["close_in_chunk"], 502, "reset"),
        (FAULTS["close_between_chunks"], 502, "reset"),
        (FAULTS["early_end"], 502, "reset"),
        (FAULTS["stall_in_body"], 504, "timeout"),
        ((STREAM_HEAD + chunk(event("a")) + b"zz\r\n", Step.STALL), 502, "protocol"),
        ((STREAM_HEAD + chunk(event("a")), Flood(chunk(b"data: " + b"x" * 65_000), 20), Step.STALL), 502, "protocol"),
    ],
    ids=["reset", "in_chunk", "between_chunks", "no_done", "stall", "bad_chunk", "endless_event"],
)
async def test_a_stream_that_breaks_is_broken_for_the_client_too(answer: Answer, code: int, reason: str) -> None:
    """Only whole events of it passed, then the error; it never ends cleanly."""
    started = asyncio.Event()
    slow = (STREAM_HEAD + chunk(event("a")), started, *_after_start(answer))
    timeouts = UpstreamTimeouts(idle_s=0.1 if reason == "timeout" else 60.0)
    async with FaultyEngine(slow) as engine, relaying(timeouts=timeouts, a=engine.url) as house:
        client = Client()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(house.relay.carry(request(stream=True), client))
            await engine.asked.wait()
            started.set()
            await task
        assert (client.steps[0], client.steps[-1]) == ("start_stream", "fail")
        assert "end_stream" not in client.steps
        assert client.body == event("a")
        assert client.error is not None
        assert client.error.status == code
        record = house.settled()
        assert (record.code, record.finished, record.disconnect) == (code, False, None)
        assert record.attempts == (UpstreamAttempt("a", reason),)
        assert house.backend().draining_tokens > 0


@pytest.mark.parametrize("after", [Step.RESET, Step.STALL, b"zz\r\n"], ids=["reset", "silence", "garbage"])
async def test_what_comes_after_the_end_of_a_stream_is_nobodys_business(
    monkeypatch: pytest.MonkeyPatch, after: Step | bytes
) -> None:
    """The client has its answer, the memory is free, and the backend has not failed."""
    monkeypatch.setattr(passage, "END_MAX_S", 0.05)
    begun, ended = asyncio.Event(), asyncio.Event()
    answer = (STREAM_HEAD + chunk(event("a")), begun, chunk(DONE), ended, after)
    async with FaultyEngine(answer) as engine, relaying(a=engine.url) as house:
        client = Client()
        async with asyncio.TaskGroup() as group:
            group.create_task(house.relay.carry(request(stream=True), client))
            await client.begun.wait()
            begun.set()
            await client.wrote.wait()
            ended.set()
        assert (client.steps[-1], client.error) == ("end_stream", None)
        assert client.body == event("a") + DONE
        record = house.settled()
        assert (record.code, record.finished, record.attempts) == (200, True, ())
        assert house.backend().draining_tokens == 0


def _after_start(answer: Answer) -> Answer:
    """An answer without the head and the first event with which it begins, or with nothing but its end."""
    first, *rest = answer
    assert isinstance(first, bytes)
    whole = STREAM_HEAD + chunk(event("a"))
    if first.startswith(whole):
        return (first[len(whole) :], *rest)
    return (first[len(STREAM_HEAD) : -9][:20], *rest)


@pytest.mark.parametrize(
    ("answer", "status", "busy", "draining"),
    [
        (FAULTS["rate_limited"], 429, True, False),
        (FAULTS["unavailable"], 503, True, False),
        (FAULTS["broken_inside"], 502, False, True),
        (FAULTS["bad_request"], 400, False, False),
        (FAULTS["redirect"], 502, False, False),
        (FAULTS["no_content"], 502, False, False),
        ((response(b"{}", status=401),), 502, False, False),
        ((response(b"{" * 100_000, status=422),), 422, False, False),
        ((response(b"x" * 99, status=429)[:-1], Step.CLOSE), 429, True, False),
        (FAULTS["error_event"], 503, True, False),
        ((stream(ERROR_EVENT.replace(b"503", b"500"), DONE),), 502, False, True),
        ((stream(ERROR_EVENT.replace(b"503", b"400"), DONE),), 400, False, False),
    ],
)
async def test_an_engines_own_error_is_an_error_before_200(
    answer: Answer, status: int, busy: bool, draining: bool
) -> None:
    """By its status, whatever comes with it. Only one after which the engine may be at work keeps memory reserved."""
    async with FaultyEngine(answer) as engine, relaying(a=engine.url) as house:
        client = Client()
        error = await refusal_of(house, stream=True, client=client)
        assert (error.status, client.steps) == (status, [])
        assert (house.backend().state is BackendState.BUSY) == busy
        assert (error.retry_after_s is not None) == busy
        assert (house.backend().draining_tokens > 0) == draining
        record = house.settled()
        assert record.code == status
        assert len(record.attempts) == (busy or status >= 500)


async def test_a_pause_that_an_engine_asks_for_is_passed_on_and_kept() -> None:
    """Nothing is sent there for that time: the next request waits."""
    async with FaultyEngine(FAULTS["rate_limited"]) as engine, relaying(a=engine.url) as house:
        assert (await refusal_of(house)).retry_after_s == 7.0
        assert house.records[0].attempts == (UpstreamAttempt("a", "http_429"),)
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(0.01):
                await house.relay.carry(request(), Client())
        assert len(engine.requests) == 1


@pytest.mark.parametrize("streamed", [True, False])
async def test_an_answer_of_another_type_is_none(streamed: bool) -> None:
    """An HTML page of some proxy, or a stream where none was asked for."""
    headers = JSON if streamed else b"Content-Type: text/event-stream\r\n"
    async with FaultyEngine((response(b"{}", headers=headers),)) as engine, relaying(a=engine.url) as house:
        error = await refusal_of(house, stream=streamed)
        assert error.status == 502
        assert house.settled().attempts == (UpstreamAttempt("a", "protocol"),)


@pytest.mark.parametrize("body", [b"", b": ping\n\n" * 10_000, b": ping\n\n", b"data: " + b"x" * (1 << 20)])
async def test_a_stream_without_data_never_begins(body: bytes) -> None:
    """Comments alone are bounded, too."""
    answer = (STREAM_HEAD + chunk(body) * bool(body) + b"0\r\n\r\n",)
    async with FaultyEngine(answer) as engine, relaying(a=engine.url) as house:
        client = Client()
        assert (await refusal_of(house, stream=True, client=client)).status == 502
        assert client.steps == []
        assert house.settled().code == 502


@pytest.mark.parametrize("is_done", [True, False])
async def test_an_error_within_a_stream_passes_and_counts(is_done: bool) -> None:
    """The engine said so itself. Where it does not end its stream after that, the client's is cut."""
    events = (event("a"), ERROR_EVENT, *((DONE,) if is_done else ()))
    async with FaultyEngine((stream(*events),)) as engine, relaying(a=engine.url) as house:
        client = Client()
        await house.relay.carry(request(stream=True), client)
        assert client.body == b"".join(events)
        assert client.steps[-1] == ("end_stream" if is_done else "fail")
        record = house.settled()
        assert (record.code, record.error, record.finished) == (502, "upstream_error", False)
        assert record.attempts == (UpstreamAttempt("a", "http_5xx"),)
        assert house.backend().draining_tokens == 0


@pytest.mark.parametrize("step", ["start_stream", "drained", "end_stream", "answer"])
async def test_a_client_that_takes_nothing_is_gone(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Wherever it stops reading: the engine is left, and so is the client."""
    monkeypatch.setattr(passage, "UNREAD_MAX_S", 0.02)
    await _client_ends(Client(stuck=step, takes_bytes=1), step, ConnectionError)


@pytest.mark.parametrize("step", ["start_stream", "drained", "end_stream", "answer"])
async def test_a_client_that_vanishes_is_gone(step: str) -> None:
    """The server finds out before the request is cancelled."""
    await _client_ends(Client(fails={step: ConnectionResetError()}, takes_bytes=1), step, ConnectionError)


@pytest.mark.parametrize("step", ["start_stream", "drained", "end_stream", "answer"])
async def test_a_bug_on_the_clients_side_gives_all_back(step: str) -> None:
    """And is a 500 in the record, never a success."""
    await _client_ends(Client(fails={step: ZeroDivisionError()}, takes_bytes=1), step, ZeroDivisionError)


async def _client_ends(client: Client, step: str, error: type[BaseException]) -> None:
    much = Flood(chunk(event("x" * 200) * 50), 400 if step == "drained" else 1)
    answer = (ANSWER,) if step == "answer" else (STREAM_HEAD, much, chunk(DONE) + b"0\r\n\r\n")
    async with FaultyEngine(answer) as engine, relaying(a=engine.url) as house:
        with pytest.raises(error):
            await house.relay.carry(request(stream=step != "answer"), client)
        record = house.settled()
        is_bug = error is ZeroDivisionError
        assert (record.code, record.error) == ((500, "internal_error") if is_bug else (499, ""))
        assert record.disconnect == (None if is_bug else "prefill" if step == "answer" else "decode")


class Stop:
    """Engines that stand still at one point of an answer, and how far the request is then."""

    def __init__(self, answer: Answer, phase: Phase, *, draining: bool, streamed: bool = True) -> None:
        self.answer, self.phase, self.draining, self.streamed = answer, phase, draining, streamed


@pytest.mark.parametrize(
    "stop",
    [
        Stop(FAULTS["stall_before_head"], "prefill", draining=True),
        Stop((STREAM_HEAD, Step.STALL), "prefill", draining=True),
        Stop((STREAM_HEAD + chunk(b": ping\n\n"), Step.STALL), "prefill", draining=True),
        Stop((STREAM_HEAD + chunk(event("a")), Step.STALL), "decode", draining=True),
        Stop((response(b"x" * 99, headers=JSON)[:-1], Step.STALL), "prefill", draining=True, streamed=False),
        Stop((response(b"x" * 99, status=500)[:-1], Step.STALL), "prefill", draining=True, streamed=False),
    ],
    ids=["head", "stream_head", "comment", "stream", "body", "error_body"],
)
async def test_a_client_that_leaves_ends_the_engines_work(stop: Stop) -> None:
    """At each point: the connection to the engine closes at once, and its memory drains."""
    async with FaultyEngine(stop.answer) as engine, relaying(a=engine.url) as house:
        async with asyncio.TaskGroup() as group:
            client = Client()
            task = group.create_task(house.relay.carry(request(stream=stop.streamed), client))
            await (client.begun if stop.phase == "decode" else engine.asked).wait()
            await settle()
            task.cancel()
        assert await engine.hang_ups.get() == 0
        record = house.settled()
        assert (record.code, record.disconnect, record.outcome) == (499, stop.phase, "admitted")
        assert (house.backend().draining_tokens > 0) == stop.draining


async def test_a_client_that_leaves_while_we_connect_costs_no_memory() -> None:
    """Nothing was sent: there is nothing to drain."""
    async with relaying(a="http://127.0.0.1:1") as house:
        house.backends["a"].exchange = _NeverConnected  # type: ignore[method-assign, assignment]
        async with asyncio.TaskGroup() as group:
            task = group.create_task(house.relay.carry(request(), Client()))
            await asyncio.sleep(0)
            task.cancel()
        assert house.settled().disconnect == "prefill"
        assert house.backend().draining_tokens == 0


class _NeverConnected:
    def __init__(self, path: str, headers: bytes, body: bytes) -> None:
        pass

    async def __aenter__(self) -> None:
        await asyncio.get_running_loop().create_future()

    async def __aexit__(self, *_: object) -> None:
        pytest.fail("it was never entered")


async def test_a_client_that_leaves_the_queue_was_never_there() -> None:
    """Its record says that it waited."""
    async with relaying(a="http://127.0.0.1:1") as house:
        house.gate.busy("a", 5.0)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(house.relay.carry(request(), Client()))
            await asyncio.sleep(0)
            task.cancel()
        record = house.settled()
        assert (record.code, record.disconnect) == (499, "queued")
        assert (record.outcome, record.reason, record.backend) == ("evicted", "client_gone", "")


async def test_what_a_stream_had_brought_before_it_was_cut_is_learned() -> None:
    """Answers get at least so long."""
    cut: list[int] = []
    async with FaultyEngine((STREAM_HEAD + chunk(event("a")), Step.STALL)) as engine, relaying(a=engine.url) as house:
        house.pricing.learn_cut = (  # type: ignore[method-assign]
            lambda answer, output_tokens: cut.append(output_tokens)
        )
        client = Client(stuck="start_stream")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(house.relay.carry(request(stream=True), client))
            await client.reached.wait()
            task.cancel()
    assert cut == [1]
