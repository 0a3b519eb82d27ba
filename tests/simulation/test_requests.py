"""Request bodies as vLLM reads them."""

import json

import pytest

from gateway.simulation.requests import IMAGE_TOKENS, MESSAGE_TOKENS, Endpoint, Job, VllmError, parse, tokenize


def read(endpoint: Endpoint, **body: object) -> Job:
    """Parse a body for a model `m` with a context of 512."""
    return parse(endpoint, json.dumps(body).encode(), model="m", sequence_tokens_max=512)


def completion(**body: object) -> Job:
    """Parse a completions body."""
    return read(Endpoint.COMPLETIONS, **body)


def chat(content: object = "12345678", **body: object) -> Job:
    """Parse a chat body with one message."""
    return read(Endpoint.CHAT, messages=[{"role": "user", "content": content}], **body)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("hello", (2,)),
        ("", (1,)),
        ("äöü", (2,)),
        ([7, 8, 9], (3,)),
        (["hello", "you"], (2, 1)),
        ([[1], [2, 3]], (1, 2)),
    ],
)
def test_counts_every_kind_of_prompt(prompt: object, tokens: tuple[int, ...]) -> None:
    """Texts by their bytes, token ids one by one."""
    assert completion(prompt=prompt).prompt_tokens == tokens


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], ["a"] * 129, {"a": 1}, None])
def test_refuses_other_prompts(prompt: object) -> None:
    """Nothing, mixtures and too many are errors about the prompt."""
    with pytest.raises(VllmError) as caught:
        completion(prompt=prompt)
    assert (caught.value.status, caught.value.param) == (400, "prompt")


def test_counts_messages_parts_images_and_tools() -> None:
    """All of a chat request takes prompt tokens."""
    assert chat().prompt_tokens == (MESSAGE_TOKENS + 2,)
    assert chat(None).prompt_tokens == (MESSAGE_TOKENS,)
    parts = [
        {"type": "text", "text": "1234"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert chat(parts).prompt_tokens == (MESSAGE_TOKENS + 1 + IMAGE_TOKENS,)
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert chat(tools=tools).prompt_tokens > chat().prompt_tokens


def test_output_limits_default_and_clip_as_in_vllm() -> None:
    """Chat runs to the end of the context, completions to 16; more than the context leaves is cut without a word."""
    assert chat().output_tokens_max == (512 - MESSAGE_TOKENS - 2,)
    assert completion(prompt="hi").output_tokens_max == (16,)
    assert completion(prompt=[1] * 500, max_tokens=100).output_tokens_max == (12,)
    assert chat(max_tokens=9, max_completion_tokens=5).output_tokens_max == (5,)


def test_nulls_are_defaults_and_unknown_fields_are_fine() -> None:
    """Clients send both."""
    job = chat(n=None, stream=None, min_tokens=None, max_tokens=None, stream_options=None, something={"else": [1]})
    assert (job.n, job.stream, job.output_tokens_min) == (1, False, 0)


def test_usage_options_of_a_stream() -> None:
    """Continuous usage counts only together with usage."""
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={"continuous_usage_stats": True}).continuous_usage


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_knows_a_tool_that_must_be_called(choice: object) -> None:
    """`required` means the first tool here; `auto` means none."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert chat(tools=tools, tool_choice=choice).tool == "f"
    assert chat(tools=tools, tool_choice="auto").tool is None


@pytest.mark.parametrize(
    ("body", "status", "type_", "param"),
    [
        (b'{"prompt":', 400, "Bad Request", None),
        (b'{"prompt":"\xff"}', 400, "Bad Request", None),
        (b"[]", 400, "Bad Request", None),
        (b'{"prompt":"x","n":0}', 400, "Bad Request", "n"),
        (b'{"prompt":"x","max_tokens":"many"}', 400, "Bad Request", "max_tokens"),
        (b'{"prompt":"x","max_tokens":513}', 400, "BadRequestError", "max_tokens"),
        (b'{"prompt":"' + b"x" * 2048 + b'"}', 400, "BadRequestError", "input_tokens"),
        (b'{"prompt":"x","model":"other"}', 404, "NotFoundError", "model"),
    ],
)
def test_refuses_as_vllm_does(body: bytes, status: int, type_: str, param: str | None) -> None:
    """Status, type and param of vLLM 0.32."""
    with pytest.raises(VllmError) as caught:
        parse(Endpoint.COMPLETIONS, body, model="m", sequence_tokens_max=512)
    assert (caught.value.status, caught.value.type, caught.value.param) == (status, type_, param)


def test_tokenize_counts_what_a_prompt_counts() -> None:
    """Text or messages; neither is an error."""
    assert len(tokenize(b'{"prompt":"hello you"}', model="m")) == completion(prompt="hello you").prompt_tokens[0]
    messages = b'{"model":"m","messages":[{"role":"user","content":"12345678"}]}'
    assert len(tokenize(messages, model="m")) == chat().prompt_tokens[0]
    with pytest.raises(VllmError):
        tokenize(b"{}", model="m")
