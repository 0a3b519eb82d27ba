"""The four forms of a prompt, and what is counted of each."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw

from gateway.api.prompts import TOKEN_IDS_MAX, Prompts, read_prompts
from gateway.errors import ApiError


def read(text: str, count_max: int = 64) -> Prompts:
    return read_prompts("prompt", msgspec.json.decode(f"[{text}]".encode(), type=list[Raw])[0], count_max)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ('"abc"', Prompts(1, text_bytes=5)),
        ('""', Prompts(1, text_bytes=2)),
        ('["a","b"]', Prompts(2, text_bytes=9)),
        ("[ 1 , 2147483647 ]", Prompts(1, token_prompts=(2,))),
        ("[ [1], [2,3] ]", Prompts(2, token_prompts=(1, 2))),
    ],
)
def test_each_form_is_counted(text: str, prompts: Prompts) -> None:
    """Texts by their bytes in the JSON, ids exactly."""
    assert read(text) == prompts


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), min_size=1, max_size=8))
def test_ids_are_counted_exactly(lists: list[list[int]]) -> None:
    """In any spacing."""
    assert read(json.dumps(lists, indent=1)).token_prompts == tuple(map(len, lists))


def test_the_last_allowed_count_passes_and_the_next_does_not() -> None:
    """Of prompts and of ids."""
    assert read(json.dumps(["x"] * 3), 3).count == 3
    assert read(json.dumps([[1]] * 3), 3).count == 3
    assert read("[" + "1," * (TOKEN_IDS_MAX - 1) + "1]").token_prompts == (TOKEN_IDS_MAX,)
    for text in (json.dumps(["x"] * 4), json.dumps([[1]] * 4), "[" + "1," * TOKEN_IDS_MAX + "1]"):
        with pytest.raises(ApiError) as caught:
            read(text, 3)
        assert (caught.value.code, caught.value.param) == ("invalid_value", "prompt")


def test_a_missing_prompt_is_told() -> None:
    """Under the name it has in the endpoint."""
    with pytest.raises(ApiError, match="'input': it is missing"):
        read_prompts("input", None, 1)
