"""What is proven holds no key twice; what encoders write is proven, and found where it stands."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec import Raw

from gateway.api.key_proof import array_end, is_array_proven, is_object_proven

ITEMS = [{"role": "system", "content": "a: b, c"}, {"role": "user", "content": ["é", {"x": 1}]}]
LONG = [{"role": "user", "content": "x" * 10_000}]
SPACINGS = [(",", ":"), (", ", ": ")]


def items_of(text: str) -> list[dict[str, Raw]]:
    return msgspec.json.decode(text.encode(), type=list[dict[str, Raw]])


@pytest.mark.parametrize("items", [ITEMS, LONG, ITEMS + LONG, ITEMS * 40], ids=["short", "long", "both", "many"])
@pytest.mark.parametrize("spacing", SPACINGS, ids=["compact", "spaced"])
def test_what_an_encoder_wrote_is_proven_and_found(items: list[object], spacing: tuple[str, str]) -> None:
    """By itself, and in the middle of a text; a gap of the other kind is not taken for it."""
    text = json.dumps(items, separators=spacing, ensure_ascii=False)
    raw, parsed = Raw(text), items_of(text)
    gap, other = (b" ", b"") if spacing[1] == ": " else (b"", b" ")
    assert is_array_proven(raw, parsed)
    assert all(is_object_proven(json.dumps(item, separators=spacing).encode(), one)
               for item, one in zip(LONG, items_of(json.dumps(LONG, separators=spacing)), strict=True))  # fmt: skip
    around = b'{"m":' + text.encode() + b',"n":1}'
    assert array_end(around, 5, parsed, gap) == len(around) - len(b',"n":1}')
    assert array_end(around, 5, parsed, other) == -1
    assert array_end(around, 6, parsed, gap) == -1


@pytest.mark.parametrize("filler", ["", "x" * 10_000], ids=["short", "long"])
@pytest.mark.parametrize("twice", ['{"a":1,"a":1}', '{"a": 1, "a": 1}', '{"a": 1,"b":2,"a":1}', '{"a":1, "a" : 1}'])
def test_a_key_that_came_twice_is_never_proven(twice: str, filler: str) -> None:
    """However short it is, and whatever else stands there."""
    text = f'[{{"f":"{filler}"}},{twice}]'
    assert not is_array_proven(Raw(text), items_of(text))
    assert array_end(text.encode(), 0, items_of(text), b"") == -1
    assert not is_object_proven(Raw(twice), items_of(f"[{twice}]")[0])


def test_an_array_that_goes_on_is_not_found() -> None:
    """The end that is found is the end of the array, not of its first items; an empty one is not looked for."""
    assert array_end(b'[{"a":1},{"a":2}]', 0, items_of('[{"a":1}]'), b"") == -1
    assert array_end(b'[{"a":1} ]', 0, items_of('[{"a":1}]'), b"") == -1
    assert array_end(b"[]", 0, [], b"") == -1


def test_what_nests_too_deep_to_be_written_is_not_found() -> None:
    """Nothing but the answer "not found" comes of it."""
    text = '[{"a": %s}]' % ("[" * 900 + "]" * 900)
    assert array_end(text.encode(), 0, items_of(text), b" ") in (-1, len(text))
