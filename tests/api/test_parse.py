"""Whole bodies: what clients really send is taken, what must not pass is answered, and nothing ever crashes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from gateway.api import parse as parse_module
from gateway.api.parse import ParsePolicy, parse_inference
from gateway.errors import ApiError
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest
from tests.hostile_bodies import HOSTILE, Hostile, chat

USER = {"role": "user", "content": "hi"}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
KNOWN = st.sampled_from(
    ["model", "messages", "prompt", "input", "n", "max_tokens", "stream", "stream_options", "tools", "stop"]
)


def parse(endpoint: str = CHAT, policy: ParsePolicy | None = None, **fields: object) -> InferenceRequest:
    body = json.dumps({"model": "m", **fields}, separators=(",", ":")).encode()
    return parse_inference(endpoint, body, policy or ParsePolicy())


def outcome(endpoint: str, body: bytes) -> int | str:
    """The status of the refusal, or the model of the request."""
    try:
        return parse_inference(endpoint, body).model
    except ApiError as error:
        return error.status


def refusal(endpoint: str, body: bytes, policy: ParsePolicy | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_inference(endpoint, body, policy or ParsePolicy())
    return caught.value


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies_get_their_own_answer(hostile: Hostile) -> None:
    """Each row of the table gets its status, its code and the path of what is wrong."""
    error = refusal(hostile.endpoint, hostile.body)
    assert (error.code, error.param) == (hostile.code, hostile.param), (hostile, error)
    assert error.status == (404 if hostile.code == "model_not_found" else 400)
    assert len(error.message) < 400


@pytest.mark.parametrize("spacing", [{"separators": (",", ":")}, {}, {"indent": 2}, {"ensure_ascii": False}])
def test_everything_the_official_client_sends_is_taken(spacing: dict[str, object]) -> None:
    """All fields of OpenAI's chat endpoint at once, in every spacing that encoders write."""
    fields = {
        "model": "meta-llama/Llama-3.1-8B:x@1",
        "messages": [
            {"role": "developer", "content": 'é \u4f60\u597d 😀 \\ " \n'},
            {"role": "user", "content": [{"type": "text", "text": "a: b"}], "name": "u"},
            {"role": "assistant", "content": None, "refusal": None, "audio": None, "function_call": None,
             "annotations": [], "tool_calls": [
                 {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "4", "tool_call_id": "c"},
        ],
        "frequency_penalty": 0, "presence_penalty": -2, "temperature": 2.0, "top_p": 1, "logit_bias": {"5": -100},
        "logprobs": True, "top_logprobs": 20, "max_completion_tokens": 5, "metadata": {"k": "v"}, "n": 2,
        "modalities": ["text"], "parallel_tool_calls": True, "prediction": {"type": "content", "content": "x"},
        "reasoning_effort": "high",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "safety_identifier": "s", "seed": 2**63 - 1, "service_tier": "auto", "stop": ["a", "b"], "store": False,
        "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}, "tool_choice": "auto",
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
        "user": "u", "verbosity": "low", "web_search_options": {}, "prompt_cache_key": "k",
        "prompt_cache_retention": "24h", "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [1],
        "skip_special_tokens": True, "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    body = json.dumps(fields, **spacing).encode()  # type: ignore[arg-type]
    request = parse_inference(CHAT, body)
    assert request.body is body
    assert list(request.fields) == list(fields)
    assert (request.model, request.stream, request.include_usage) == (fields["model"], True, True)
    assert (request.shape.n, request.shape.max_tokens, request.shape.messages) == (2, 5, 4)


def test_null_stands_for_not_given() -> None:
    """Clients write null for what they leave to the server."""
    request = parse(messages=[USER], n=None, max_tokens=None, stream=None, stream_options=None, tools=None, stop=None,
                    temperature=None, seed=None, logit_bias=None, user=None, response_format=None, metadata=None,
                    modalities=None, tool_choice=None, stop_token_ids=None, chat_template_kwargs=None)  # fmt: skip
    assert (request.shape.n, request.shape.max_tokens, request.stream) == (1, None, False)


def test_both_output_limits_may_be_given_if_they_agree() -> None:
    """Then there is no doubt which one an engine takes."""
    assert parse(messages=[USER], max_tokens=7, max_completion_tokens=7).shape.max_tokens == 7


def test_completions_count_what_the_engine_generates() -> None:
    """`best_of` sequences per prompt run, and without a limit the endpoint's own default holds."""
    shape = parse(COMPLETIONS, prompt=["ab", "c"], n=2, best_of=3, suffix="s").shape
    assert (shape.n, shape.prompts, shape.max_tokens, shape.token_prompts) == (3, 2, 16, ())
    assert shape.text_bytes == len('["ab","c"]"s"')


def test_token_prompts_are_counted_exactly() -> None:
    """Token ids need no estimate, and are no part of the limit on values."""
    assert parse(COMPLETIONS, prompt=list(range(50_000))).shape.token_prompts == (50_000,)
    assert parse(COMPLETIONS, prompt=[[1, 2], [3]]).shape.token_prompts == (2, 1)


def test_embeddings_generate_nothing() -> None:
    """Inputs by the thousand are usual there."""
    shape = parse(EMBEDDINGS, input=["x"] * 2_048, encoding_format="float", dimensions=8).shape
    assert (shape.prompts, shape.output, shape.max_tokens) == (2_048, False, None)


def test_text_bytes_hold_what_becomes_prompt_text() -> None:
    """Messages and tools as they stand in the JSON, pictures' data aside."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5_000}}
    shape = parse(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, picture]}], tools=tools).shape
    assert shape.images == 1
    assert shape.text_bytes < 200
    plain = parse(messages=[USER], tools=tools).shape
    assert plain.text_bytes == len(json.dumps([USER], separators=(",", ":")) + json.dumps(tools, separators=(",", ":")))


def test_outputs_that_cannot_end_early_are_marked() -> None:
    """Admission must count all of `max_tokens` for them."""
    assert parse(messages=[USER], ignore_eos=True, min_tokens=4, max_tokens=9).runs_to_max
    assert not parse(messages=[USER], max_tokens=9).runs_to_max


def test_dropped_fields_are_gone_from_the_forwarded_bytes() -> None:
    """Unknown and unsafe ones alike; the rest stays as it was."""
    body = chat('"zzz" : {"a":[1]} , "n": 1,"kv_transfer_params":{}')
    request = parse_inference(CHAT, body, ParsePolicy(unknown_fields="drop"))
    assert json.loads(request.body) == {"model": "m", "messages": [USER], "n": 1}
    assert list(request.fields) == ["model", "messages", "n"]


def test_unknown_fields_pass_if_told_but_unsafe_ones_only_by_name() -> None:
    """`pass` is for fields of tomorrow, not for those that reach into an engine."""
    passing = ParsePolicy(unknown_fields="pass")
    assert parse(messages=[USER], zzz={"a": 1}, policy=passing).body.endswith(b'"zzz":{"a":1}}')
    for name in ("kv_transfer_params", "guided_json", "bootstrap_x", "priority", "lora_request"):
        assert refusal(CHAT, chat(f'"{name}":1'), passing).param == name
    named = ParsePolicy(extra_fields=frozenset({"priority"}))
    assert parse(messages=[USER], priority=1, policy=named).fields.keys() == {"model", "messages", "priority"}


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', "1e400", '{"a":1e400}', "[" * 70 + "]" * 70])
def test_fields_that_pass_are_still_strict_json(text: str) -> None:
    """No policy lets two readers see two things."""
    assert refusal(CHAT, chat(f'"zzz":{text}'), ParsePolicy(unknown_fields="pass")).status == 400


def test_n_follows_the_policy() -> None:
    """OpenAI's own maximum is 128; ours is lower unless told."""
    assert parse(messages=[USER], n=128, policy=ParsePolicy(n_max=128)).shape.n == 128


@given(st.dictionaries(st.text(max_size=12), JSON_VALUES, max_size=6), st.sampled_from(["reject", "drop", "pass"]))
def test_unknown_fields_never_crash(fields: dict[str, object], unknown: str) -> None:
    """Whatever the policy: an answer, or a request that still says what the client said."""
    body = json.dumps({**fields, "model": "m", "messages": [USER]}).encode()
    try:
        request = parse_inference(CHAT, body, ParsePolicy(unknown_fields=unknown))  # type: ignore[arg-type]
    except ApiError:
        return
    assert json.loads(request.body).items() <= json.loads(body).items()


@given(st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]), st.dictionaries(KNOWN, JSON_VALUES, max_size=6))
def test_known_fields_of_any_value_never_crash(endpoint: str, fields: dict[str, object]) -> None:
    """Only `ApiError` comes out, never a 5xx."""
    answer = outcome(endpoint, json.dumps(fields).encode())
    assert answer in (400, 404) or answer == fields["model"]


@given(st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]), st.binary(max_size=200))
def test_random_bytes_never_crash(endpoint: str, body: bytes) -> None:
    """Nothing random is a request."""
    assert refusal(endpoint, body).status == 400


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_damaged_bodies_never_crash(at: int, damage: bytes) -> None:
    """A good body with a few bytes overwritten is either still good to a strict reader, or refused."""
    body = bytearray(chat('"tools":[{"type":"function","function":{"name":"f"}}],"max_tokens":5,"stream":true'))
    body[at % len(body) : at % len(body) + len(damage)] = damage
    answer = outcome(CHAT, bytes(body))
    assert answer in (400, 404) or answer == json.loads(body)["model"]


NESTED = b'{"model":"m","metadata":{"messages":[%b]},"messages":[{"role":"user","content":"x","role":"user"}]}'


def test_messages_of_another_field_prove_nothing_about_the_messages() -> None:
    """They may be equal for a lenient reader, while a key came twice in only one of them."""
    assert refusal(CHAT, NESTED % b'{"role":"user","content":"x"}').code == "duplicate_key"


@pytest.mark.parametrize("spacing", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_the_same_settings_around_other_messages_mean_the_same(spacing: tuple[str, str]) -> None:
    """Nothing of one request is in the next but what both say."""
    settings = {"max_tokens": 5, "n": 2, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}

    def read(text: str) -> InferenceRequest:
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **settings}
        return parse_inference(CHAT, json.dumps(body, separators=spacing).encode())

    first, again = read("a"), read("another")
    shape = again.shape
    assert (shape.n, shape.max_tokens, shape.stream, shape.messages) == (2, 5, True, 1)
    assert (again.stream, again.include_usage, again.runs_to_max, again.model) == (True, True, True, "m")
    assert shape.text_bytes == first.shape.text_bytes + len("another") - len("a")
    assert list(again.fields) == list(first.fields) == ["model", "messages", *settings]
    assert json.loads(bytes(first.fields["messages"]))[0]["content"] == "a"
    assert json.loads(bytes(again.fields["messages"]))[0]["content"] == "another"


def test_known_settings_are_judged_by_the_policy_of_the_moment() -> None:
    """And what is wrong with the messages is seen whatever stands around them."""
    assert parse(messages=[USER], n=4).shape.n == 4
    body = json.dumps({"model": "m", "messages": [USER], "n": 4}, separators=(",", ":")).encode()
    assert refusal(CHAT, body, ParsePolicy(n_max=3)).param == "n"
    assert refusal(CHAT, body.replace(b"user", b"nobody")).param == "messages[0].role"
    assert refusal(CHAT, body.replace(b'"hi"', b'"hi","content":"hi"')).code == "duplicate_key"
    assert parse_inference(CHAT, body, ParsePolicy(n_max=4)).shape.n == 4


def test_only_numbers_and_switches_are_remembered() -> None:
    """No words of a client, no long text, and no more than a few hundred."""
    for count in range(1, 400):
        parse(messages=[USER], max_tokens=count, temperature=0.5)
    parse(messages=[{"role": "user", "content": "secret words"}], user="secret user")
    parse(messages=[USER], stop="secret stop")
    known = parse_module._KNOWN
    assert 0 < len(known) <= 256
    assert not any(b"secret" in frame for frame in known)
    assert all(bytes(said.fields["messages"]) == b"0" for said in known.values())
