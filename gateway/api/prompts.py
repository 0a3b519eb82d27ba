"""The prompt of a completion and the input of an embedding: a text, token ids, or a list of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from gateway.api import fields as f
from gateway.errors import invalid_value

TOKEN_IDS_MAX = 1_000_000
"""In all prompts of one request."""
_Id = Annotated[int, Meta(ge=0, lt=2**31)]
_IDS = msgspec.json.Decoder(list[_Id])
_ID_LISTS = msgspec.json.Decoder(list[list[_Id]])
_TEXTS = msgspec.json.Decoder(list[str])


@dataclass(frozen=True, slots=True)
class Prompts:
    """What counts of the prompts of one request."""

    count: int
    text_bytes: int = 0
    token_prompts: tuple[int, ...] = ()
    """Lengths of prompts given as token ids."""


def read_prompts(name: str, raw: Raw | None, count_max: int) -> Prompts:
    """Check a prompt in any of its four forms.

    Raises:
        ApiError: 400 `invalid_value` for any other form, an empty list, too many prompts or ids.
    """
    if raw is None or f.is_null(raw):
        raise invalid_value(name, "it is missing")
    if f.is_text(raw):
        return Prompts(1, text_bytes=len(raw))
    # The kind of the first item tells the form. Counts are bounded by the text before anything is decoded.
    text = bytes(raw)
    first = text[1:].lstrip()[:1] if text[:1] == b"[" else b""
    try:
        if first == b'"':
            return _read_texts(name, text, count_max)
        if first == b"[":
            return _read_id_lists(name, text, count_max)
        if first.isdigit() or first == b"-":
            _require_few_ids(name, text)
            return Prompts(1, token_prompts=(len(_IDS.decode(text)),))
    except msgspec.ValidationError as error:
        reason = str(error).split(" - at ", 1)[0]
        raise invalid_value(name, f"it mixes kinds or holds a token id that is none: {reason}") from error
    raise invalid_value(name, "expected a string, an array of strings, of token ids, or of arrays of token ids")


def _read_texts(name: str, text: bytes, count_max: int) -> Prompts:
    texts = _TEXTS.decode(text)
    if len(texts) > count_max:
        raise invalid_value(name, f"at most {count_max:,} prompts are allowed")
    return Prompts(len(texts), text_bytes=len(text))


def _read_id_lists(name: str, text: bytes, count_max: int) -> Prompts:
    if text.count(b"[") - 1 > count_max:
        raise invalid_value(name, f"at most {count_max:,} prompts are allowed")
    _require_few_ids(name, text)
    lengths = tuple(map(len, _ID_LISTS.decode(text)))
    if not all(lengths):
        raise invalid_value(name, "an array of token ids is empty")
    return Prompts(len(lengths), token_prompts=lengths)


def _require_few_ids(name: str, text: bytes) -> None:
    if text.count(b",") >= TOKEN_IDS_MAX:
        raise invalid_value(name, f"at most {TOKEN_IDS_MAX:,} token ids are allowed")
