"""JSON Schema of the fields that requests may have: what the parser takes, written for people's tools.

A schema says a little less than the parser: sizes in bytes, depth and what fields say about each other have no words in
it. What a schema refuses the parser refuses too, and the examples that follow a schema are taken: tests hold both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from gateway.api.allowed_fields import ALLOWED, TOKENS_MAX
from gateway.api.parse import DEFAULT_POLICY, EMBEDDING_INPUTS_MAX, PROMPTS_MAX
from gateway.api.prompts import TOKEN_IDS_MAX
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS

Schema: TypeAlias = Mapping[str, object]

_STRING: Schema = {"type": "string"}
_STRING_OR_NULL: Schema = {"type": ["string", "null"]}
_OBJECT: Schema = {"type": "object"}
_TREE: Schema = {"type": ["object", "array", "null"]}
_BOOLEAN: Schema = {"type": ["boolean", "null"]}
_MAPPING: Schema = {"type": ["object", "null"]}
_WORD_OR_MAPPING: Schema = {"anyOf": [{"type": "string", "maxLength": 1_024}, _MAPPING]}
_TOKEN_ID: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def _text(length_max: int = 1_024) -> Schema:
    return {"type": ["string", "null"], "maxLength": length_max}


def _number(low: float, high: float) -> Schema:
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def _integer(low: int, high: int) -> Schema:
    return {"type": ["integer", "null"], "minimum": low, "maximum": high}


def _objects(count_max: int) -> Schema:
    return {"type": ["array", "null"], "items": _OBJECT, "maxItems": count_max}


def _prompts(count_max: int) -> Schema:
    ids = {"type": "array", "items": _TOKEN_ID, "minItems": 1, "maxItems": TOKEN_IDS_MAX}
    return {
        "anyOf": [
            _STRING,
            {"type": "array", "items": _STRING, "minItems": 1, "maxItems": count_max},
            ids,
            {"type": "array", "items": ids, "minItems": 1, "maxItems": count_max},
        ]
    }


_LIMIT = _integer(1, TOKENS_MAX)
_SEQUENCES = _integer(1, DEFAULT_POLICY.n_max)
_FLAGS = ("include_usage", "include_obfuscation", "continuous_usage_stats")
_OPTIONS: Schema = {
    "type": ["object", "null"],
    "properties": dict.fromkeys(_FLAGS, _BOOLEAN),
    "additionalProperties": False,
    "description": "Only where stream is true.",
}
_STOP: Schema = {
    "anyOf": [_text(), {"type": "array", "items": {"type": "string", "maxLength": 1_024}, "maxItems": 16}],
}
_BIAS: Schema = {
    "type": ["object", "null"],
    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "maxProperties": 1_024,
}
_FORMAT: Schema = {
    "type": ["object", "null"],
    "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}},
    "required": ["type"],
}
_SWITCHES: Schema = {
    "type": ["object", "null"],
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    "description": "Switches of a chat template; never the template itself.",
}
_PART: Schema = {
    "type": "object",
    "properties": {
        "type": {"enum": ["text", "refusal", "thinking", "image_url", "video_url", "audio_url", "input_audio"]}
    },
    "required": ["type"],
    "description": "Text, or media: inside the request as a data: URL, unless the operator allows hosts.",
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
        "content": {"anyOf": [_STRING_OR_NULL, {"type": "array", "items": _PART}]},
        **dict.fromkeys(("name", "tool_call_id", "refusal", "reasoning", "reasoning_content"), _STRING_OR_NULL),
        "tool_calls": {"type": ["array", "null"], "items": _OBJECT},
        **dict.fromkeys(("function_call", "audio", "annotations"), _TREE),
        **dict.fromkeys(("prefix", "partial"), _BOOLEAN),
    },
    "required": ["role"],
    "additionalProperties": False,
}
_FIELDS: dict[str, Schema] = {
    "model": {"type": "string", "pattern": "^[A-Za-z0-9._:/@-]{1,256}$", "description": "One of `/v1/models`."},
    "user": _text(),
    "frequency_penalty": _number(-2, 2),
    "ignore_eos": _BOOLEAN,
    "include_stop_str_in_output": _BOOLEAN,
    "logit_bias": _BIAS,
    "max_tokens": _LIMIT,
    "metadata": _MAPPING,
    "min_p": _number(0, 1),
    "min_tokens": {**_integer(0, TOKENS_MAX), "description": "At most max_tokens."},
    "n": {**_SEQUENCES, "description": "The operator sets its maximum: `input.n_max`."},
    "presence_penalty": _number(-2, 2),
    "repetition_penalty": _number(0, 10),
    "response_format": _FORMAT,
    "seed": _integer(-(2**63), 2**63 - 1),
    "skip_special_tokens": _BOOLEAN,
    "spaces_between_special_tokens": _BOOLEAN,
    "stop": _STOP,
    "stop_token_ids": {"type": ["array", "null"], "items": _TOKEN_ID, "maxItems": 128},
    "stream": _BOOLEAN,
    "stream_options": _OPTIONS,
    "temperature": _number(0, 2),
    "top_k": _integer(-1, TOKENS_MAX),
    "top_p": _number(0, 1),
    "add_generation_prompt": _BOOLEAN,
    "audio": _MAPPING,
    "chat_template_kwargs": _SWITCHES,
    "continue_final_message": _BOOLEAN,
    "function_call": _WORD_OR_MAPPING,
    "functions": _objects(128),
    "include_reasoning": _BOOLEAN,
    "logprobs": _BOOLEAN,
    "max_completion_tokens": {**_LIMIT, "description": "As max_tokens, from which it must not differ."},
    "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
    "modalities": {"type": ["array", "null"], "items": {"enum": ["text", "audio"]}},
    "moderation": _MAPPING,
    "parallel_tool_calls": _BOOLEAN,
    "prediction": _MAPPING,
    "prompt_cache_key": _text(),
    "prompt_cache_options": _MAPPING,
    "prompt_cache_retention": _text(64),
    "reasoning_effort": _text(64),
    "safety_identifier": _text(),
    "service_tier": _text(64),
    "store": _BOOLEAN,
    "tool_choice": _WORD_OR_MAPPING,
    "tools": _objects(128),
    "top_logprobs": _integer(0, 20),
    "verbosity": _text(64),
    "web_search_options": _MAPPING,
    "best_of": {**_SEQUENCES, "description": "At least n."},
    "echo": {**_BOOLEAN, "description": "Not together with logprobs."},
    "prompt": _prompts(PROMPTS_MAX),
    "suffix": _text(1_048_576),
    "dimensions": _integer(1, 1_000_000),
    "encoding_format": {"enum": ["float", "base64", None]},
    "input": _prompts(EMBEDDING_INPUTS_MAX),
}
_OTHERWISE: dict[str, dict[str, Schema]] = {COMPLETIONS: {"logprobs": _integer(0, 20)}}
"""Where the same name means something else."""
_REQUIRED = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}


def request_schema(endpoint: str) -> Schema:
    """The body of a request to an endpoint.

    Raises:
        KeyError: a field is allowed there that has no schema.
    """
    own = _OTHERWISE.get(endpoint, {})
    return {
        "type": "object",
        "properties": {name: own.get(name) or _FIELDS[name] for name in sorted(ALLOWED[endpoint])},
        "required": ["model", _REQUIRED[endpoint]],
        "additionalProperties": False,
    }
