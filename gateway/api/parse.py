"""From the bytes of a body to an `InferenceRequest`: decoded only where a value matters here, forwarded as it came.

The rules for single fields are in `fields`, the list of fields in `allowed_fields`; messages and prompts have files of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from msgspec import Raw

from estimator.demand import Shape
from gateway.api import fields as f
from gateway.api.allowed_fields import ALLOWED, TOKENS_MAX, is_unsafe, read_later
from gateway.api.chat_parts import ChatParts, take_apart
from gateway.api.messages import MessageReader, Messages
from gateway.api.prompts import read_prompts
from gateway.api.strict_json import StrictReader, shown
from gateway.errors import invalid_value, model_not_found, unsupported_parameter
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest, join_fields

PROMPTS_MAX = 64
EMBEDDING_INPUTS_MAX = 2_048
"""As OpenAI allows; libraries send them by the thousand."""
COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions endpoint and every engine behind it take if `max_tokens` is not given."""
N_SPEC_MAX = 128
_MODEL = re.compile(r"[A-Za-z0-9._:/@-]{1,256}")
_STREAM_OPTIONS = frozenset(("include_usage", "include_obfuscation", "continuous_usage_stats"))


@dataclass(frozen=True, slots=True)
class ParsePolicy:
    """What the operator lets clients send. Settings of the HTTP surface."""

    unknown_fields: Literal["reject", "drop", "pass"] = "reject"
    """What happens to a top-level field that is not on the list. Unsafe ones are never passed on this way."""
    extra_fields: frozenset[str] = frozenset()
    """Fields that are passed on in addition, unsafe ones included."""
    n_max: int = 8
    """Most sequences per prompt, at most 128."""
    remote_media_hosts: frozenset[str] = frozenset()
    """Hosts from which an engine may fetch media; without any, media must be in the body."""


DEFAULT_POLICY = ParsePolicy()


@dataclass(slots=True)
class _Settings:
    """What a chat says beside its messages."""

    model: str
    fields: dict[str, Raw]
    """All top-level fields."""
    n: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    runs_to_max: bool
    nodes: int = 0
    """Values around the messages."""


_KNOWN: dict[bytes, _Settings] = {}
"""By the frame of the messages: clients send the same numbers and switches with request after request."""
_KNOWN_MAX = 256
_KNOWN_BYTES_MAX = 512
_NUMBERS = """
    frequency_penalty max_completion_tokens max_tokens min_p min_tokens n presence_penalty repetition_penalty
    temperature top_k top_p"""
_SWITCHES = "ignore_eos skip_special_tokens stream stream_options"
_REPEATED = frozenset(f"model messages {_NUMBERS} {_SWITCHES}".split())
"""Fields that may be kept: none of them holds a client's own words."""


def parse_inference(endpoint: str, body: bytes, policy: ParsePolicy = DEFAULT_POLICY) -> InferenceRequest:
    """Check a body and take from it what admission, routing and forwarding need.

    Args:
        endpoint: one of `CHAT`, `COMPLETIONS`, `EMBEDDINGS`.
        body: not longer than the server's limit: that limit bounds how long this can take.
        policy: what the operator allows.

    Raises:
        ApiError: 400 for anything wrong with the body, 404 for a model name that cannot be one.
    """
    reader = StrictReader()
    parts = take_apart(body) if endpoint == CHAT else None
    if parts is not None and parts.raw is not None:
        known = _KNOWN.get(parts.frame)
        if known is not None and known.n <= policy.n_max:
            reader.resume(parts, known.nodes)
            messages = MessageReader(reader, policy.remote_media_hosts).read(parts.raw)
            return _chat(body, {**known.fields, "messages": parts.raw}, messages, known)
    fields = reader.root(body, parts)
    kept = _check_fields(endpoint, fields, policy, reader)
    if len(kept) < len(fields):
        body = join_fields(kept)
        kept = reader.root(body)
    model = _read_model(kept.get("model"))
    if endpoint == EMBEDDINGS:
        prompts = read_prompts("input", kept.get("input"), EMBEDDING_INPUTS_MAX)
        shape = Shape(prompts.text_bytes, token_prompts=prompts.token_prompts, prompts=prompts.count, output=False)
        return InferenceRequest(endpoint, model, body, kept, shape)
    if endpoint == CHAT:
        return _read_chat(model, body, kept, policy, reader, parts)
    return _read_completion(model, body, kept, policy, reader)


def _check_fields(endpoint: str, fields: dict[str, Raw], policy: ParsePolicy, reader: StrictReader) -> dict[str, Raw]:
    """The fields that stay, each checked."""
    allowed = ALLOWED[endpoint]
    dropped: set[str] = set()
    for name, raw in fields.items():
        check = allowed.get(name)
        if check is read_later:
            continue
        if check is not None:
            check(name, raw, reader)
        elif name in policy.extra_fields or (policy.unknown_fields == "pass" and not is_unsafe(name)):
            f.anything(shown(name), raw, reader)
        elif policy.unknown_fields == "drop":
            dropped.add(name)
        else:
            raise f.unknown(name)
    return {name: raw for name, raw in fields.items() if name not in dropped} if dropped else fields


def _read_chat(
    model: str,
    body: bytes,
    fields: dict[str, Raw],
    policy: ParsePolicy,
    reader: StrictReader,
    parts: ChatParts | None,
) -> InferenceRequest:
    raw = fields.get("messages")
    if raw is None:
        raise invalid_value("messages", "it is missing")
    nodes = reader.nodes
    messages = MessageReader(reader, policy.remote_media_hosts).read(raw)
    nodes -= reader.nodes
    settings = _read_settings(model, fields, policy, reader)
    settings.nodes = nodes + reader.nodes
    if parts is not None and raw is parts.raw and fields.keys() <= _REPEATED:
        _keep(parts, settings)
    return _chat(body, fields, messages, settings)


def _read_settings(model: str, fields: dict[str, Raw], policy: ParsePolicy, reader: StrictReader) -> _Settings:
    n = f.read_int("n", fields.get("n"), 1, policy.n_max) or 1
    stream, include_usage = _read_stream(fields, reader)
    max_tokens = _read_max_tokens(fields)
    return _Settings(model, fields, n, max_tokens, stream, include_usage, _read_ending(fields, max_tokens))


def _keep(parts: ChatParts, settings: _Settings) -> None:
    """Remember what stands around the messages, without a view of the body itself."""
    if len(parts.frame) > _KNOWN_BYTES_MAX:
        return
    if len(_KNOWN) >= _KNOWN_MAX:
        _KNOWN.clear()
    _KNOWN[parts.frame] = replace(settings, fields={**settings.fields, "messages": Raw(b"0")})


def _chat(body: bytes, fields: dict[str, Raw], messages: Messages, said: _Settings) -> InferenceRequest:
    text_bytes = len(fields["messages"]) - messages.media_bytes
    for name in ("tools", "functions", "chat_template_kwargs"):
        if name in fields:
            text_bytes += len(fields[name])
    shape = Shape(text_bytes, messages.count, messages.media, n=said.n, max_tokens=said.max_tokens, stream=said.stream)
    return InferenceRequest(CHAT, said.model, body, fields, shape, said.stream, said.include_usage, said.runs_to_max)


def _read_completion(
    model: str, body: bytes, fields: dict[str, Raw], policy: ParsePolicy, reader: StrictReader
) -> InferenceRequest:
    prompts = read_prompts("prompt", fields.get("prompt"), PROMPTS_MAX)
    n = f.read_int("n", fields.get("n"), 1, policy.n_max) or 1
    best_of = f.read_int("best_of", fields.get("best_of"), 1, policy.n_max) or n
    if best_of < n:
        raise invalid_value("best_of", "it must not be less than n")
    logprobs = f.read_int("logprobs", fields.get("logprobs"), 0, 20)
    if f.read_bool("echo", fields.get("echo")) and logprobs is not None:
        raise unsupported_parameter("echo", "together with logprobs it asks for those of the whole prompt")
    stream, include_usage = _read_stream(fields, reader)
    limit = _read_max_tokens(fields) or COMPLETION_MAX_TOKENS
    suffix_bytes = len(fields["suffix"]) if "suffix" in fields else 0
    shape = Shape(
        prompts.text_bytes + suffix_bytes,
        token_prompts=prompts.token_prompts,
        prompts=prompts.count,
        n=best_of,
        max_tokens=limit,
        stream=stream,
    )
    runs_to_max = _read_ending(fields, limit)
    return InferenceRequest(COMPLETIONS, model, body, fields, shape, stream, include_usage, runs_to_max)


def _read_ending(fields: Mapping[str, Raw], max_tokens: int | None) -> bool:
    """Whether the output runs to `max_tokens` whatever comes."""
    f.read_int("min_tokens", fields.get("min_tokens"), 0, max_tokens or TOKENS_MAX)
    return bool(f.read_bool("ignore_eos", fields.get("ignore_eos")))


def _read_model(raw: Raw | None) -> str:
    if raw is None or f.is_null(raw):
        raise invalid_value("model", "it is missing")
    model = f.read_text("model", raw)
    if not _MODEL.fullmatch(model):
        raise model_not_found(shown(model))
    return model


def _read_stream(fields: Mapping[str, Raw], reader: StrictReader) -> tuple[bool, bool]:
    """Whether to stream, and whether the client wants usage at the end of the stream."""
    stream = bool(f.read_bool("stream", fields.get("stream")))
    options = fields.get("stream_options")
    if options is None or f.is_null(options):
        return stream, False
    if not stream:
        raise invalid_value("stream_options", "it is only allowed when stream is true")
    wanted = f.read_options("stream_options", options, reader, _STREAM_OPTIONS)
    return stream, bool(wanted.get("include_usage"))


def _read_max_tokens(fields: Mapping[str, Raw]) -> int | None:
    old = f.read_int("max_tokens", fields.get("max_tokens"), 1, TOKENS_MAX)
    new = f.read_int("max_completion_tokens", fields.get("max_completion_tokens"), 1, TOKENS_MAX)
    if old is not None and new is not None and old != new:
        raise invalid_value("max_tokens", "it differs from max_completion_tokens")
    return old if new is None else new
