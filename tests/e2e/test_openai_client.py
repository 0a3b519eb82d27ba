"""The main job: the client that users have, through the gateway, to an engine and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI, NotFoundError, RateLimitError
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionContentPartParam, ChatCompletionMessageParam

from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import SMALL, Stand, gateway

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me about paged memory."}]
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as running:
        yield running


@pytest.fixture
async def stand(engine: RunningEngine) -> AsyncIterator[Stand]:
    async with gateway(engine.url) as stand:
        yield stand


@pytest.fixture
def client(stand: Stand) -> AsyncOpenAI:
    return stand.openai()


async def engine_usage(engine: RunningEngine, **fields: object) -> CompletionUsage:
    """What the engine says when asked directly."""
    async with AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0) as direct:
        answer = await direct.chat.completions.create(model="m", messages=ASK, max_tokens=30, extra_body=fields)
    assert answer.usage is not None
    return answer.usage


async def test_chat_in_one_piece(client: AsyncOpenAI, engine: RunningEngine) -> None:
    """The answer is the engine's own, its usage included; headers tell of the decision."""
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=ASK, max_tokens=30)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage == await engine_usage(engine)
    assert raw.headers["x-kvgate-backend"] == "b0"
    assert raw.headers["x-kvgate-decision"] == "admitted"
    assert raw.headers["x-kvgate-queue-ms"] == "0"
    assert 16 <= int(raw.headers["x-kvgate-kv-tokens"]) <= 1024
    assert int(raw.headers["x-kvgate-kv-tokens"]) % 16 == 0


@pytest.mark.parametrize("include_usage", [True, False])
async def test_a_chat_stream(client: AsyncOpenAI, engine: RunningEngine, include_usage: bool) -> None:
    """The same text in pieces; usage comes if and only if the client asked for it."""
    whole = await client.chat.completions.create(
        model="m", messages=ASK, max_tokens=30, extra_body={"ignore_eos": True}
    )
    raw = await client.chat.completions.with_raw_response.create(
        model="m",
        messages=ASK,
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": include_usage},
        extra_body={"ignore_eos": True},
    )
    chunks = [chunk async for chunk in raw.parse()]
    words = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert whole.usage is not None
    assert len("".join(words).split()) == whole.usage.completion_tokens == 30
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert usages == ([whole.usage] if include_usage else [])
    assert all(chunk.choices for chunk in chunks) is not include_usage
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["x-kvgate-decision"] == "admitted"


async def test_a_stream_that_says_nothing_of_its_options(client: AsyncOpenAI) -> None:
    """The gateway asks the engine for usage on its own account, and keeps that answer to itself."""
    stream = await client.completions.create(model="m", prompt="Once", max_tokens=5, stream=True)
    chunks = [chunk async for chunk in stream]
    assert chunks
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_three_answers_at_once(client: AsyncOpenAI, engine: RunningEngine) -> None:
    """`n` choices come side by side, streamed and not."""
    answer = await client.chat.completions.create(model="m", messages=ASK, n=3, max_tokens=12)
    stream = await client.chat.completions.create(model="m", messages=ASK, n=3, max_tokens=12, stream=True)
    seen = {choice.index async for chunk in stream for choice in chunk.choices}
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert seen == {0, 1, 2}
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == (await engine_usage(engine)).prompt_tokens


async def test_completions(client: AsyncOpenAI, engine: RunningEngine) -> None:
    """Text, several prompts, and token arrays; one prompt's tokens are counted exactly as given."""
    text = await client.completions.create(model="m", prompt="Once upon a time", max_tokens=8)
    several = await client.completions.create(model="m", prompt=["One", "Two"], max_tokens=8)
    tokens = await client.completions.create(model="m", prompt=[1, 2, 3, 4, 5], max_tokens=8)
    assert text.object == "text_completion"
    assert text.choices[0].text
    assert len(several.choices) == 2
    assert tokens.usage is not None
    assert tokens.usage.prompt_tokens == 5


async def test_a_forced_tool_call(client: AsyncOpenAI) -> None:
    """Tools pass through, and the call comes back as one."""
    call = await client.chat.completions.create(
        model="m",
        messages=ASK,
        max_tokens=30,
        tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        tool_choice={"type": "function", "function": {"name": "look"}},
    )
    calls = call.choices[0].message.tool_calls or ()
    assert [tool.function.name for tool in calls if tool.type == "function"] == ["look"]


async def test_an_image_within_the_body() -> None:
    """A data: URL passes through; the picture counts as tokens, not as the text that its bytes look like."""
    parts: list[ChatCompletionContentPartParam] = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]
    large = EngineOptions(model="m", kv_tokens=16_384, speed=100.0, output_tokens_mean=20)
    async with start_engine(large) as engine, gateway(engine.url) as stand:
        client = stand.openai()
        seen = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": parts}], max_tokens=9
        )
        assert seen.choices[0].message.content
        assert seen.usage is not None
        assert seen.usage.prompt_tokens > 100


async def test_what_the_engine_does_not_know_is_its_own_answer(client: AsyncOpenAI) -> None:
    """An engine without embeddings says so: its status, as an OpenAI error."""
    with pytest.raises(NotFoundError) as caught:
        await client.embeddings.create(model="m", input="Hello")
    assert caught.value.code == "upstream_rejected"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


async def test_request_ids(client: AsyncOpenAI, stand: Stand) -> None:
    """A good id is kept, a bad one replaced; the client knows it, on answers, errors and streams alike."""
    kept = await client.completions.create(model="m", prompt="x", max_tokens=1, extra_headers={"x-request-id": "abc-1"})
    new = await client.completions.create(model="m", prompt="x", max_tokens=1, extra_headers={"x-request-id": "a b"})
    assert kept._request_id == "abc-1"
    assert new._request_id
    assert new._request_id != "a b"
    with pytest.raises(NotFoundError) as caught:
        await client.completions.create(model="none", prompt="x", extra_headers={"x-request-id": "abc-2"})
    assert caught.value.request_id == "abc-2"
    stream = await client.completions.with_raw_response.create(
        model="m", prompt="x", max_tokens=1, stream=True, extra_headers={"x-request-id": "abc-3"}
    )
    assert stream.headers["x-request-id"] == "abc-3"
    assert [chunk async for chunk in stream.parse()]


async def test_models(client: AsyncOpenAI) -> None:
    """The list, one of it, and one that is not on it."""
    listed = [model.id async for model in client.models.list()]
    assert listed == ["m"]
    model = await client.models.retrieve("m")
    assert (model.id, model.object, model.owned_by) == ("m", "model", "kvgate")
    with pytest.raises(NotFoundError) as caught:
        await client.models.retrieve("none")
    assert caught.value.code == "model_not_found"


async def test_a_public_name_stands_for_the_engines_own() -> None:
    """Clients see the configured name in the list; the engine is asked for the name that it knows."""
    own = EngineOptions(model="org/Model-7B", kv_tokens=1024, speed=100)
    async with (
        start_engine(own) as engine,
        gateway({"name": "one", "url": engine.url, "models": {"nice-name": "org/Model-7B"}}) as stand,
    ):
        client = stand.openai()
        assert [model.id async for model in client.models.list()] == ["nice-name"]
        answer = await client.completions.create(model="nice-name", prompt="x", max_tokens=3)
        assert answer.choices[0].text
        with pytest.raises(NotFoundError):
            await client.completions.create(model="org/Model-7B", prompt="x", max_tokens=3)


async def test_the_default_client_gets_through_a_refusal() -> None:
    """Its two retries would be over within 1.5 s by its own timing; Retry-After makes it come back in time."""
    slow = EngineOptions(model="m", kv_tokens=512, output_tokens_mean=20)
    async with start_engine(slow) as engine, gateway(engine.url, admission={"queue": {"requests_max": 0}}) as stand:
        hasty, patient = stand.openai(), stand.openai(max_retries=2)

        async def generate(client: AsyncOpenAI, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
            raw = await client.completions.with_raw_response.create(
                model="m", prompt=[1] * prompt_tokens, max_tokens=output_tokens, extra_body={"ignore_eos": True}
            )
            usage = raw.parse().usage
            return raw.retries_taken, usage.completion_tokens if usage else 0

        await generate(hasty, 16, 10)  # By now the engine's speed is known.
        async with asyncio.TaskGroup() as group:
            group.create_task(generate(hasty, 16, 200))
            await stand.until(lambda state: state.live == 1)
            with pytest.raises(RateLimitError) as caught:
                await generate(hasty, 430, 40)
            assert caught.value.code == "kv_capacity_exhausted"
            assert 1 < float(caught.value.response.headers["retry-after-ms"]) / 1000 < 8
            retries, output_tokens = await generate(patient, 430, 40)
        assert retries >= 1
        assert output_tokens == 40
