"""The errors a client may see: each is one row of the error table, rendered in one place (`api.error_body`)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from gateway.domain import Reason, Refusal

INVALID_REQUEST = "invalid_request_error"
RATE_LIMIT = "rate_limit_error"
SERVER_ERROR = "server_error"
INTERNAL_ERROR = "internal_error"
RETRY_AFTER_MAX_S = 60.0
"""Official clients ignore a longer Retry-After (openai-python before 2.51) or do not retry at all (from 120 s on)."""


class ApiError(Exception):
    """An answer other than success: status, OpenAI error fields, and whether and when a retry makes sense."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        type_: str = INVALID_REQUEST,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool = False,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.type = type_
        self.param = param
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        self.close = close
        """The connection is in a state that cannot be trusted: close it after the answer."""
        self.headers: Mapping[str, str] = {}
        """Headers of the answer in addition to those that every error has."""


def invalid_json(detail: str) -> ApiError:
    """The body is not the JSON object that the endpoint takes."""
    return ApiError(400, "invalid_json", f"The request body is not valid JSON: {detail}.")


def duplicate_key(key: str) -> ApiError:
    """The same key stands twice in one object: two readers of it could disagree."""
    return ApiError(400, "duplicate_key", f"The key {key!r} appears more than once in one JSON object.", param=key)


def invalid_value(param: str, detail: str) -> ApiError:
    """A field has the wrong type or lies outside its range."""
    return ApiError(400, "invalid_value", f"Invalid value for '{param}': {detail}.", param=param)


def unsupported_parameter(param: str, detail: str = "this field is not supported here") -> ApiError:
    """A field that is unknown, or that would reach into the engine."""
    return ApiError(400, "unsupported_parameter", f"Unsupported parameter '{param}': {detail}.", param=param)


def model_not_found(model: str) -> ApiError:
    """No configured backend serves the model."""
    text = f"The model '{model}' does not exist or no backend serves it."
    return ApiError(404, "model_not_found", text, param="model")


def upstream_error(message: str, *, should_retry: bool = False) -> ApiError:
    """The engine failed before the first byte of an answer."""
    return ApiError(HTTPStatus.BAD_GATEWAY, "upstream_error", message, type_=SERVER_ERROR, should_retry=should_retry)


def upstream_timeout(message: str) -> ApiError:
    """The engine was silent for too long before the first byte of an answer."""
    return ApiError(HTTPStatus.GATEWAY_TIMEOUT, "upstream_timeout", message, type_=SERVER_ERROR)


def internal_error() -> ApiError:
    """A bug of this gateway. Nothing of it is told: whatever it says is for the log."""
    text = "This gateway failed to handle the request."
    return ApiError(500, INTERNAL_ERROR, text, type_=SERVER_ERROR, close=True)


def refused(refusal: Refusal, model: str) -> ApiError:
    """The answer for a request that admission turned away.

    Raises:
        ValueError: for a reason that is no refusal.
    """
    need, room, pool = f"{refusal.need_tokens:,}", f"{refusal.headroom_tokens:,}", f"{refusal.capacity_tokens:,}"
    wait = "" if refusal.retry_after_s is None else f" Retry in about {refusal.retry_after_s:.1f} s."
    match refusal.reason:
        case Reason.TOO_LARGE:
            advice = (
                f"max_tokens <= {refusal.largest_max_tokens:,} fits."
                if refusal.largest_max_tokens
                else "The prompt alone does not fit."
            )
            text = (
                f"This request can need {need} KV-cache tokens; the largest backend of '{model}' takes {pool}. {advice}"
            )
            return ApiError(400, "context_length_exceeded", text, param="max_tokens")
        case Reason.HEADROOM:
            text = f"No room: the request needs {need} KV-cache tokens, {room} of {pool} are free.{wait}"
            return _busy(429, "kv_capacity_exhausted", text, refusal)
        case Reason.QUEUE_FULL:
            text = (
                f"The queue is full: {refusal.requests_ahead:,} requests wait for room already. This one needs {need} "
                f"KV-cache tokens; {room} of {pool} are free, for those ahead.{wait}"
            )
            return _busy(429, "queue_full", text, refusal)
        case Reason.QUEUE_TIMEOUT:
            text = (
                f"No room within {refusal.waited_s:.1f} s: the request needs {need} KV-cache tokens, "
                f"{room} of {pool} are free.{wait}"
            )
            return _busy(429, "queue_timeout", text, refusal)
        case Reason.TENANT_LIMIT:
            text = _own_limit(refusal) or (
                f"Your share of the KV cache is in use while others wait: the request needs {need} KV-cache tokens, "
                f"{room} of {pool} are free for them."
            )
            return _busy(429, "tenant_limit", text + wait, refusal)
        case Reason.NO_BACKEND | Reason.STALE_TELEMETRY:
            return _busy(503, "no_backend", f"No backend of '{model}' can take requests now.{wait}", refusal)
        case Reason.SHUTDOWN:
            return _busy(503, "draining", f"This gateway is shutting down.{wait}", refusal)
        case Reason.OK | Reason.OK_AFTER_WAIT | Reason.CLIENT_GONE:
            raise ValueError(refusal.reason)


def _own_limit(refusal: Refusal) -> str:
    """Which limit of its tenant is reached; nothing where it is its share of the memory."""
    most, s = f"{refusal.tenant_limit_max:,}", "" if refusal.tenant_limit_max == 1 else "s"
    return {
        "requests_max": f"Your key allows {most} request{s} at once, and so many run.",
        "requests_per_minute": f"Your key allows {most} request{s} per minute, and no more are left.",
        "tokens_per_minute": f"Your key allows {most} token{s} per minute, and too few of them are left.",
    }.get(refusal.tenant_limit, "")


def _busy(status: int, code: str, message: str, refusal: Refusal) -> ApiError:
    type_ = RATE_LIMIT if status == HTTPStatus.TOO_MANY_REQUESTS else SERVER_ERROR
    return ApiError(status, code, message, type_=type_, retry_after_s=refusal.retry_after_s, should_retry=True)
