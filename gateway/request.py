"""One inference request as every room below the HTTP surface sees it, and the bytes that go on to an engine for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from estimator.demand import Shape
from gateway.domain import NO_LIMITS, Priority, TenantLimits

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

_LIMITS = ("max_tokens", "max_completion_tokens")
_ENCODE = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Tenant:
    """Who asks: what its key allows."""

    name: str = ""
    priority: Priority = Priority.INTERACTIVE
    """The most urgent class it may use, and the one it gets if it names none."""
    kv_share: float = 1.0
    """Part of a backend's KV pool that it may hold while others want room, 0..1."""
    limits: TenantLimits = NO_LIMITS


ANONYMOUS = Tenant()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a distributed trace, in the words of the W3C's headers; empty: in none."""

    parent: str = ""
    """`traceparent`, checked."""
    state: str = ""
    """`tracestate`, of characters that a header can carry."""

    @property
    def trace_id(self) -> str:
        """Names the whole trace."""
        return self.parent[3:35]

    @property
    def is_sampled(self) -> bool:
        """Whether the spans of this trace are kept anywhere."""
        return bool(self.parent) and int(self.parent[53:], 16) & 1 == 1


UNTRACED = TraceContext()


@dataclass(slots=True)
class InferenceRequest:
    """A request that passed every check of `api.parse`; the HTTP surface fills in what its headers say."""

    endpoint: str
    model: str
    """Public name, as the client wrote it."""
    body: bytes
    """As it came, less the fields that the policy drops."""
    fields: dict[str, msgspec.Raw]
    """Top-level fields of `body` in their order: views into it, no copies."""
    shape: Shape
    stream: bool = False
    include_usage: bool = False
    """The client itself asked for usage at the end of the stream."""
    runs_to_max: bool = False
    """The output cannot end early (`ignore_eos`): it takes all of `max_tokens`."""
    request_id: str = ""
    tenant: Tenant = field(default=ANONYMOUS)
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    """The client's own read timeout, seconds from arrival."""
    retry_count: int = 0
    trace: TraceContext = field(default=UNTRACED)


def forward_body(
    request: InferenceRequest,
    *,
    engine_model: str | None = None,
    include_usage: bool = False,
    max_tokens: int | None = None,
) -> bytes:
    """The body for an engine: the client's own bytes, with a field set where something must differ.

    Values that stay are copied as bytes, never decoded and encoded again. Where nothing changes the body itself comes
    back.

    Args:
        request: what the client sent.
        engine_model: the engine's name for the model; None keeps the client's.
        include_usage: make a stream end with its usage. Nothing happens to a request that does not stream.
        max_tokens: output tokens per sequence to ask for; None keeps what the client asked for.
    """
    changes: dict[str, bytes] = {}
    if engine_model is not None and engine_model != request.model:
        changes["model"] = _ENCODE(engine_model)
    if include_usage and request.stream and not request.include_usage:
        changes["stream_options"] = _with_usage(request.fields.get("stream_options"))
    limit = request.shape.max_tokens if max_tokens is None else max_tokens
    named = [name for name in _LIMITS if name in request.fields]
    # A limit that only the endpoint's default gives is written out: engines differ in what they take for one, and the
    # memory is reserved by it.
    if limit is not None and (limit != request.shape.max_tokens or not named):
        changes |= dict.fromkeys(named or ["max_tokens"], b"%d" % limit)
    if not changes:
        return request.body
    return join_fields({**request.fields, **changes})


def join_fields(fields: dict[str, msgspec.Raw] | dict[str, msgspec.Raw | bytes]) -> bytes:
    """A JSON object of fields whose values are JSON already."""
    parts: list[bytes] = []
    before = b"{"
    for name, value in fields.items():
        parts += (before, _ENCODE(name), b":", value)
        before = b","
    return b"".join((*parts, b"}")) if parts else b"{}"


def _with_usage(options: msgspec.Raw | None) -> bytes:
    known = {} if options is None else msgspec.json.decode(options, type=dict[str, msgspec.Raw] | None) or {}
    return join_fields({**known, "include_usage": b"true"})
