"""The gateway in front of a real llama.cpp server: detection, the API, and the overflow that it is there to prevent."""

import openai
import pytest
from openai.types.chat import ChatCompletionContentPartImageParam, ChatCompletionToolParam

from tests.engines.gateway_page import look, look_until
from tests.engines.load import Load, run_load
from tests.engines.servers import MODEL_NAME, GatewayUrls
from tests.engines.tiny_model import FIRST_TEXT_TOKEN

pytestmark = pytest.mark.timeout(90)

OVERFLOW = Load(requests=16, concurrency=8)
"""8 x 232 tokens at once on 1,024."""
PROMPT = list(range(FIRST_TEXT_TOKEN, FIRST_TEXT_TOKEN + 32))
IGNORE_EOS = {"ignore_eos": True}


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_detects_the_engine_and_its_pool(gateway: GatewayUrls) -> None:
    """Given nothing but a URL, the gateway knows kind, model and the size of the shared pool."""
    page = await look(gateway.admin)
    info = page.labels("kvgate_backend_info")
    assert (info["kind"], info["model_name"]) == ("llamacpp", MODEL_NAME)
    assert page.total("kvgate_backend_kv_capacity_tokens") == 1024


async def test_lists_the_model(gateway: GatewayUrls) -> None:
    """The engine's own model name is what clients ask for."""
    async with client_of(gateway.api) as client:
        assert [model.id async for model in client.models.list()] == [MODEL_NAME]


async def test_answers_as_the_engine_does(gateway: GatewayUrls, llamacpp: str) -> None:
    """Text at temperature 0 and the usage are the same through the gateway."""
    answers = []
    for url in (llamacpp, gateway.api):
        async with client_of(url) as client:
            answer = await client.completions.create(
                model=MODEL_NAME, prompt=PROMPT, max_tokens=16, temperature=0, extra_body=IGNORE_EOS
            )
        assert answer.usage is not None
        answers.append((answer.choices[0].text, answer.usage.prompt_tokens, answer.usage.completion_tokens))
    assert answers[0] == answers[1]
    assert answers[0][1:] == (32, 16)


async def test_streams_a_chat(gateway: GatewayUrls) -> None:
    """A streamed chat ends with a finish reason and, as asked for, a chunk of usage."""
    async with client_of(gateway.api) as client:
        stream = await client.chat.completions.create(
            model=MODEL_NAME,
            messages=[{"role": "user", "content": "the model"}],
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=IGNORE_EOS,
        )
        chunks = [chunk async for chunk in stream]
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


async def test_overflow_kills_streams_without_the_gateway_and_none_with_it(gateway: GatewayUrls, llamacpp: str) -> None:
    """Eight streams at once outgrow the shared pool: the engine ends them all. Admitted by memory, none is lost."""
    direct = await run_load(OVERFLOW, llamacpp)
    assert any("Context size has been exceeded" in error for error in direct.errors)
    guarded = await run_load(OVERFLOW, gateway.api)
    assert guarded.errors == []
    assert [stream.output_tokens for stream in guarded.streams] == [200] * 16
    page = await look_until(gateway.admin, lambda page: page.reserved_tokens == 0)
    assert page.reserved_tokens == 0


async def test_a_client_that_leaves_frees_its_memory(gateway: GatewayUrls) -> None:
    """A stream that is broken off leaves nothing in the ledger."""
    async with client_of(gateway.api) as client:
        stream = await client.completions.create(
            model=MODEL_NAME, prompt=PROMPT, max_tokens=400, stream=True, extra_body=IGNORE_EOS
        )
        await anext(aiter(stream))
        assert stream.response.headers["x-kvgate-kv-tokens"] != "0"
        await stream.close()
    page = await look_until(gateway.admin, lambda page: page.reserved_tokens == 0)
    assert page.reserved_tokens == 0


async def test_an_error_of_the_engine_reaches_the_client(gateway: GatewayUrls) -> None:
    """A prompt that no slot takes is refused with a 400."""
    async with client_of(gateway.api) as client:
        with pytest.raises(openai.BadRequestError, match="tokens"):
            await client.completions.create(model=MODEL_NAME, prompt=PROMPT * 40, max_tokens=4)


async def test_images_and_tools_reach_the_engine(roomy_gateway: GatewayUrls) -> None:
    """What a text model makes of an image is an error of the engine's own, a 500 with llama.cpp; tools it takes."""
    image: ChatCompletionContentPartImageParam = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="},
    }
    tool: ChatCompletionToolParam = {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
    }
    async with client_of(roomy_gateway.api) as client:
        with pytest.raises(openai.InternalServerError, match="engine answered with status 500"):
            await client.chat.completions.create(
                model=MODEL_NAME, messages=[{"role": "user", "content": [image]}], max_tokens=4
            )
        answer = await client.chat.completions.create(
            model=MODEL_NAME, messages=[{"role": "user", "content": "the model"}], tools=[tool], max_tokens=4
        )
    assert answer.choices[0].finish_reason in {"length", "stop"}
