"""Requests that are poison, backends that are ill: what one of them does, the others do not feel."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.routing.breaker import ALONE_MIN
from tests.e2e.stand import Stand, gateway, is_retryable
from tests.faults import Answer as FaultyAnswer, FaultyEngine, Request, Step, response

LISTING = response(b'{"data":[{"id":"m"}]}')
GOOD = response(
    b'{"object":"text_completion","choices":[{"index":0,"text":"a","finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)
POISON, INNOCENT = "poison", "innocent"
K, INNOCENTS = 10, 42


class Engine(FaultyEngine):
    """Lists a model and answers; a request with the word in it takes its connection down once it was read."""

    def __init__(self, answer: bytes = GOOD) -> None:
        super().__init__(())
        self.answer = answer
        self.poisoned = 0

    async def play(
        self, request: Request, answer: FaultyAnswer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        answer = (self.answer if request.line.startswith(b"POST") else LISTING,)
        if POISON.encode() in request.body:
            self.poisoned += 1
            answer = (Step.RESET,)
        return await super().play(request, answer, reader, writer)


@asynccontextmanager
async def in_front_of(*engines: Engine) -> AsyncIterator[Stand]:
    """A gateway whose backends list a model; what they are doing nobody asks them again."""
    async with contextlib.AsyncExitStack() as stack:
        for engine in engines:
            await stack.enter_async_context(engine)
        entries = [{"name": f"b{k}", "url": engine.url, "kind": "openai"} for k, engine in enumerate(engines)]
        yield await stack.enter_async_context(gateway(*entries, telemetry={"interval_s": 60}))


def same(_number: int) -> str:
    """One request, again and again."""
    return POISON


def another(number: int) -> str:
    """Each time another one."""
    return f"{POISON} {number}"


@pytest.mark.parametrize("poison", [same, another])
@pytest.mark.parametrize("backends", [1, 2])
@pytest.mark.parametrize("order", ["first", "mixed", "at_once"])
async def test_poison_harms_no_innocent(poison: Callable[[int], str], backends: int, order: str) -> None:
    """Ten requests that take their connections down, and 42 others, in any order: each of these is served."""
    prompts = [poison(k) for k in range(K)]
    for k in range(INNOCENTS):
        prompts.insert(len(prompts) if order == "first" else 1 + k * (K + INNOCENTS) // INNOCENTS, f"{INNOCENT} {k}")
    engines = [Engine() for _ in range(backends)]
    async with in_front_of(*engines) as stand:
        if order == "at_once":
            answers = await asyncio.gather(*(stand.complete(prompt=prompt) for prompt in prompts))
        else:
            answers = [await stand.complete(prompt=prompt) for prompt in prompts]
    told = [(prompt.split()[0], answer.status) for prompt, answer in zip(prompts, answers, strict=True)]
    assert Counter(told) == {(INNOCENT, 200): INNOCENTS, (POISON, 502): K}
    sent = sum(engine.poisoned for engine in engines)
    if poison is another:
        assert sent == K
    elif order != "at_once":
        assert sent == 2


async def test_a_backend_that_is_gone_costs_nobody_an_answer() -> None:
    """Whoever cannot be delivered there goes to the other one."""
    engines = [Engine(), Engine()]
    async with in_front_of(*engines) as stand:
        await engines[0].die()
        answers = [await stand.complete(prompt=f"{INNOCENT} {k}") for k in range(20)]
        assert {answer.status for answer in answers} == {200}
        assert {answer.headers["x-kvgate-backend"] for answer in answers} == {"b1"}


async def test_a_hundred_bad_requests_of_a_client_are_its_own_business() -> None:
    """The engine says 400 to each; it serves the next one."""
    engine = Engine(response(b'{"error":{"message":"no"}}', status=400))
    async with in_front_of(engine) as stand:
        answers = await asyncio.gather(*(stand.complete(prompt=str(k)) for k in range(100)))
        assert Counter(answer.status for answer in answers) == {400: 100}
        engine.answer = GOOD
        assert (await stand.complete()).status == 200


async def test_a_backend_that_fails_everybody_is_told_of() -> None:
    """503 with a time to come back, and its state says why."""
    async with in_front_of(Engine(response(status=500))) as stand:
        for k in range(ALONE_MIN):
            assert (await stand.complete(prompt=str(k))).status == 502
        got = await stand.complete()
        assert (got.status, got.error.code) == (503, "no_backend")
        assert is_retryable(got)
        assert json.loads((await stand.admin("/api/v1/state")).body)["backends"][0]["breaker"] == "open"
        assert b'kvgate_backend_state{backend="b0",state="ejected"} 1' in (await stand.admin("/metrics")).body
