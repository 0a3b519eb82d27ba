"""What the headers of a request tell beside its body: its id, its patience, its retries, its trace."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from gateway.errors import ApiError
from gateway.request import UNTRACED, InferenceRequest, TraceContext

DEADLINE_MAX_S = 86_400.0
"""A longer read timeout says no more than this."""
RETRY_COUNT_MAX = 100
_ID_DIGITS = 32
_IDS_AT_ONCE = 256
"""Asking the system for each costs more than the rest of a head."""
_unused: list[str] = []
# Two processes must not go on with the same ids.
os.register_at_fork(after_in_child=_unused.clear)
_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[ -~]{1,512}")
_COUNT = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def request_id(headers: Mapping[str, str]) -> str:
    """The client's `x-request-id` if it is safe to repeat in logs and headers, else a new one."""
    given = headers.get("x-request-id")
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()


def new_id() -> str:
    """A name that no other request has: 32 random hexadecimal digits."""
    if not _unused:
        digits = os.urandom(_IDS_AT_ONCE * _ID_DIGITS // 2).hex()
        _unused.extend([digits[at : at + _ID_DIGITS] for at in range(0, len(digits), _ID_DIGITS)])
    return _unused.pop()


def reject_encoded_body(headers: Mapping[str, str]) -> None:
    """A compressed body is never unpacked: a small one could become too large a one.

    Raises:
        ApiError: 415 for any `Content-Encoding` but identity.
    """
    encoding = headers.get("content-encoding")
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise ApiError(415, "unsupported_media_type", "Send the body without Content-Encoding.", close=True)


def apply_headers(request: InferenceRequest, headers: Mapping[str, str]) -> None:
    """Fill in deadline, retry count and trace. What cannot be read counts as not sent: none of it is binding."""
    if (patience := headers.get("x-stainless-read-timeout")) is not None:
        request.deadline_s = _deadline_s(patience)
    if (retries := headers.get("x-stainless-retry-count")) is not None and _COUNT.fullmatch(retries):
        request.retry_count = min(int(retries), RETRY_COUNT_MAX)
    request.trace = trace_context(headers)


def trace_context(headers: Mapping[str, str]) -> TraceContext:
    """Where the client's own trace stands; a `tracestate` says nothing without its `traceparent`."""
    parent = headers.get("traceparent")
    if parent is None or not _TRACEPARENT.fullmatch(parent):
        return UNTRACED
    state = headers.get("tracestate", "")
    return TraceContext(parent, state if _TRACESTATE.fullmatch(state) else "")


def _deadline_s(text: str) -> float | None:
    if not _SECONDS.fullmatch(text):
        return None
    seconds = float(text)
    return min(seconds, DEADLINE_MAX_S) if seconds > 0 else None
