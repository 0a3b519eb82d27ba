"""What a schema says of a field is what the parser does with it, at each of its edges."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.api.allowed_fields import ALLOWED
from gateway.api.field_schemas import request_schema
from gateway.api.parse import parse_inference
from gateway.errors import ApiError
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS

GOOD: dict[str, dict[str, object]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"model": "m", "prompt": "hi"},
    EMBEDDINGS: {"model": "m", "input": "hi"},
}
BESIDE: dict[str, dict[str, object]] = {"stream_options": {"stream": True}}
"""What a field needs beside it."""
OF_EACH_TYPE: dict[str, object] = {
    "null": None,
    "boolean": True,
    "integer": 1,
    "number": 0.5,
    "string": "x",
    "array": [],
    "object": {},
}
FIELDS = [(endpoint, name) for endpoint in ALLOWED for name in ALLOWED[endpoint]]


def types_of(schema: Mapping[str, Any]) -> set[str]:
    """The types of value that a schema takes, as far as its keywords say."""
    if "anyOf" in schema:
        return set().union(*map(types_of, schema["anyOf"]))
    if "enum" in schema:
        return {"null"} if None in schema["enum"] else set()
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {*kinds, "integer"} if "number" in kinds else set(kinds)


def edges(schema: Mapping[str, Any]) -> Iterator[tuple[object, bool]]:
    """Values at the edges of a schema, and whether it takes them."""
    for kind, value in OF_EACH_TYPE.items():
        if kind not in types_of(schema):
            yield value, False
    if "minimum" in schema:
        step = 1 if "integer" in schema["type"] else 0.001
        low, high = schema["minimum"], schema["maximum"]
        yield from ((low, True), (high, True), (low - step, False), (high + step, False))
    if "maxLength" in schema and schema["maxLength"] <= 1_024:
        yield from (("x" * schema["maxLength"], True), ("x" * (schema["maxLength"] + 1), False))
    if "maxItems" in schema:
        item = schema["items"].get("minimum", {} if schema["items"].get("type") == "object" else "x")
        if schema["maxItems"] <= 10_000:
            yield from (([item] * schema["maxItems"], True), ([item] * (schema["maxItems"] + 1), False))
    if "enum" in schema:
        yield from ((value, True) for value in schema["enum"])
        yield "none of them", False
    for one in schema.get("anyOf", ()):
        yield from (
            (value, taken) for value, taken in edges(one) if taken or ("maxItems" in one and isinstance(value, list))
        )


def takes(endpoint: str, name: str, value: object) -> bool:
    """Whether the parser takes a good request with this field."""
    body = {**GOOD[endpoint], **BESIDE.get(name, {}), name: value}
    if name in {"min_tokens", "n"}:
        body.setdefault("max_tokens", 2**31 - 1)
    try:
        parse_inference(endpoint, json.dumps(body).encode())
    except ApiError:
        return False
    return True


@pytest.mark.parametrize(("endpoint", "name"), FIELDS)
def test_parser_and_schema_agree_on_the_edges(endpoint: str, name: str) -> None:
    """The last value that is taken, the first that is not, and values of every other type."""
    schema = request_schema(endpoint)["properties"][name]  # type: ignore[index]
    found = [(value, taken) for value, taken in edges(schema) if takes(endpoint, name, value) != taken]
    assert [(str(value)[:80], taken) for value, taken in found] == []


@pytest.mark.parametrize("endpoint", ALLOWED)
def test_what_is_required_is_what_the_parser_misses(endpoint: str) -> None:
    """And nothing else is."""
    schema = request_schema(endpoint)
    assert set(GOOD[endpoint]) == set(schema["required"])  # type: ignore[call-overload]
    for name in GOOD[endpoint]:
        with pytest.raises(ApiError, match=name):
            parse_inference(endpoint, json.dumps({k: v for k, v in GOOD[endpoint].items() if k != name}).encode())
