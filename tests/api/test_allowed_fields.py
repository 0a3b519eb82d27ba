"""The allow-list keeps up with the official client, and holds nothing that is unsafe."""

from __future__ import annotations

import typing

import pytest
from openai.types import CompletionCreateParams, EmbeddingCreateParams
from openai.types.chat import CompletionCreateParams as ChatCompletionCreateParams

from gateway.api.allowed_fields import ALLOWED, UNSAFE, is_unsafe
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS


def fields_of(params: object) -> set[str]:
    """The fields of a type of the official client, which may be a union."""
    return {name for kind in typing.get_args(params) or (params,) for name in typing.get_type_hints(kind)}


@pytest.mark.parametrize(
    ("endpoint", "params"),
    [(CHAT, ChatCompletionCreateParams), (COMPLETIONS, CompletionCreateParams), (EMBEDDINGS, EmbeddingCreateParams)],
)
def test_every_field_of_the_official_client_is_allowed(endpoint: str, params: object) -> None:
    """An update of the client that brings a new one shows here first."""
    assert fields_of(params) - set(ALLOWED[endpoint]) == set()


@pytest.mark.parametrize("endpoint", ALLOWED)
def test_nothing_unsafe_is_allowed(endpoint: str) -> None:
    """A field is on one list or the other."""
    assert [name for name in ALLOWED[endpoint] if is_unsafe(name)] == []


def test_unsafe_fields_are_known_by_name_and_by_family() -> None:
    """Engines name new ones after old ones."""
    assert all(map(is_unsafe, UNSAFE))
    assert all(map(is_unsafe, ("bootstrap_room_v2", "guided_x", "kv_connector", "lora_request")))
    assert not any(map(is_unsafe, ("zzz", "temperature", "")))
