"""From the bytes of a body to an `InferenceRequest`: decoded only where a value matters here, forwarded as it came.

The rules for single fields are in `fields`, the list of fields in `allowed_fields`; messages and prompts have files of
their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import Raw

from estimator.demand import Shape
from gateway.api import fields as f
from gateway.api.allowed_fields import ALLOWED, TOKENS_MAX, is_unsafe
from gateway.api.messages import MessageReader
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
    fields = reader.root(body)
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
        return _read_chat(model, body, kept, policy, reader)
    return _read_completion(model, body, kept, policy, reader)


def _check_fields(endpoint: str, fields: dict[str, Raw], policy: ParsePolicy, reader: StrictReader) -> dict[str, Raw]:
    """The fields that stay, each checked."""
    allowed = ALLOWED[endpoint]
    dropped: set[str] = set()
    for name, raw in fields.items():
        check = allowed.get(name)
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
    model: str, body: bytes, fields: dict[str, Raw], policy: ParsePolicy, reader: StrictReader
) -> InferenceRequest:
    raw = fields.get("messages")
    if raw is None:
        raise invalid_value("messages", "it is missing")
    messages = MessageReader(reader, policy.remote_media_hosts).read(raw)
    text_bytes = len(raw) - messages.media_bytes
    for name in ("tools", "functions", "chat_template_kwargs"):
        if name in fields:
            text_bytes += len(fields[name])
    n = f.read_int("n", fields.get("n"), 1, policy.n_max) or 1
    stream, include_usage = _read_stream(fields, reader)
    shape = Shape(text_bytes, messages.count, messages.media, n=n, max_tokens=_read_max_tokens(fields), stream=stream)
    return _generation(InferenceRequest(CHAT, model, body, fields, shape, stream, include_usage))


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
    return _generation(InferenceRequest(COMPLETIONS, model, body, fields, shape, stream, include_usage))


def _generation(request: InferenceRequest) -> InferenceRequest:
    """Check and fill in what chat and completions share."""
    fields = request.fields
    f.read_int("min_tokens", fields.get("min_tokens"), 0, request.shape.max_tokens or TOKENS_MAX)
    request.runs_to_max = bool(f.read_bool("ignore_eos", fields.get("ignore_eos")))
    return request


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
