"""Errors as clients see them: one shape of body, and headers that official clients obey."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from gateway.api.error_body import error_body, error_headers, render_error, sse_error, whole_response
from gateway.domain import Reason, Refusal
from gateway.errors import RATE_LIMIT, ApiError, invalid_value, model_not_found, refused


def busy(retry_after_s: float | None) -> ApiError:
    return ApiError(429, "queue_full", "full", type_=RATE_LIMIT, retry_after_s=retry_after_s, should_retry=True)


def test_the_body_has_all_four_fields_in_an_object() -> None:
    """Clients read `code`, `param` and `type` only if `error` is an object."""
    status, headers, body = render_error(invalid_value("n", "too many"))
    assert status == 400
    assert headers == {"content-type": "application/json", "x-should-retry": "false"}
    assert json.loads(body) == {
        "error": {
            "message": "Invalid value for 'n': too many.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_value",
        }
    }


@pytest.mark.parametrize(
    ("wait_s", "seconds", "milliseconds"),
    [
        (0.0, "1", "1"),
        (-3.0, "1", "1"),
        (0.2, "1", "200"),
        (1.0, "1", "1000"),
        (1.001, "2", "1001"),
        (60.0, "60", "60000"),
    ],
)
def test_a_wait_is_told_in_whole_seconds_and_milliseconds(wait_s: float, seconds: str, milliseconds: str) -> None:
    """Rounded up, so that nobody comes too early, and never 0, which clients take for no hint at all."""
    headers = error_headers(busy(wait_s))
    assert (headers["retry-after"], headers["retry-after-ms"]) == (seconds, milliseconds)
    assert headers["x-should-retry"] == "true"


@pytest.mark.parametrize("wait_s", [60.001, 600.0, float("inf")])
def test_a_long_wait_is_cut_and_not_retried_by_itself(wait_s: float) -> None:
    """Clients would ignore a longer one, and retry at once."""
    headers = error_headers(busy(wait_s))
    assert (headers["retry-after"], headers["retry-after-ms"], headers["x-should-retry"]) == ("60", "60000", "false")


@pytest.mark.parametrize("wait_s", [None, float("nan")])
def test_no_wait_is_told_where_none_is_known(wait_s: float | None) -> None:
    """The client's own delay is the better guess."""
    headers = error_headers(busy(wait_s))
    assert "retry-after" not in headers
    assert "retry-after-ms" not in headers
    assert headers["x-should-retry"] == "true"


def test_a_connection_in_doubt_is_closed() -> None:
    """And only then."""
    assert error_headers(ApiError(413, "request_too_large", "x", close=True))["connection"] == "close"
    assert "connection" not in error_headers(busy(1.0))


def test_a_refusal_carries_its_numbers() -> None:
    """From admission's words to the answer."""
    error = refused(Refusal(Reason.HEADROOM, retry_after_s=2.5, need_tokens=4_096, capacity_tokens=8_192), "m")
    status, headers, body = render_error(error)
    assert (status, headers["retry-after"], headers["retry-after-ms"]) == (429, "3", "2500")
    assert "4,096" in json.loads(body)["error"]["message"]


def test_an_error_in_a_stream_is_one_event() -> None:
    """With the same object, on one line."""
    event = sse_error(ApiError(502, "upstream_error", "line\nbreak"))
    assert event.startswith(b'data: {"error":{')
    assert event.endswith(b"}}\n\n")
    assert event.count(b"\n") == 2


@given(st.text())
def test_any_message_is_told_as_json(message: str) -> None:
    """Quotes, control characters and all."""
    assert json.loads(error_body(model_not_found(message)))["error"]["param"] == "model"


@given(st.floats())
def test_a_told_wait_is_always_within_its_bounds(wait_s: float) -> None:
    """Whatever a forecast says."""
    headers = error_headers(busy(wait_s))
    assert 1 <= int(headers.get("retry-after", "1")) <= 60
    assert 1 <= int(headers.get("retry-after-ms", "1")) <= 60_000


def test_a_whole_response_is_the_last_one() -> None:
    """Head, headers and body as they go over the wire, for a client that no request has come from."""
    error = ApiError(408, "request_timeout", "late", type_="timeout_error", close=True)
    head, _, body = whole_response(error, "id-1").partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    assert start == "HTTP/1.1 408 Request Timeout"
    assert body == error_body(error)
    assert {"connection: close", "x-request-id: id-1", f"content-length: {len(body)}"} <= set(lines)
