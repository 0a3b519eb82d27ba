"""The commented example of a configuration file, and its JSON Schema, written from the descriptions in the schema."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway.config.faults import sections_in
from gateway.config.schema import BackendConfig, Config, SloConfig, TenantConfig

WIDTH = 110
ITEMS: dict[type[BaseModel], list[dict[str, object]]] = {
    BackendConfig: [
        {
            "name": "local-1",
            "kind": "vllm",
            "url": "http://127.0.0.1:8000",
            "models": {"llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct"},
            "gpus": [0],
        },
        {
            "name": "novita",
            "kind": "openai",
            "url": "https://api.novita.ai/openai",
            "api_key": "env:NOVITA_API_KEY",
            "spill_only": True,
            "limits": {"requests_per_minute": 600, "tokens_per_minute": 1000000},
        },
    ],
    SloConfig: [
        {"model": "llama-3.1-8b", "priority": "interactive", "ttft_s": 2.0, "time_per_output_token_s": 0.1},
    ],
    TenantConfig: [
        {"name": "team-a", "keys": ["file:/run/secrets/team-a"], "priority": "interactive", "kv_share": 0.5}
    ],
}
"""What the lists might hold: values for the keys that have no default, and for some that have."""


def schema() -> dict[str, object]:
    """The JSON Schema of the configuration file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema(by_alias=True)}


def example() -> str:
    """A file that says what the defaults say, with every key explained; the items of lists stand in comments."""
    text = (Config.__doc__ or "").replace("\n", " ")
    return "\n".join([*_comment(text, ""), *_keys(Config, {}, "")]) + "\n"


def _keys(section: type[BaseModel], given: dict[str, object], indent: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = field.alias or name
        inner = next(sections_in(field.annotation), None)
        description = field.description or (inner and inner.__doc__) or ""
        yield from _comment(description, indent)
        if inner is None:
            yield f"{indent}{key}: {_plain(given.get(key, _default(field)))}"
        elif _default(field) is None:
            yield f"{indent}{key}: null"
            yield from (f"{indent}# {line}" for line in _keys(inner, {}, ""))
        elif inner in ITEMS:
            yield f"{indent}{key}: []"
            yield from _items(inner, indent)
        else:
            values = given.get(key, {})
            assert isinstance(values, dict)
            yield f"{indent}{key}:"
            yield from _keys(inner, values, f"{indent}  ")


def _items(section: type[BaseModel], indent: str) -> Iterator[str]:
    """The first item with all its keys, the others with what they give only."""
    first, *others = ITEMS[section]
    lines = list(_keys(section, first, ""))
    start = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    yield from (f"{indent}# {line}" for line in lines[:start])
    yield f"{indent}# - {lines[start]}"
    yield from (f"{indent}#   {line}" for line in lines[start + 1 :])
    for item in others:
        yield from (f"{indent}# {'- ' if i == 0 else '  '}{key}: {_plain(item[key])}" for i, key in enumerate(item))


def _default(field: FieldInfo) -> object:
    default = field.get_default(call_default_factory=True, validated_data={})
    return None if default is PydanticUndefined else default


def _plain(value: object) -> str:
    """A value as YAML flow."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _comment(text: str, indent: str) -> Iterator[str]:
    yield from (f"{indent}# {line}" for line in textwrap.wrap(text, WIDTH - len(indent)))
