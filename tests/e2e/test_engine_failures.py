"""Engines that fail: before the first byte as a clean error, after it as an event and a cut; the books are empty."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from openai import APIError, APIStatusError

from gateway.simulation.server import start_engine
from tests.e2e.stand import SLOW, Stand, gateway, is_retryable
from tests.faults import DONE, FAULTS, STREAM_HEAD, Answer, FaultyEngine, Step, chunk, event, response, stream

LISTING = response(b'{"data":[{"id":"m"}]}')
TIMEOUTS = {"connect_s": 2, "head_s": 0.3, "idle_s": 0.3}
CANARY = "do-not-pass-on"

BEFORE_THE_FIRST_BYTE: dict[str, tuple[int, str]] = {
    **dict.fromkeys(
        (
            *("reset_before_head", "close_before_head", "close_in_head", "both_framings", "two_lengths"),
            *("many_headers", "endless_head", "garbage", "bare_line_feeds", "compressed", "switching_protocols"),
            *("interim_flood", "broken_inside", "redirect", "no_content", "bad_chunk_size"),
            *("close_before_content_length", "garbage_metrics"),
        ),
        (502, "upstream_error"),
    ),
    "stall_before_head": (504, "upstream_timeout"),
    "error_event": (503, "upstream_busy"),
    "rate_limited": (429, "upstream_busy"),
    "unavailable": (503, "upstream_busy"),
    "bad_request": (400, "upstream_rejected"),
}
AFTER_IT = (
    *("stall_in_body", "reset_in_body", "close_between_chunks", "early_end"),
    *("late_garbage", "late_error_event"),
)
LATE: dict[str, Answer] = {
    "late_garbage": (STREAM_HEAD + chunk(event("a")) + chunk(b"data: " + b"x" * 2_000_000), Step.STALL),
    "late_error_event": (stream(event("a"), b'data: {"error":{"message":"ill","code":500}}\n\n'),),
}


@asynccontextmanager
async def in_front_of(*answers: Answer) -> AsyncIterator[tuple[Stand, FaultyEngine]]:
    """A gateway whose only backend lists a model and then plays these answers.

    The pool is stated, so that there is a ledger to look at; the listing is read once and the books need no telemetry.
    """
    async with FaultyEngine((LISTING,), *answers) as engine:
        backend = {"name": "b0", "url": engine.url, "kind": "openai", "timeouts": TIMEOUTS}
        async with gateway(backend, telemetry={"interval_s": 60}) as stand:
            yield stand, engine


async def read_into(body: bytearray, stand: Stand) -> None:
    """Take a stream's bytes as they come."""
    async with stand.http.post("/v1/completions", json={"model": "m", "prompt": "x", "stream": True}) as got:
        assert got.status == 200
        async for data in got.content.iter_any():
            body += data


async def listen(stand: Stand, on_part: Callable[[], Awaitable[None]] | None = None) -> None:
    """Take a stream with the client that users have."""
    client = stand.openai()
    async for _ in await client.completions.create(model="m", prompt="x", max_tokens=900, stream=True):
        if on_part is not None:
            await on_part()


@pytest.mark.parametrize("name", BEFORE_THE_FIRST_BYTE)
@pytest.mark.parametrize("streamed", [True, False])
async def test_before_the_first_byte(name: str, streamed: bool) -> None:
    """One clean error with the status of the table; the engine was asked once only."""
    status, code = BEFORE_THE_FIRST_BYTE[name]
    if name == "error_event" and not streamed:
        status, code = 502, "upstream_error"  # Not what was asked for.
    async with in_front_of(FAULTS[name]) as (stand, engine):
        got = await stand.complete(stream=streamed)
        assert (got.status, got.error.code) == (status, code)
        assert got.headers["x-request-id"]
        assert sum(request.line.startswith(b"POST") for request in engine.requests) == 1
        if status in (429, 503):
            assert is_retryable(got)
        else:
            assert got.headers["x-should-retry"] == "false"
        if name == "rate_limited":
            assert got.headers["retry-after"] == "7"
            assert got.error.type == "rate_limit_error"
        assert [line["code"] for line in await stand.settled_log(1)] == [status]


@pytest.mark.parametrize("name", AFTER_IT)
async def test_after_the_first_byte(name: str) -> None:
    """An error event, then a cut: no client takes the answer for complete, and `[DONE]` never comes."""
    answer = LATE.get(name) or FAULTS[name]
    async with in_front_of(answer, answer) as (stand, _engine):
        body = bytearray()
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_into(body, stand)
        assert body.startswith(event("a"))
        assert b"[DONE]" not in body
        (*_, last) = body.strip().split(b"\n\n")
        assert json.loads(last.removeprefix(b"data: "))["error"]["message"]
        with pytest.raises(APIError):
            await listen(stand)


async def test_an_engine_that_dies_inside() -> None:
    """A real stream breaks in the middle: error event, the client raises. The server lives on and answers 500: 502."""
    async with start_engine(SLOW) as engine, gateway(engine.url) as stand:
        heard = 0

        async def die() -> None:
            nonlocal heard
            heard += 1
            engine.die_inside()

        with pytest.raises(APIError) as caught:
            await listen(stand, die)
        assert heard
        assert caught.value.body
        with pytest.raises(APIStatusError) as refused:
            await stand.openai().completions.create(model="m", prompt="x", max_tokens=5)
        assert refused.value.status_code in (502, 503)


async def test_an_engine_that_is_killed() -> None:
    """A killed process leaves no clean end behind either."""
    async with start_engine(SLOW) as engine, gateway(engine.url, settles=False) as stand:
        with pytest.raises(APIError):
            await listen(stand, engine.die)
        state = await stand.until(lambda state: state.backends[0].state == "down")
        assert (state.live, state.waiting, state.double_releases) == (0, 0, 0)


async def test_nothing_of_the_engine_shows() -> None:
    """Addresses, paths and traces in an engine's error never reach a client; a plain sentence does."""
    inside = f"Traceback: http://10.0.0.7:8000/{CANARY} File /srv/{CANARY}/x.py".encode()
    sentence = b'{"error":{"message":"logit_bias is too large","type":"BadRequestError","param":"logit_bias"}}'
    for body, shown in (
        (inside, None),
        (b'{"error":{"message":"%b"}}' % inside, None),
        (sentence, "logit_bias is too large"),
    ):
        async with in_front_of((response(body, status=400),)) as (stand, _engine):
            got = await stand.complete()
            assert got.status == 400
            assert CANARY not in got.body.decode()
            if shown:
                assert got.error.message == shown
                assert got.error.param == "logit_bias"


async def test_the_gateways_own_key_is_nobodys_business() -> None:
    """An engine that refuses the gateway's key is a fault of the gateway: 502, not the client's 401."""
    async with in_front_of((response(b'{"error":"Unauthorized"}', status=401),)) as (stand, _engine):
        got = await stand.complete()
        assert (got.status, got.error.code) == (502, "upstream_error")


async def test_an_answer_without_usage_and_without_end() -> None:
    """Nothing to learn from, nothing to settle with: the stream still ends cleanly and the books are empty."""
    async with in_front_of((stream(event("a"), DONE),)) as (stand, _engine):
        got = await stand.complete(stream=True)
        assert got.status == 200
        assert got.body == event("a") + DONE
        await asyncio.sleep(0)


async def test_a_connection_that_was_closed_while_idle_costs_nobody_a_request() -> None:
    """The engine closes after each answer without a word of warning: the next request goes over a fresh connection."""
    good = response(b'{"object":"text_completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    async with in_front_of((good, Step.CLOSE)) as (stand, engine):
        for _ in range(5):
            assert (await stand.complete()).status == 200
            engine.left.clear()
        assert engine.connections >= 5
