"""Headers are hints: good ones are taken, others count as not sent."""

from __future__ import annotations

import pytest

from gateway.api.parse import parse_inference
from gateway.api.request_headers import apply_headers, reject_encoded_body, request_id
from gateway.errors import ApiError
from gateway.request import CHAT, UNTRACED, InferenceRequest, TraceContext

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def request_with(headers: dict[str, str]) -> InferenceRequest:
    request = parse_inference(CHAT, b'{"model":"m","messages":[{"role":"user","content":"x"}]}')
    apply_headers(request, headers)
    return request


def test_a_safe_request_id_is_kept() -> None:
    """So that a client finds its own id in every log."""
    assert request_id({"x-request-id": "req-ABC-123"}) == "req-ABC-123"


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "a\r\nb", "a\n", "ä", "a_b", "../x"])
def test_any_other_request_id_is_replaced(given: str | None) -> None:
    """By one that is new each time."""
    headers = {} if given is None else {"x-request-id": given}
    first, second = request_id(headers), request_id(headers)
    assert first != second
    assert len(first) == 32
    assert first.isalnum()


@pytest.mark.parametrize(
    ("text", "deadline_s"),
    [("600", 600.0), ("0.5", 0.5), ("999999999", 86_400.0), ("0", None), ("-1", None), ("nan", None), ("inf", None),
     ("1e3", None), ("", None), ("None", None), ("1,5", None), ("\u0661", None), ("1" * 5_000, None)],
)  # fmt: skip
def test_the_clients_read_timeout_is_its_deadline(text: str, deadline_s: float | None) -> None:
    """A plain number of seconds, within a day."""
    assert request_with({"x-stainless-read-timeout": text}).deadline_s == deadline_s


@pytest.mark.parametrize(
    ("text", "count"), [("2", 2), ("0", 0), ("5000", 100), ("-1", 0), ("x", 0), ("\u0662", 0), ("9" * 5_000, 0)]
)
def test_retries_are_counted(text: str, count: int) -> None:
    """As the official client sends them, bounded."""
    assert request_with({"x-stainless-retry-count": text}).retry_count == count


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (TRACE, TRACE),
        (TRACE.upper(), ""),
        (TRACE + "-x", ""),
        ("x", ""),
        (TRACE + "\n", ""),
        ("ff" + TRACE[2:], ""),
        (f"00-{'0' * 32}-{'a' * 16}-01", ""),
        (f"00-{'a' * 32}-{'0' * 16}-01", ""),
    ],
)
def test_a_well_formed_trace_is_carried_on(text: str, kept: str) -> None:
    """Anything else could be a header of its own."""
    trace = request_with({"traceparent": text, "tracestate": "a=1,b=2"}).trace
    assert trace == (TraceContext(kept, "a=1,b=2") if kept else UNTRACED)


@pytest.mark.parametrize("state", ["", "a=1\r\nx: y", "a=\x00", "a=ä", "a=" + "1" * 511])
def test_a_bad_trace_state_is_left_out(state: str) -> None:
    """The trace goes on without it."""
    assert request_with({"traceparent": TRACE, "tracestate": state}).trace == TraceContext(TRACE)


def test_without_headers_nothing_is_assumed() -> None:
    """No deadline, no retries, no trace."""
    request = request_with({})
    assert (request.deadline_s, request.retry_count, request.trace) == (None, 0, UNTRACED)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "identity, gzip", "x"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    """It is never unpacked, and what follows it on the connection is not read."""
    with pytest.raises(ApiError) as caught:
        reject_encoded_body({"content-encoding": encoding})
    assert (caught.value.status, caught.value.code, caught.value.close) == (415, "unsupported_media_type", True)


@pytest.mark.parametrize("headers", [{}, {"content-encoding": ""}, {"content-encoding": "Identity"}])
def test_a_plain_body_is_taken(headers: dict[str, str]) -> None:
    """Also one that says so."""
    reject_encoded_body(headers)
