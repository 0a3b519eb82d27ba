"""The one place where an error becomes what a client sees: status, headers and body, or an event in a stream."""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from gateway.errors import RETRY_AFTER_MAX_S, ApiError

_JSON_HEADERS = {"content-type": "application/json"}


def error_body(error: ApiError) -> bytes:
    """`{"error": {message, type, param, code}}`: always all four, and always an object, or clients see none of them."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def error_headers(error: ApiError) -> dict[str, str]:
    """Headers of an error answer, names in lower case.

    A wait beyond `RETRY_AFTER_MAX_S` is cut to it and marked as not worth an automatic retry: some clients ignore
    longer values and would retry at once, others would come back in vain.
    """
    headers = {**_JSON_HEADERS, **error.headers}
    retry = error.should_retry
    wait_s = error.retry_after_s
    if wait_s is not None and not math.isnan(wait_s):
        if wait_s > RETRY_AFTER_MAX_S:
            wait_s, retry = RETRY_AFTER_MAX_S, False
        # Both headers tell of the same moment, and neither tells a client to come back at once: 0 makes clients fall
        # back to a delay of their own.
        headers["retry-after"] = str(math.ceil(max(wait_s, 1)))
        headers["retry-after-ms"] = str(math.ceil(max(wait_s * 1000, 1)))
    headers["x-should-retry"] = "true" if retry else "false"
    if error.close:
        headers["connection"] = "close"
    return headers


def render_error(error: ApiError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer that is an error."""
    return error.status, error_headers(error), error_body(error)


def whole_response(error: ApiError, id_: str) -> bytes:
    """A response as it goes over the wire, and the last one there: for a client that no request has come from."""
    status, headers, body = render_error(error)
    fields = {**headers, "x-request-id": id_, "connection": "close", "content-length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body


def sse_error(error: ApiError) -> bytes:
    """The error as one event of a stream that has begun: the connection is cut after it, no `[DONE]` follows."""
    return b"data: %b\n\n" % error_body(error)
