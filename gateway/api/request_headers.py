"""What the headers of a request tell beside its body: its id, its patience, its retries, its trace."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from gateway.errors import ApiError
from gateway.request import UNTRACED, InferenceRequest, TraceContext

DEADLINE_MAX_S = 86_400.0
"""A longer read timeout says no more than this."""
RETRY_COUNT_MAX = 100
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[ -~]{1,512}")
_COUNT = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's `x-request-id` if it is safe to repeat in logs and headers, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def reject_encoded_body(headers: Mapping[str, str]) -> None:
    """A compressed body is never unpacked: a small one could become too large a one.

    Raises:
        ApiError: 415 for any `Content-Encoding` but identity.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise ApiError(415, "unsupported_media_type", "Send the body without Content-Encoding.", close=True)


def apply_headers(request: InferenceRequest, headers: Mapping[str, str]) -> None:
    """Fill in deadline, retry count and trace. What cannot be read counts as not sent: none of it is binding."""
    request.deadline_s = _deadline_s(headers.get("x-stainless-read-timeout", ""))
    retries = headers.get("x-stainless-retry-count", "")
    request.retry_count = min(int(retries), RETRY_COUNT_MAX) if _COUNT.fullmatch(retries) else 0
    request.trace = trace_context(headers)


def trace_context(headers: Mapping[str, str]) -> TraceContext:
    """Where the client's own trace stands; a `tracestate` says nothing without its `traceparent`."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if not _TRACEPARENT.fullmatch(parent):
        return UNTRACED
    return TraceContext(parent, state if _TRACESTATE.fullmatch(state) else "")


def _deadline_s(text: str) -> float | None:
    if not _SECONDS.fullmatch(text):
        return None
    seconds = float(text)
    return min(seconds, DEADLINE_MAX_S) if seconds > 0 else None
