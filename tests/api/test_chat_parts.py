"""A chat is taken apart only where there is no doubt where its messages are; any doubt leaves it to the exact way."""

from __future__ import annotations

import json

import pytest

from gateway.api.chat_parts import BODY_BYTES_MAX, fields_of, take_apart

USER = {"role": "user", "content": 'a "quoted" text, [1] {2}'}
SPACINGS = [(",", ":"), (", ", ": ")]


@pytest.mark.parametrize("spacing", SPACINGS, ids=["compact", "spaced"])
@pytest.mark.parametrize("before", [{}, {"model": "m"}, {"stop": ["a]"], "model": "m"}], ids=len)
@pytest.mark.parametrize("after", [{}, {"n": 1}, {"stream": True, "user": '"messages":'}], ids=len)
def test_what_encoders_write_is_taken_apart(
    spacing: tuple[str, str], before: dict[str, object], after: dict[str, object]
) -> None:
    """The fields are those of the body in their order, and the messages are a view of it."""
    chat = {**before, "messages": [USER, {"role": "assistant", "content": "x" * 20_000}], **after}
    body = json.dumps(chat, separators=spacing).encode()
    parts = take_apart(body)
    assert parts is not None
    fields = fields_of(parts)
    assert fields is not None
    assert fields["messages"] is parts.raw
    assert [(name, json.loads(bytes(raw))) for name, raw in fields.items()] == list(chat.items())
    assert bytes(fields["messages"]) in body
    assert json.loads(parts.frame) == {**chat, "messages": 0}
    assert [json.loads(bytes(message["content"])) for message in parts.messages] == [USER["content"], "x" * 20_000]


@pytest.mark.parametrize(
    "body",
    [
        b'{"metadata":{"messages":[{"role":"user"}]},"messages":[{"role":"user"}]}',
        b'{"metadata":{"messages":[{"role":"user"}]},"messages":[{"role":"user","role":"user"}]}',
        b'{"x\\"messages":[{"role":"user"}],"messages":[{"role":"user"}]}',
        b'{"messages":[{"role":"user"}],"messages":[{"role":"user"}]}',
        b'{"messages":[{"role":"user"}],"mess\\u0061ges":[{"role":"user"}]}',
        b'{"messages":[{"role":"user"}],"n":1,"n":1}',
        b'{"n":1,"messages":[{"role":"user"}],"n":1}',
        b'{"messages": [{"role": "user"}], "n":1, "n" : 1}',
        b'{"messages":[{"role":"user","role":"user"}]}',
        b'{"messages":[{"role":"user"} ]}',
        b'{"messages":[{"role":"user"}],"tools":[{"messages":[{"role":"user"}]}],"messages":[{"role":"tool"}]}',
    ],
)
def test_messages_of_which_there_may_be_others_are_not_taken(body: bytes) -> None:
    """Another field's, a key twice anywhere, or a spacing that no encoder writes."""
    parts = take_apart(body)
    assert parts is None or fields_of(parts) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"messages":[{"role":"user"}]',
        b'{"messages":[{"role":"user"}],}',
        b'{"messages":[{"role":1e}]}',
        b'{"messages":[{"role":"\xff"}]}',
        b'{"messages":[{"role":"user"},1]}',
        b'{"messages":[]}',
        b'{"messages":[\n{"role":"user"}]}',
        b'{"messages":[{"a":%b}]}' % (b"[" * 100_000),
        b'{"model":"%b","messages":[{"role":"user"}]}' % (b"x" * 5_000),
        b'{"messages":[{"role":"user","content":"%b"}]}' % (b"x" * BODY_BYTES_MAX),
    ],
)
def test_what_is_wrong_long_or_late_is_left_alone(body: bytes) -> None:
    """Who reads it step by step says what is wrong with it, in the words of always."""
    assert take_apart(body) is None


def test_many_messages_are_read_and_not_looked_for() -> None:
    """Finding a thousand would take longer than it spares; but they are not decoded again."""
    parts = take_apart(b'{"messages":[%b]}' % b",".join([b'{"role":"user"}'] * 1_001))
    assert parts is not None
    assert (len(parts.messages), parts.raw, fields_of(parts)) == (1_001, None, None)
