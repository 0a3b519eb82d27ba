"""What spans say: names of OpenTelemetry's conventions (HTTP; GenAI, which still change) and our own, in one place.

Numbers and names only. Prompts, answers, keys and headers are in none of them.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.admission.commands import Admit
from gateway.reporting.record import RequestRecord
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest

Attributes = dict[str, str | bool | int | float | tuple[str, ...]]

QUEUE = "kvgate.queue"
ADMISSION = "kvgate.admission"
ERROR_TYPE = "error.type"
MODEL_MAX_CHARS = 256
SERVER_ERROR = 500
DENIED = ("rejected", "evicted")
"""Outcomes of requests that got no place."""
OPERATIONS = {CHAT: "chat", COMPLETIONS: "text_completion", EMBEDDINGS: "embeddings"}
_PORTS = {"http": 80, "https": 443}


def server_start(endpoint: str, scheme: str) -> Attributes:
    """The request as it came."""
    return {"http.request.method": "POST", "http.route": endpoint, "url.path": endpoint, "url.scheme": scheme}


def server_end(record: RequestRecord) -> Attributes:
    """The request as a whole."""
    return _known(
        {
            "http.response.status_code": record.code,
            ERROR_TYPE: record.error or None,
            "gen_ai.request.model": record.model[:MODEL_MAX_CHARS] or None,
            "kvgate.request_id": record.request_id,
            "kvgate.tenant": record.tenant or None,
            "kvgate.priority": record.priority.name.lower(),
            "kvgate.backend": record.backend or None,
            "kvgate.disconnect": record.disconnect,
            "kvgate.ttft_s": record.ttft_s,
        }
    )


def admission_granted(decision: str, admit: Admit) -> Attributes:
    """A place was given."""
    return {
        "kvgate.decision": decision,
        "kvgate.reason": admit.reason.value,
        "kvgate.backend": admit.backend,
        "kvgate.need_tokens": admit.kv_tokens,
        "kvgate.wait_s": admit.waited_s,
    }


def admission_denied(record: RequestRecord) -> Attributes:
    """None was given: the request was refused, or its client left before."""
    return _known(
        {
            "kvgate.decision": "refused" if record.disconnect is None else "left",
            "kvgate.reason": record.reason,
            "kvgate.need_tokens": record.need_tokens,
            "kvgate.headroom_tokens": record.headroom_tokens,
            "kvgate.retry_after_s": record.retry_after_s,
            "kvgate.wait_s": record.queue_wait_s,
        }
    )


def upstream_name(request: InferenceRequest) -> str:
    """Name of the span of a request to a backend."""
    return f"{OPERATIONS.get(request.endpoint, request.endpoint)} {request.model[:MODEL_MAX_CHARS]}"


def upstream_start(request: InferenceRequest, kind: str, url: str) -> Attributes:
    """A request to a backend."""
    parts = urlsplit(url)
    return _known(
        {
            "gen_ai.operation.name": OPERATIONS.get(request.endpoint, request.endpoint),
            "gen_ai.provider.name": kind,
            "gen_ai.request.model": request.model[:MODEL_MAX_CHARS],
            "gen_ai.request.max_tokens": request.shape.max_tokens,
            "gen_ai.request.stream": request.stream,
            "server.address": parts.hostname,
            "server.port": parts.port or _PORTS.get(parts.scheme),
        }
    )


def upstream_end(record: RequestRecord, first_token_s: float | None) -> Attributes:
    """Its answer; `first_token_s` counts from when it was sent."""
    is_told = record.hit_length and record.sequences == 1
    return _known(
        {
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_prompt_tokens,
            # Why else an answer ended stands in text that passes unread.
            "gen_ai.response.finish_reasons": ("length",) if is_told else None,
            "gen_ai.response.time_to_first_chunk": first_token_s,
            ERROR_TYPE: record.error or None,
        }
    )


def _known(fields: dict[str, str | bool | int | float | tuple[str, ...] | None]) -> Attributes:
    return {name: value for name, value in fields.items() if value is not None}
