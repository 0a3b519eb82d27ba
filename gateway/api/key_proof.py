"""Shows that no key of an object came twice by holding what was read against the text: cheaper than an exact reader.

If keys and values, written compactly, are as long as the text, nothing else can be in it. Where blanks make it longer,
what was read is written with a space after each colon and comma, as Python does it, and compared; then blanks are left
out on both sides. What is left, such as keys written with escapes, none of these ways can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw

_LONG_BYTES = 4 * 1024
"""Objects that are so long on average are compared piece by piece: it takes more steps, and copies no long prompt."""
_BLANKS = b" \t\r\n"
_ENCODE = msgspec.json.Encoder().encode


def is_object_proven(raw: Raw | bytes, fields: Mapping[str, Raw]) -> bool:
    """Whether the text, of an object that was read as these fields, holds nothing else."""
    if len(raw) == _least_length(fields):
        return True
    text = bytes(raw)
    return _object_end(text, 0, fields, b" ") == len(text) or len(_unspaced(text)) == _unspaced_length(fields)


def is_array_proven(raw: Raw, items: Sequence[Mapping[str, Raw]]) -> bool:
    """As `is_object_proven`, for an array of objects."""
    frame = 1 + max(1, len(items))
    if len(raw) == frame + sum(map(_least_length, items)):
        return True
    text = bytes(raw)
    if array_end(text, 0, items, b" ") == len(text):
        return True
    return len(_unspaced(text)) == frame + sum(map(_unspaced_length, items))


def array_end(text: bytes, at: int, items: Sequence[Mapping[str, Raw]], gap: bytes) -> int:
    """Where an array of these objects ends if it stands here with the same gap after each colon and comma; else -1.

    Args:
        text: has it somewhere.
        at: where it begins.
        items: what was read. An empty array is not looked for.
        gap: a space or nothing.
    """
    if len(text) < _LONG_BYTES * len(items):
        written = _written(items, gap)
        return at + len(written) if written and text.startswith(written, at) else -1
    before = b"["
    for fields in items:
        if not text.startswith(before, at):
            return -1
        at = _object_end(text, at + len(before), fields, gap)
        if at < 0:
            return -1
        before = b",%b" % gap
    return at + 1 if items and text.startswith(b"]", at) else -1


def _object_end(text: bytes, at: int, fields: Mapping[str, Raw], gap: bytes) -> int:
    """As `array_end`, for an object, piece by piece."""
    before = b"{"
    for key, value in fields.items():
        start = b'%b"%b":%b' % (before, key.encode(), gap)
        if not text.startswith(start, at):
            return -1
        at += len(start)
        if not text.startswith(value, at):
            return -1
        at += len(value)
        before = b",%b" % gap
    end = b"}" if fields else b"{}"
    return at + len(end) if text.startswith(end, at) else -1


def _written(items: Sequence[Mapping[str, Raw]], gap: bytes) -> bytes:
    """As JSON, all the way down with the same gap; empty if it is too deep for that."""
    compact = _ENCODE(items)
    if not gap:
        return compact
    try:
        return msgspec.json.format(compact, indent=0)
    except RecursionError:
        return b""


def _least_length(fields: Mapping[str, Raw]) -> int:
    """Of the shortest text with these fields: a brace at each end, `"":` around each key, commas between."""
    if not fields:
        return 2
    return len("".join(fields)) + sum(map(len, fields.values())) + 4 * len(fields) + 1


def _unspaced(text: bytes) -> bytes:
    """The text without its blanks, those within strings included."""
    return text.translate(None, _BLANKS)


def _unspaced_length(fields: Mapping[str, Raw]) -> int:
    """Length of keys and values without blanks, written compactly."""
    if not fields:
        return 2
    keys, values = "".join(fields).encode(), b"".join(fields.values())
    return len(_unspaced(keys)) + len(_unspaced(values)) + 4 * len(fields) + 1
