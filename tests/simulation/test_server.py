"""The HTTP surface, met with the real OpenAI client and, where that is too polite, with aiohttp."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI, InternalServerError
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam

from gateway.simulation.exposition import MetricsFault
from gateway.simulation.server import EngineOptions, RunningEngine, start_engine

FAST = EngineOptions(model="m", kv_tokens=1024, block_tokens=32, speed=1000.0, output_tokens_mean=20)
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Tell me about paged memory."}]


@pytest.fixture
async def running() -> AsyncIterator[RunningEngine]:
    """An engine that needs 12 microseconds for a step."""
    async with start_engine(FAST) as engine:
        yield engine


@pytest.fixture
async def client(running: RunningEngine) -> AsyncIterator[AsyncOpenAI]:
    """The client that users have."""
    async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as openai:
        yield openai


@pytest.fixture
async def http(running: RunningEngine) -> AsyncIterator[aiohttp.ClientSession]:
    """A client without manners."""
    async with aiohttp.ClientSession(running.url) as session:
        yield session


async def test_chat_without_a_stream(client: AsyncOpenAI, running: RunningEngine) -> None:
    """Text, finish reason, usage and ids; the same request gets the same text."""
    first = await client.chat.completions.create(model="m", messages=ASK, max_tokens=500)
    again = await client.chat.completions.create(model="m", messages=ASK, max_tokens=500)
    (choice,) = first.choices
    assert choice.finish_reason == "stop"
    assert choice.message.content == again.choices[0].message.content
    assert first.usage is not None
    assert len((choice.message.content or "").split(" ")) == first.usage.completion_tokens
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    assert first.id.startswith("chatcmpl-")
    assert first.id != again.id
    assert running.engine.used_blocks == 0


async def test_a_chat_stream_adds_up_to_the_whole_answer(client: AsyncOpenAI) -> None:
    """Every choice names its role once and finishes once; usage comes alone at the end and covers all choices."""
    text = {0: "", 1: "", 2: ""}
    roles, finishes = [], []
    usage = None
    stream = await client.chat.completions.create(
        model="m",
        messages=ASK,
        n=3,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        extra_headers={"X-Request-Id": "abc"},
    )
    async for chunk in stream:
        assert chunk.id == "chatcmpl-abc"
        if not chunk.choices:
            usage = chunk.usage
            continue
        assert usage is None
        (choice,) = chunk.choices
        text[choice.index] += choice.delta.content or ""
        roles += [choice.index] if choice.delta.role else []
        finishes += [(choice.index, choice.finish_reason)] if choice.finish_reason else []
    assert {index: len(words.split(" ")) for index, words in text.items()} == {0: 12, 1: 12, 2: 12}
    assert roles == [0, 1, 2]
    assert sorted(finishes) == [(0, "length"), (1, "length"), (2, "length")]
    assert usage is not None
    assert usage.completion_tokens == 36


async def test_completions_take_texts_and_token_ids(client: AsyncOpenAI) -> None:
    """Two prompts with two choices each are four choices; token ids count exactly."""
    answer = await client.completions.create(model="m", prompt=[[1, 2, 3], [4, 5]], n=2, max_tokens=3, stream=False)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5
    assert answer.id.startswith("cmpl-")
    stream = await client.completions.create(model="m", prompt="x", max_tokens=5, stream=True)
    pieces = [chunk.choices[0] async for chunk in stream]
    whole = await client.completions.create(model="m", prompt="x", max_tokens=5)
    assert pieces[-1].finish_reason is not None
    assert len("".join(piece.text for piece in pieces).split(" ")) == (
        whole.usage.completion_tokens if whole.usage else 0
    )


async def test_a_required_tool_is_called(client: AsyncOpenAI) -> None:
    """Streamed and not, the named function comes back with empty arguments."""
    tools: list[ChatCompletionFunctionToolParam] = [{"type": "function", "function": {"name": "look_up"}}]
    ask = client.chat.completions.create
    whole = await ask(model="m", messages=ASK, max_tokens=500, tools=tools, tool_choice="required")
    assert whole.choices[0].finish_reason == "tool_calls"
    calls = [call.function for call in whole.choices[0].message.tool_calls or () if call.type == "function"]
    assert [(call.name, call.arguments) for call in calls] == [("look_up", "{}")]
    stream = await ask(model="m", messages=ASK, max_tokens=500, tools=tools, tool_choice="required", stream=True)
    last = [chunk.choices[0] async for chunk in stream][-1]
    assert last.finish_reason == "tool_calls"
    assert [piece.function and piece.function.name for piece in last.delta.tool_calls or ()] == ["look_up"]


async def test_continuous_usage_grows(client: AsyncOpenAI) -> None:
    """With continuous_usage_stats each chunk says how far the answer is."""
    stream = await client.completions.create(
        model="m",
        prompt="x",
        max_tokens=8,
        stream=True,
        extra_body={"ignore_eos": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens async for chunk in stream if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] == 8


async def test_errors_are_vllms(client: AsyncOpenAI, http: aiohttp.ClientSession) -> None:
    """OpenAI-shaped where vLLM is, `detail` where its framework is."""
    with pytest.raises(APIStatusError, match="does not exist") as caught:
        await client.chat.completions.create(model="other", messages=ASK)
    assert (caught.value.status_code, caught.value.param) == (404, "model")
    with pytest.raises(APIStatusError) as caught:
        await client.completions.create(model="m", prompt=[1] * 2000)
    assert (caught.value.status_code, caught.value.param) == (400, "input_tokens")
    async with http.post("/v1/completions", data=b"{", headers={"Content-Type": "application/json"}) as response:
        assert response.status == 400
        assert (await response.json())["error"].keys() == {"message", "type", "param", "code"}
    async with http.post("/v1/completions", data=b"{}") as response:
        assert response.status == 400
    for method, path, status in (("POST", "/v1/embeddings", 404), ("GET", "/v1/completions", 405)):
        async with http.request(method, path) as response:
            assert response.status == status
            assert "detail" in await response.json()


async def test_describes_itself(client: AsyncOpenAI, http: aiohttp.ClientSession) -> None:
    """Models with their context, version, health, token counts, metrics."""
    (model,) = (await client.models.list()).data
    assert (model.id, model.owned_by) == ("m", "vllm")
    assert model.model_extra is not None
    assert (model.model_extra["max_model_len"], model.model_extra["root"]) == (1024, "m")
    async with http.get("/version") as response:
        assert (await response.json())["version"]
    async with http.get("/health") as response:
        assert response.status == 200
    async with http.post("/tokenize", json={"prompt": "12345678"}) as response:
        assert (await response.json())["count"] == 2
    async with http.get("/metrics") as response:
        assert response.content_type == "text/plain"
        assert 'num_gpu_blocks="33"' in await response.text()


async def test_a_burst_over_the_pool_ends_well(client: AsyncOpenAI, running: RunningEngine) -> None:
    """Sixteen requests of 8 blocks on 32 blocks: preempted, queued, all complete."""
    body = {"ignore_eos": True}
    answers = await asyncio.gather(
        *(client.completions.create(model="m", prompt=[1] * 32, max_tokens=200, extra_body=body) for _ in range(16))
    )
    assert {answer.usage.completion_tokens for answer in answers if answer.usage} == {200}
    assert running.engine.preemptions > 0
    assert running.engine.used_blocks == 0


async def test_leaving_a_stream_frees_its_memory() -> None:
    """At the demo's own pace this answer would take minutes."""
    async with (
        start_engine(EngineOptions(model="m")) as slow,
        AsyncOpenAI(base_url=f"{slow.url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream = await client.completions.create(
            model="m", prompt="x", n=4, max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
        )
        async for _ in stream:
            break
        assert slow.engine.running == 4
        await stream.close()
        await slow.idle()
        assert slow.engine.used_blocks == 0
        assert slow.engine.generated_tokens < 8000


async def test_hanging_up_on_a_whole_answer_frees_its_memory() -> None:
    """Without a stream there is nothing to write to: the server must notice that the connection is gone."""
    async with start_engine(EngineOptions(model="m")) as slow, aiohttp.ClientSession(slow.url) as http:
        asking = asyncio.gather(
            http.post("/v1/completions", json={"prompt": "x", "max_tokens": 8000, "ignore_eos": True}),
            return_exceptions=True,
        )
        await slow.busy()
        asking.cancel()
        await asyncio.wait([asking])
        await slow.idle()
        assert slow.engine.used_blocks == 0
        assert slow.engine.generated_tokens < 8000


async def test_a_zombie_keeps_its_memory(client: AsyncOpenAI, running: RunningEngine) -> None:
    """With aborts ignored, the answer is computed to its end for nobody."""
    running.ignore_aborts()
    stream = await client.completions.create(
        model="m", prompt="x", max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    )
    async for _ in stream:
        break
    await stream.close()
    await running.idle()
    assert running.engine.generated_tokens == 900


async def test_metrics_faults_are_switched_on_and_off(http: aiohttp.ClientSession, running: RunningEngine) -> None:
    """An error page, a lie, the truth again."""
    running.break_metrics(MetricsFault.ERROR)
    async with http.get("/metrics") as response:
        assert response.status == 500
    running.break_metrics(usage=0.5)
    async with http.get("/metrics") as response:
        assert 'kv_cache_usage_perc{engine="0",model_name="m"} 0.5' in await response.text()
    running.break_metrics()
    async with http.get("/metrics") as response:
        assert 'kv_cache_usage_perc{engine="0",model_name="m"} 0.0' in await response.text()


async def test_an_engine_that_dies_inside_says_so() -> None:
    """An open stream ends with an error event, new requests get 500, health 503."""
    async with (
        start_engine(EngineOptions(model="m")) as slow,
        AsyncOpenAI(base_url=f"{slow.url}/v1", api_key="none", max_retries=0) as client,
        aiohttp.ClientSession(slow.url) as http,
    ):
        stream = await client.completions.create(
            model="m", prompt="x", max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(stream)
        slow.die_inside()
        with pytest.raises(APIError, match="EngineCore"):
            _ = [chunk async for chunk in stream]
        with pytest.raises(InternalServerError):
            await client.completions.create(model="m", prompt="x")
        async with http.get("/health") as response:
            assert response.status == 503


async def test_a_killed_engine_cuts_streams_and_refuses_connections() -> None:
    """No error event, no end mark: the connection is gone."""
    async with start_engine(EngineOptions(model="m")) as slow, aiohttp.ClientSession(slow.url) as http:
        url = slow.url
        request = {"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
        async with http.post("/v1/completions", json=request) as response:
            assert await response.content.readline()
            await slow.die()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(APIConnectionError):
                await client.models.list()


async def test_stops_with_streams_open_and_leaves_no_task() -> None:
    """The end of the block ends the streams with an error; nothing is left behind."""
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession() as http:
        async with start_engine(EngineOptions(model="m")) as slow:
            request = {"prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
            response = await http.post(f"{slow.url}/v1/completions", json=request)
            await response.content.readline()
        rest = (await response.read()).decode()
    assert '"code":500' in rest
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "options", [EngineOptions(speed=0), EngineOptions(kv_tokens=8), EngineOptions(sequences_max=0)]
)
async def test_refuses_options_that_describe_no_engine(options: EngineOptions) -> None:
    """No speed, no block, no seat."""
    with pytest.raises(ValueError, match=r"at least 1|above 0"):
        async with start_engine(options):
            pass
