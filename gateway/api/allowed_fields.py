"""Which top-level fields each endpoint takes, and what may be in those that only pass through to the engine.

An allow-list, since engines grow fields faster than anybody can forbid them. OpenAI's own fields are here, and the
sampling options of vLLM, SGLang and llama.cpp that stay within the request. What is not: fields that reach into the
engine (caches, adapters, templates, transfer of KV), that change what a request costs behind the ledger's back, or that
run a grammar.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Raw

from gateway.api import fields as f
from gateway.api.fields import Check
from gateway.api.strict_json import StrictReader
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS

TOKENS_MAX = 2**31 - 1
_INT64 = 2**63

_ENGINE_STATE = """
    adapter_id adapter_path api_base api_key base_url cache_salt data_parallel_rank ec_transfer_params extra_args
    extra_key id_slot priority request_id rid routed_experts session_params vllm_xargs"""
_PROMPT = """
    chat_template input_embeds input_ids mm_processor_kwargs prompt_embeds truncate_prompt_tokens"""
_COST = """
    max_new_tokens min_new_tokens n_discard n_keep n_predict prompt_logprobs return_hidden_states t_max_predict_ms
    use_beam_search"""
_GRAMMAR_AND_CODE = """
    custom_logit_processor custom_params ebnf grammar json_schema logits_processors regex structural_tag
    structured_outputs"""
UNSAFE = frozenset((_ENGINE_STATE + _PROMPT + _COST + _GRAMMAR_AND_CODE).split())
"""Fields that no policy passes on unless the configuration names them one by one."""
UNSAFE_PREFIXES = ("bootstrap_", "guided_", "kv_", "lora")


def read_later(_name: str, _raw: Raw, _reader: StrictReader) -> None:
    """The parser itself reads this field: admission needs its value."""


_EVERYWHERE: dict[str, Check] = {
    "model": read_later,
    "user": f.text(),
}
_GENERATION: dict[str, Check] = {
    **_EVERYWHERE,
    "frequency_penalty": f.number(-2, 2),
    "ignore_eos": read_later,
    "include_stop_str_in_output": f.boolean,
    "logit_bias": f.logit_bias,
    "max_tokens": read_later,
    "metadata": f.mapping(16_384),
    "min_p": f.number(0, 1),
    "min_tokens": read_later,
    "n": read_later,
    "presence_penalty": f.number(-2, 2),
    "repetition_penalty": f.number(0, 10),
    "response_format": f.response_format,
    "seed": f.integer(-_INT64, _INT64 - 1),
    "skip_special_tokens": f.boolean,
    "spaces_between_special_tokens": f.boolean,
    "stop": f.stop,
    "stop_token_ids": f.token_ids,
    "stream": read_later,
    "stream_options": read_later,
    "temperature": f.number(0, 2),
    "top_k": f.integer(-1, TOKENS_MAX),
    "top_p": f.number(0, 1),
}
_CHAT: dict[str, Check] = {
    **_GENERATION,
    "add_generation_prompt": f.boolean,
    "audio": f.mapping(),
    "chat_template_kwargs": f.chat_template_kwargs,
    "continue_final_message": f.boolean,
    "function_call": f.text_or_mapping,
    "functions": f.objects(128, 65_536),
    "include_reasoning": f.boolean,
    "logprobs": f.boolean,
    "max_completion_tokens": read_later,
    "messages": read_later,
    "modalities": f.words(("text", "audio")),
    "moderation": f.mapping(),
    "parallel_tool_calls": f.boolean,
    "prediction": f.mapping(1_048_576),
    "prompt_cache_key": f.text(),
    "prompt_cache_options": f.mapping(),
    "prompt_cache_retention": f.text(64),
    "reasoning_effort": f.text(64),
    "safety_identifier": f.text(),
    "service_tier": f.text(64),
    "store": f.boolean,
    "tool_choice": f.text_or_mapping,
    "tools": f.objects(128, 65_536),
    "top_logprobs": f.integer(0, 20),
    "verbosity": f.text(64),
    "web_search_options": f.mapping(),
}
_COMPLETIONS: dict[str, Check] = {
    **_GENERATION,
    "best_of": read_later,
    "echo": read_later,
    "logprobs": read_later,
    "prompt": read_later,
    "suffix": f.text(1_048_576),
}
_EMBEDDINGS: dict[str, Check] = {
    **_EVERYWHERE,
    "dimensions": f.integer(1, 1_000_000),
    "encoding_format": f.one_of(("float", "base64")),
    "input": read_later,
}

ALLOWED: Mapping[str, Mapping[str, Check]] = {CHAT: _CHAT, COMPLETIONS: _COMPLETIONS, EMBEDDINGS: _EMBEDDINGS}


def is_unsafe(name: str) -> bool:
    """Whether a field is known, or named as if, to reach into an engine."""
    return name in UNSAFE or name.startswith(UNSAFE_PREFIXES)
