"""What an engine's own error answers become for a client, while no byte of an answer has gone to it.

Shapes seen: OpenAI's `{"error": {…}}` (vLLM, SGLang, llama.cpp, providers), `{"error": "Unauthorized"}` (vLLM's own
check of keys), `{"detail": …}` (FastAPI), SGLang's flat `{"object": "error", "message": …}`, plain text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

import msgspec

from gateway.errors import INVALID_REQUEST, RATE_LIMIT, RETRY_AFTER_MAX_S, SERVER_ERROR, ApiError, upstream_error

BUSY_DEFAULT_S = 1.0
"""How long an engine is left alone that says it is full but not for how long (vLLM's queue limits, Novita's 429)."""
BUSY_MAX_S = 300.0
MESSAGE_MAX_CHARS = 300
UPSTREAM_BUSY = "upstream_busy"
UPSTREAM_REJECTED = "upstream_rejected"

_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_OUR_FAULT = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED)
_DELAY = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_WORD = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_DEATH = re.compile(rb"EngineCore encountered an issue|EngineDeadError")
"""vLLM's words for it; other engines end together with their server."""
_INTERNAL = re.compile(
    r"://|localhost|\b\d{1,3}(?:\.\d{1,3}){3}\b|[\w-]+(?:\.[\w-]+)*:\d{2,5}\b|\.(?:internal|local|svc|lan)\b"
    r"|\bsk-[\w-]{8}|\bBearer\s|Traceback|\bFile \"|(?:^|[\s'\"(=])/(?:[\w.@-]+/)+[\w.@-]*|[A-Za-z]:\\",
    re.IGNORECASE,
)
"""Traces of the engine's insides: addresses, names with ports, private zones, stack traces, paths of its disk, keys"""


@dataclass(frozen=True, slots=True)
class EngineRefusal:
    """An engine's error answer, for the client and for admission."""

    error: ApiError
    busy_for_s: float | None = None
    """Seconds for which the engine asks to be left alone; None where it does not."""
    engine_died: bool = False
    """What generates has ended, says the server in front of it."""


def refusal(status: int, body: bytes, retry_after: str | None = None) -> EngineRefusal:
    """What a response with any status but 200 means.

    1. 429 and 503: full. Passed on with a Retry-After; nothing is sent there for that time.
    2. 401, 403, 407: the gateway's own key was refused, which is none of the client's business: 502.
    3. Other 4xx: the request's fault, passed on with the engine's own words where they are fit to be seen.
    4. The rest (5xx, redirects, empty answers): 502. The engine may have begun, so no retry is advised.
    """
    if status in _BUSY:
        return _busy(status, retry_after)
    if status in _OUR_FAULT:
        return EngineRefusal(upstream_error(f"The engine refused this gateway ({status})."))
    if 400 <= status < 500:
        return EngineRefusal(_rejected(status, _said(body)))
    error = upstream_error(f"The engine answered with status {status}.")
    return EngineRefusal(error, engine_died=_DEATH.search(body) is not None)


def first_event_error(data: bytes) -> EngineRefusal | None:
    """What the first event of a 200 stream means, if it is an error: engines find out too late that they cannot serve.

    Args:
        data: the value of the event's `data` field, or the event itself.
    """
    payload = data.lstrip().removeprefix(b"data:").lstrip()
    if not payload.startswith(b"{") or b'"error"' not in payload:
        return None
    try:
        event = msgspec.json.decode(payload.split(b"\n", 1)[0], type=_Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if not event.error:
        return None
    code = _field(event.error, "code")
    return refusal(code if isinstance(code, int) and 400 <= code <= 599 else 500, payload)


class _Answer(msgspec.Struct):
    error: object = None
    detail: object = None
    message: object = None


@dataclass(frozen=True, slots=True)
class _Said:
    """The engine's own words, each None if not fit to be seen."""

    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | None = None


def _busy(status: int, retry_after: str | None) -> EngineRefusal:
    """Retry-After in seconds is obeyed; as a date it would need a clock that both sides agree on, so it is not."""
    text = (retry_after or "").strip()
    wait_s = min(float(text), BUSY_MAX_S) if _DELAY.fullmatch(text) else BUSY_DEFAULT_S
    type_ = RATE_LIMIT if status == HTTPStatus.TOO_MANY_REQUESTS else SERVER_ERROR
    told_s = min(wait_s, RETRY_AFTER_MAX_S)
    message = f"The backend is at its own limit. Retry in about {told_s:.1f} s."
    error = ApiError(status, UPSTREAM_BUSY, message, type_=type_, retry_after_s=told_s, should_retry=True)
    return EngineRefusal(error, busy_for_s=wait_s)


def _rejected(status: int, said: _Said) -> ApiError:
    message = said.message or f"The engine rejected the request ({status})."
    return ApiError(
        status, said.code or UPSTREAM_REJECTED, message, type_=said.type or INVALID_REQUEST, param=said.param
    )


def _said(body: bytes) -> _Said:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _Said()
    if isinstance(answer.error, dict):
        error = answer.error
        word = {key: _word(_field(error, key)) for key in ("type", "param", "code")}
        return _Said(_sentence(_field(error, "message")), word["type"], word["param"], word["code"])
    return _Said(_sentence(answer.error) or _sentence(answer.detail) or _sentence(answer.message))


def _field(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _sentence(value: object) -> str | None:
    """A short printable text on one line that tells nothing about the engine's machine."""
    if not isinstance(value, str) or len(value) > MESSAGE_MAX_CHARS:
        return None
    line = " ".join(value.split())
    return line if line and line.isprintable() and not _INTERNAL.search(line) else None
