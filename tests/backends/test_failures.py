import json

import pytest
from hypothesis import given, strategies as st

from gateway.backends.failures import BUSY_DEFAULT_S, BUSY_MAX_S, MESSAGE_MAX_CHARS, first_event_error, refusal
from tests.backends.pages import RECORDED, recorded

REJECTIONS = sorted(path.relative_to(RECORDED).as_posix() for path in RECORDED.glob("*/*.4??.json"))


@pytest.mark.parametrize("name", REJECTIONS)
def test_real_rejections_keep_status_and_words(name: str) -> None:
    """What vLLM and llama.cpp say about a bad request reaches the client on one line."""
    status, body = int(name.split(".")[-2]), recorded(name)
    answer = refusal(status, body)
    said = json.loads(body)["error"]
    assert answer.error.status == status
    assert answer.error.message == " ".join(said["message"].split())
    assert answer.error.param == said.get("param")
    assert (answer.busy_for_s, answer.error.should_retry) == (None, False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"error":"Bad tool"}', "Bad tool"),
        (b'{"object":"error","message":"Too long.","type":"BadRequest","code":400}', "Too long."),
        (b'{"error":{"message":"","code":7,"type":"a b","param":["x"]}}', None),
        (b'{"detail":[{"loc":["body"],"msg":"missing"}]}', None),
        (b"plain text", None),
        (b"", None),
        (b'{"error":{"message":"' + b"x" * (MESSAGE_MAX_CHARS + 1) + b'"}}', None),
        (b'{"error":"connect to http://gpu-7 failed"}', None),
        (b'{"error":"10.0.0.7 is down"}', None),
        (b'{"error":"gpu-7.rack.internal is down"}', None),
        (b'{"error":"gpu-7:8000 is down"}', None),
        (b'{"error":"no file /srv/models/llama/config.json"}', None),
        (b'{"error":"Traceback (most recent call last): boom"}', None),
        (b'{"error":"no such key: sk-abcdefgh12345678"}', None),
        (b'{"error":"bad header: Bearer 0123456789"}', None),
        (b'{"error":"\\u001b[31mred"}', None),
        (b'{"error":"no model meta-llama/Llama-3.1-8B"}', "no model meta-llama/Llama-3.1-8B"),
    ],
)
def test_words_that_are_fit_to_be_seen(body: bytes, message: str | None) -> None:
    """Short sentences pass; addresses, paths, traces and everything odd become a sentence of ours."""
    error = refusal(404, body).error
    assert error.message == (message or "The engine rejected the request (404).")
    assert error.status == 404


@pytest.mark.parametrize(
    ("retry_after", "busy_for_s", "told_s"),
    [
        ("7", 7.0, 7.0),
        (" 0.5 ", 0.5, 0.5),
        ("120", 120.0, 60.0),
        ("999999999", BUSY_MAX_S, 60.0),
        (None, BUSY_DEFAULT_S, BUSY_DEFAULT_S),
        ("Wed, 21 Oct 2026 07:28:00 GMT", BUSY_DEFAULT_S, BUSY_DEFAULT_S),
        ("-5", BUSY_DEFAULT_S, BUSY_DEFAULT_S),
        ("inf", BUSY_DEFAULT_S, BUSY_DEFAULT_S),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_busy_engines(status: int, retry_after: str | None, busy_for_s: float, told_s: float) -> None:
    """The backend is left alone for as long as it asks; the client hears no more than its SDK obeys."""
    answer = refusal(status, recorded("vllm/overload.503.json"), retry_after)
    assert (answer.error.status, answer.busy_for_s, answer.error.retry_after_s) == (status, busy_for_s, told_s)
    assert answer.error.should_retry


@pytest.mark.parametrize("status", [401, 403, 407])
def test_a_refused_key_is_ours_not_the_clients(status: int) -> None:
    """A client that saw 401 would look for a fault in its own key."""
    error = refusal(status, b'{"error":"Unauthorized"}').error
    assert (error.status, error.code) == (502, "upstream_error")
    assert "Unauthorized" not in error.message


@pytest.mark.parametrize("status", [500, 502, 504, 301, 204, 100])
def test_everything_else_is_a_bad_gateway(status: int) -> None:
    """No retry is advised: the engine may have begun."""
    answer = refusal(status, recorded("llamacpp/overflow.500.json"))
    assert (answer.error.status, answer.error.should_retry, answer.busy_for_s) == (502, False, None)


def test_an_overloaded_vllm_that_answers_200() -> None:
    """Its queue limit can show as the first event of a stream: 503 after all."""
    event = b"data: " + recorded("vllm/overload.503.json").strip() + b"\n\ndata: [DONE]\n\n"
    answer = first_event_error(event)
    assert answer is not None
    assert (answer.error.status, answer.busy_for_s) == (503, BUSY_DEFAULT_S)


def test_a_llamacpp_whose_context_is_full() -> None:
    """Its overflow is a 500 inside a 200."""
    error = b'{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}'
    answer = first_event_error(b"data: " + error)
    assert answer is not None
    assert answer.error.status == 502


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b'{"error":{"message":"Too long","code":400,"param":"prompt"}}', 400),
        (b'{"error":{"message":"odd","code":"server_error"}}', 502),
        (b'{"error":{"message":"odd","code":200}}', 502),
        (b'{"error":"boom"}', 502),
    ],
)
def test_codes_of_first_events(data: bytes, status: int) -> None:
    """A code that is a status counts as one; without it, it is the engine's fault."""
    answer = first_event_error(data)
    assert answer is not None
    assert answer.error.status == status


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"\\"error\\""}}]}',
        b'{"choices":[],"error":null}',
        b'{"choices":[{"text":"the word \\"error\\" in a text"}]}',
        b"[DONE]",
        b'{"error":',
        b"",
        b'{"error":' + b"[" * 5000,
    ],
)
def test_first_events_that_are_no_errors(data: bytes) -> None:
    """The word alone makes no error, and nor does what cannot be read."""
    assert first_event_error(data) is None


@pytest.mark.parametrize("name", ["vllm/chat-stream.sse", "llamacpp/chat-stream.sse", "llamacpp/completion-stream.sse"])
def test_real_first_events_pass(name: str) -> None:
    """Streams of real engines begin without an error."""
    assert first_event_error(recorded(name).split(b"\n\n")[0]) is None


@given(st.integers(100, 599), st.binary(max_size=60) | st.text(max_size=60).map(str.encode), st.none() | st.text())
def test_any_answer_becomes_an_error_a_client_may_get(status: int, body: bytes, retry_after: str | None) -> None:
    """Total: whatever an engine answers has a status of 4xx or 5xx and a printable message."""
    error = refusal(status, body, retry_after).error
    assert 400 <= error.status < 600
    assert error.message.isprintable()
    first_event_error(body)


@pytest.mark.parametrize(
    ("said", "died"),
    [
        (b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above)","code":500}}', True),
        (b"vllm.v1.engine.exceptions.EngineDeadError", True),
        (b'{"error":{"message":"list index out of range","code":500}}', False),
        (b"Internal Server Error", False),
    ],
)
def test_an_engine_whose_core_is_dead_says_so(said: bytes, died: bool) -> None:
    """Before headers and in a stream; any other error is one request's."""
    assert refusal(500, said).engine_died is died
    assert not refusal(503, said).engine_died
    if said.startswith(b"{"):
        answer = first_event_error(said)
        assert answer is not None
        assert answer.engine_died is died
