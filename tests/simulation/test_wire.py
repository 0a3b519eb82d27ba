"""Bodies byte for byte where a client's parser would be forgiving."""

import json
from typing import Any

from gateway.simulation.answers import Choice
from gateway.simulation.requests import Endpoint, Job
from gateway.simulation.wire import DONE, Reply, error_body, event


def a_reply(endpoint: Endpoint, *, include_usage: bool = False) -> Reply:
    """Two choices of three tokens."""
    job = Job(
        endpoint=endpoint,
        prompt_tokens=(10,),
        output_tokens_max=(3,),
        output_tokens_min=0,
        n=2,
        ignore_eos=True,
        stream=True,
        include_usage=include_usage,
        continuous_usage=False,
        tool=None,
    )
    return Reply("id-1", 1, "m", job, [Choice(10, 3, "length", voice) for voice in (0, 1)])


def test_a_chunk_carries_all_tokens_that_came_since_the_last() -> None:
    """A choice without news gets no chunk, and only the last chunk of a choice says why it ended."""
    reply = a_reply(Endpoint.COMPLETIONS)
    (chunk,) = _events(reply.stream_more([0, 1], [2, 1]))
    assert chunk["choices"] == [
        {"index": 0, "text": "The pool", "logprobs": None, "finish_reason": None, "stop_reason": None}
    ]
    assert "usage" not in chunk
    first, second = _events(reply.stream_more([2, 1], [3, 2]))
    assert [chunk["choices"][0]["finish_reason"] for chunk in (first, second)] == ["length", None]


def test_a_stream_ends_with_usage_only_if_asked() -> None:
    """The last chunk has no choices; the prompt counts once for all of them."""
    assert a_reply(Endpoint.CHAT).stream_end() == DONE
    end = a_reply(Endpoint.CHAT, include_usage=True).stream_end()
    assert end.endswith(DONE)
    (chunk,) = _events(end.removesuffix(DONE))
    assert chunk["choices"] == []
    assert chunk["usage"] == {
        "prompt_tokens": 10,
        "total_tokens": 16,
        "completion_tokens": 6,
        "prompt_tokens_details": None,
    }


def test_errors_repeat_the_status_as_code() -> None:
    """As vLLM does, where OpenAI has a word."""
    assert event(error_body(400, "BadRequestError", "no", "n")) == (
        b'data: {"error":{"message":"no","type":"BadRequestError","param":"n","code":400}}\n\n'
    )


def _events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in data.decode().split("\n\n") if line]
