"""The gateway in front of real vLLM: what is detected, what passes unchanged, and what memory pressure does."""

from collections.abc import AsyncIterator

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.engines.gateway_page import look, look_until
from tests.engines.load import KV_USED, Load, read_metrics, run_load
from tests.engines.servers import MODEL_NAME, GatewayUrls
from tests.engines.tiny_model import FIRST_TEXT_TOKEN

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

PRESSURE = Load(requests=64, concurrency=64)
"""64 x 232 tokens at once on 1,024: without the gateway, vLLM preempts well over a hundred times."""
PROMPT = list(range(FIRST_TEXT_TOKEN, FIRST_TEXT_TOKEN + 32))
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "the model"}]
TOOLS: list[ChatCompletionToolParam] = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
]
IGNORE_EOS = {"ignore_eos": True}
GENERATED = "vllm:generation_tokens_total"
BROKEN_OFF = 4
"""Streams that their client leaves; each may get some tokens further before the engine hears of it."""


@pytest.fixture
async def client(gateway: GatewayUrls) -> AsyncIterator[openai.AsyncOpenAI]:
    """The client that users have, pointed at the gateway."""
    async with openai.AsyncOpenAI(base_url=f"{gateway.api}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def direct(vllm: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """The same client, pointed at the engine."""
    async with openai.AsyncOpenAI(base_url=f"{vllm}/v1", api_key="none", max_retries=0) as client:
        yield client


async def engine_total(vllm: str, name: str) -> float:
    async with aiohttp.ClientSession() as session:
        return (await read_metrics(session, f"{vllm}/metrics"))[name]


async def assert_ledger_is_empty(gateway: GatewayUrls) -> None:
    page = await look_until(gateway.admin, lambda page: page.reserved_tokens == 0)
    assert page.reserved_tokens == 0


async def test_detects_the_engine_and_its_pool(gateway: GatewayUrls) -> None:
    """Given nothing but a URL, the gateway knows kind, version, model and usable tokens: the null block is not one."""
    page = await look(gateway.admin)
    info = page.labels("kvgate_backend_info")
    assert (info["kind"], info["model_name"], info["engine_version"]) == ("vllm", MODEL_NAME, "0.32.0")
    assert page.total("kvgate_backend_kv_capacity_tokens") == 1024


async def test_reserves_whole_blocks_of_the_engine(gateway: GatewayUrls) -> None:
    """33 prompt tokens and one more take two blocks of 32, which shows that the block size was read."""
    body = {"model": MODEL_NAME, "prompt": [*PROMPT, FIRST_TEXT_TOKEN], "max_tokens": 1}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{gateway.api}/v1/completions", json=body) as response,
    ):
        assert response.status == 200
        assert response.headers["x-kvgate-decision"] == "admitted"
        assert response.headers["x-kvgate-kv-tokens"] == "64"


async def test_lists_the_model(client: openai.AsyncOpenAI) -> None:
    """The engine's own model name is what clients ask for."""
    assert [model.id async for model in client.models.list()] == [MODEL_NAME]


async def test_completion_is_the_engines(client: openai.AsyncOpenAI, direct: openai.AsyncOpenAI) -> None:
    """Text at temperature 0, finish reason and usage are the same through the gateway."""
    through, straight = [
        await one.completions.create(
            model=MODEL_NAME, prompt=PROMPT, max_tokens=16, temperature=0, extra_body=IGNORE_EOS
        )
        for one in (client, direct)
    ]
    assert through.choices == straight.choices
    assert through.usage == straight.usage


async def test_chat_is_the_engines(client: openai.AsyncOpenAI, direct: openai.AsyncOpenAI) -> None:
    """The same for a chat, fields that only vLLM has included."""
    through, straight = [
        await one.chat.completions.create(
            model=MODEL_NAME, messages=MESSAGES, max_tokens=16, temperature=0, extra_body=IGNORE_EOS
        )
        for one in (client, direct)
    ]
    assert through.choices == straight.choices
    assert through.usage == straight.usage


async def test_streamed_chat_carries_usage_only_if_asked_for(client: openai.AsyncOpenAI) -> None:
    """The gateway needs the usage in any case; a client that did not ask for it gets no such chunk."""
    silent = await client.chat.completions.create(
        model=MODEL_NAME, messages=MESSAGES, max_tokens=8, stream=True, extra_body=IGNORE_EOS
    )
    chunks = [chunk async for chunk in silent]
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert all(chunk.choices for chunk in chunks)
    telling = await client.chat.completions.create(
        model=MODEL_NAME,
        messages=MESSAGES,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=IGNORE_EOS,
    )
    chunks = [chunk async for chunk in telling]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


async def test_streamed_completion_with_two_answers(client: openai.AsyncOpenAI) -> None:
    """With n = 2 both answers come, and the usage is the sum of both."""
    stream = await client.completions.create(
        model=MODEL_NAME,
        prompt=PROMPT,
        n=2,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=IGNORE_EOS,
    )
    chunks = [chunk async for chunk in stream]
    ends = {choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason == "length"}
    assert ends == {0, 1}
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (32, 16)


async def test_tools_reach_the_engine(client: openai.AsyncOpenAI) -> None:
    """A server without a parser for tools says so itself, and takes them if none is to be called."""
    answer = await client.chat.completions.create(
        model=MODEL_NAME, messages=MESSAGES, tools=TOOLS, tool_choice="none", max_tokens=4
    )
    assert answer.choices[0].finish_reason in {"length", "stop"}
    with pytest.raises(openai.BadRequestError, match="enable-auto-tool-choice"):
        await client.chat.completions.create(
            model=MODEL_NAME, messages=MESSAGES, tools=TOOLS, tool_choice="auto", max_tokens=4
        )


async def test_unknown_model_is_a_404(client: openai.AsyncOpenAI) -> None:
    """A model that no backend serves is not found."""
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model="nobody", prompt=PROMPT, max_tokens=4)


async def test_prompt_beyond_the_context_is_a_400(client: openai.AsyncOpenAI, gateway: GatewayUrls) -> None:
    """A prompt longer than the context can never be served; nothing stays reserved for it."""
    with pytest.raises(openai.BadRequestError):
        await client.completions.create(model=MODEL_NAME, prompt=PROMPT * 20, max_tokens=4)
    await assert_ledger_is_empty(gateway)


async def test_a_client_that_leaves_frees_its_memory(
    client: openai.AsyncOpenAI, gateway: GatewayUrls, vllm: str
) -> None:
    """A stream that is broken off ends in the engine too, and leaves nothing in the ledger."""
    before = await engine_total(vllm, GENERATED)
    for _ in range(BROKEN_OFF):
        stream = await client.completions.create(
            model=MODEL_NAME, prompt=PROMPT, max_tokens=400, stream=True, extra_body=IGNORE_EOS
        )
        await anext(aiter(stream))
        await stream.close()
    await assert_ledger_is_empty(gateway)
    assert await engine_total(vllm, GENERATED) - before < BROKEN_OFF * 400
    assert await engine_total(vllm, KV_USED) == 0


async def test_pressure_preempts_without_the_gateway_and_not_with_it(gateway: GatewayUrls, vllm: str) -> None:
    """64 requests at once on 1,024 tokens: no preemption and none lost. How fast, `benchmarks/kv_pressure.py` tells."""
    straight = await run_load(PRESSURE, vllm, f"{vllm}/metrics")
    through = await run_load(PRESSURE, gateway.api, f"{vllm}/metrics")
    assert straight.preemptions is not None
    assert straight.preemptions > 100
    assert through.preemptions == 0
    assert through.errors == []
    assert [stream.output_tokens for stream in through.streams] == [200] * 64
    await assert_ledger_is_empty(gateway)
