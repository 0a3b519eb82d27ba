"""Takes a chat apart in one scan: its messages, and what stands before and behind them.

Step by step, a long text is scanned twice: to find where `messages` ends, and to find what is in it. Here one decoding
gives the messages; written as encoders write them they are found again in the body, so it is known where they end. What
stands around them is short, and mostly the same from request to request of a client.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import Raw

from gateway.api.key_proof import array_end, is_object_proven

Fields: TypeAlias = dict[str, Raw]

BODY_BYTES_MAX = 256 * 1024
"""What is longer is taken apart step by step, with a look at its structure before each."""
_FOUND_MAX = 1_000
"""So many messages are looked for."""
_BEFORE_BYTES_MAX = 4 * 1024
_KEY = b'"messages":'


class _Chat(msgspec.Struct):
    messages: list[Fields]


_CHAT = msgspec.json.Decoder(_Chat)
_OBJECT = msgspec.json.Decoder(Fields)


class ChatParts(NamedTuple):
    """A body that is good JSON and UTF-8."""

    messages: list[Fields]
    """Fields of each message."""
    raw: Raw | None = None
    """The messages as they stand there, none of their keys twice; None: they were not found."""
    frame: bytes = b""
    """The body with a zero in place of the messages."""


def take_apart(body: bytes) -> ChatParts | None:
    """The parts of a chat; None: it has to be read step by step, to see what is wrong with it or because it is long."""
    if len(body) > BODY_BYTES_MAX:
        return None
    at = body.find(_KEY, 0, _BEFORE_BYTES_MAX) + len(_KEY)
    gap = b" " if body.startswith(b" ", at) else b""
    at += len(gap)
    if at < len(_KEY) or not body.startswith(b'[{"', at):
        return None
    try:
        if not body.isascii():
            body.decode()
        messages = _CHAT.decode(body).messages
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    end = array_end(body, at, messages, gap) if len(messages) <= _FOUND_MAX else -1
    if end < 0:
        return ChatParts(messages)
    return ChatParts(messages, Raw(memoryview(body)[at:end]), b"%b0%b" % (body[:at], body[end:]))


def fields_of(parts: ChatParts) -> Fields | None:
    """The top-level fields of a chat whose messages were found, each proven to be there once; None: they are not.

    What was found is a whole array behind a colon, so it is the value of some key in the body, and zero is the value of
    the same key in the frame. There it is the root's only `messages`, while those of the body are an array: it is them.
    """
    if parts.raw is None:
        return None
    try:
        fields = _OBJECT.decode(parts.frame)
    except (msgspec.DecodeError, RecursionError):
        return None
    if bytes(fields.get("messages", b"")) != b"0" or not is_object_proven(parts.frame, fields):
        return None
    fields["messages"] = parts.raw
    return fields
