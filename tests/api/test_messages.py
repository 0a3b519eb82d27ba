"""Messages that real clients send are taken; what is counted of them is right."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import Raw

from gateway.api.messages import MessageReader, Messages
from gateway.api.strict_json import StrictReader
from gateway.errors import ApiError

HOSTS = frozenset({"cdn.example.com"})


def read(*messages: object, hosts: frozenset[str] = frozenset()) -> Messages:
    raw = msgspec.json.decode(json.dumps([messages]).encode(), type=list[Raw])[0]
    return MessageReader(StrictReader(), hosts).read(raw)


def image(url: str) -> dict[str, object]:
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]}


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_of_the_protocol_is_known(role: str) -> None:
    """With or without a name."""
    assert read({"role": role, "content": "x", "name": "n"}).count == 1


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    """Clients append the engine's own message, with all its empty fields and its reasoning."""
    answer = {
        "role": "assistant", "content": None, "refusal": None, "annotations": None, "audio": None,
        "function_call": {"name": "f", "arguments": "{}"}, "reasoning": "r", "reasoning_content": "r",
        "tool_calls": [
            {"id": "c", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}},
            {"id": "d", "type": "custom", "custom": {"name": "f", "input": "x"}},
        ],
    }  # fmt: skip
    result = read(answer, {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "4"}]})
    assert result == Messages(2)


def test_an_unfinished_answer_may_be_continued() -> None:
    """`prefix` and `partial` mark it, depending on the engine."""
    assert read({"role": "assistant", "content": "x", "prefix": True, "partial": None}).count == 1


def test_media_are_counted_apart_from_text() -> None:
    """Their data is no prompt text."""
    audio = {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "A" * 100, "format": "wav"}}]}
    result = read(image("data:image/png;base64," + "A" * 1_000), audio)
    assert (result.media, result.media_bytes) == (2, len('"data:image/png;base64,"') + 1_000 + 102)


def test_parts_carry_cache_marks() -> None:
    """Hints for prompt caches are harmless and usual."""
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    assert read({"role": "user", "content": [part, {"type": "refusal", "refusal": "no"}]}).count == 1


@pytest.mark.parametrize("url", ["https://cdn.example.com/a.png", "http://CDN.example.com:8080/a?b=c#d"])
def test_remote_media_of_a_listed_host_pass(url: str) -> None:
    """If the operator lists any."""
    assert read(image(url), hosts=HOSTS).media == 1


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.com/", "https://cdn.example.com.evil.com/", "https://cdn.example.com@evil.com/"),
        *("https://evil.com\\@cdn.example.com/", "https://user:p@cdn.example.com/", "file://cdn.example.com/etc"),
        *("https://cdn.example.com /", "https://cdn.example.com\n.evil.com", "//cdn.example.com/", "https:///x"),
        *(
            "https://[cdn.example.com]/",
            "https://cdn.ex\u00e4mple.com/",
            "cdn.example.com",
            "https://evil.com#cdn.example.com",
        ),
    ],
)
def test_no_other_url_passes_for_a_listed_host(url: str) -> None:
    """Least of all one in which two readers could see two hosts."""
    with pytest.raises(ApiError) as caught:
        read(image(url), hosts=HOSTS)
    assert caught.value.code == "unsupported_parameter"
