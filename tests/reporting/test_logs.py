"""Lines are whole, tell no secrets, and never make the gateway wait."""

import dataclasses
import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest
import structlog

from gateway.config import Secret
from gateway.domain import Priority
from gateway.reporting.logs import LineWriter, Logs, configure, is_kept, request_line
from gateway.reporting.record import RequestRecord, UpstreamAttempt
from gateway.request import CHAT

RECORD = RequestRecord(
    "req-1",
    "/v1/completions",
    "m",
    429,
    0.123456,
    outcome="rejected",
    reason="queue_full",
    error="queue_full",
    priority=Priority.BATCH,
    attempts=(UpstreamAttempt("b", "connect", retried=True),),
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is the process's: pytest's own handlers come back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


class Stuck(io.StringIO):
    """A pipe whose reader does not read until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.go.wait(10)
        return super().write(text)


def lines(logs: Logs, stream: io.StringIO) -> list[dict[str, object]]:
    logs.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_is_one_line_of_what_is_known() -> None:
    stream = io.StringIO()
    logs = configure("info", "auto", stream)
    logs.request(RECORD)
    (line,) = lines(logs, stream)
    assert str(line.pop("ts")).endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "req-1",
        "endpoint": "/v1/completions",
        "model": "m",
        "priority": "batch",
        "outcome": "rejected",
        "reason": "queue_full",
        "code": 429,
        "error": "queue_full",
        "stream": False,
        "queue_wait_s": 0.0,
        "duration_s": 0.1235,
        "kv_tokens": 0,
        "upstream_failures": ["b:connect"],
    }


def test_every_field_has_its_place() -> None:
    """Lines are made by position: no two fields may be mixed up."""
    full = RequestRecord(
        "r",
        CHAT,
        "m",
        502,
        2.5,
        backend="b",
        outcome="admitted",
        reason="ok",
        priority=Priority.STANDARD,
        tenant="t",
        error="upstream_error",
        stream=True,
        queue_wait_s=0.25,
        ttft_s=0.75,
        prompt_tokens=10,
        output_tokens=11,
        cached_prompt_tokens=12,
        predicted_prompt_tokens=13,
        predicted_output_p50=14,
        predicted_output_bound=15,
        kv_tokens=16,
        headroom_tokens=17,
        retry_after_s=1.5,
        disconnect="decode",
        attempts=(UpstreamAttempt("a", "reset"),),
        trace_id="c" * 32,
    )
    assert list(request_line(full).items()) == [
        ("request_id", "r"),
        ("trace_id", "c" * 32),
        ("endpoint", CHAT),
        ("model", "m"),
        ("backend", "b"),
        ("tenant", "t"),
        ("priority", "standard"),
        ("outcome", "admitted"),
        ("reason", "ok"),
        ("code", 502),
        ("error", "upstream_error"),
        ("stream", True),
        ("headroom_before", 17),
        ("retry_after_s", 1.5),
        ("queue_wait_s", 0.25),
        ("ttft_s", 0.75),
        ("duration_s", 2.5),
        ("prompt_tokens", 10),
        ("cached_prompt_tokens", 12),
        ("output_tokens", 11),
        ("predicted_prompt", 13),
        ("predicted_output", 14),
        ("output_bound", 15),
        ("kv_tokens", 16),
        ("disconnect", "decode"),
        ("upstream_failures", ["a:reset"]),
    ]


def test_a_line_cannot_be_forged() -> None:
    """Line breaks and control characters of a client's model name stay inside their string, and it has an end."""
    stream = io.StringIO()
    logs = configure("info", "json", stream)
    name = 'x"}\n{"event":"forged\x1b[2J' + "y" * 1000
    logs.request(RequestRecord("r", "/v1/completions", name, 404, 0.0))
    (line,) = lines(logs, stream)
    assert line["model"] == name[:256]


def test_the_level_holds_for_request_lines_too() -> None:
    stream = io.StringIO()
    logs = configure("warning", "json", stream)
    logs.request(RECORD)
    logs.request(RequestRecord("r", "/v1/completions", "m", 502, 0.0))
    assert [(line["code"], line["level"]) for line in lines(logs, stream)] == [(502, "warning")]


def test_our_own_lines_and_those_of_libraries_look_alike() -> None:
    stream = io.StringIO()
    logs = configure("info", "json", stream)
    structlog.get_logger("kvgate").info("started", port=1, api_key=Secret("sk-hidden", "env:K"))
    structlog.get_logger("kvgate").debug("unseen")
    logging.getLogger("aiohttp").warning("slow %s", "client")
    own, foreign = lines(logs, stream)
    assert own["event"] == "started"
    assert own["port"] == 1
    assert "sk-hidden" not in stream.getvalue()
    assert (foreign["event"], foreign["level"]) == ("slow client", "warning")
    assert own.keys() >= {"ts", "level", "event"}
    assert foreign.keys() >= {"ts", "level", "event"}


def test_a_share_of_what_went_well_is_enough() -> None:
    """Which ones, their ids decide; refusals, errors, clients that left and retries always have their line."""
    well = [dataclasses.replace(RECORD, request_id=f"r-{n}", code=200, attempts=()) for n in range(1000)]
    kept = [record for record in well if is_kept(record, 0.1)]
    assert 50 < len(kept) < 150
    assert kept == [record for record in well if is_kept(record, 0.1)]
    assert all(is_kept(record, 1.0) for record in well)
    for unwell in (RECORD, *(dataclasses.replace(well[0], code=code) for code in (400, 429, 499, 502))):
        assert is_kept(unwell, 0.0)
    stream = io.StringIO()
    logs = configure("info", "json", stream, admitted_share=0.0)
    for record in (well[0], dataclasses.replace(well[1], attempts=RECORD.attempts)):
        logs.request(record)
    assert [line["request_id"] for line in lines(logs, stream)] == ["r-1"]


def test_a_refusal_has_its_numbers() -> None:
    refused = dataclasses.replace(RECORD, trace_id="a" * 32, need_tokens=512, headroom_tokens=48, retry_after_s=1.23456)
    line = request_line(refused)
    assert (line["need_tokens"], line["headroom_before"], line["retry_after_s"]) == (512, 48, 1.235)
    assert line["trace_id"] == "a" * 32


def test_people_get_readable_lines() -> None:
    stream = io.StringIO()
    logs = configure("info", "console", stream)
    logs.request(RECORD)
    logs.close()
    assert "request_id=req-1" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


def test_a_blocked_reader_costs_lines_not_time() -> None:
    """What does not fit is dropped and counted; what fits comes out once the reader is back."""
    stream = Stuck()
    writer = LineWriter(stream, lines_max=3)
    writer.write("first")
    assert stream.entered.wait(10)
    for index in range(10):
        writer.write(str(index))
    assert writer.dropped == 7
    stream.go.set()
    writer.close(10)
    assert stream.getvalue().split() == ["first", "0", "1", "2"]


def test_closing_does_not_wait_for_ever() -> None:
    stream = Stuck()
    writer = LineWriter(stream, lines_max=1)
    writer.write("first")
    assert stream.entered.wait(10)
    writer.write("second")
    writer.close(0.01)
    stream.go.set()


def test_a_closed_stream_is_survived() -> None:
    stream = io.StringIO()
    stream.close()
    writer = LineWriter(stream)
    writer.write("lost")
    writer.close(10)
    assert writer.dropped == 1


def test_no_field_of_a_line_could_hold_a_prompt() -> None:
    """A record has no place for text but names and words of ours."""
    texts = {key for key, value in request_line(RECORD).items() if isinstance(value, str)}
    assert texts == {"request_id", "endpoint", "model", "priority", "outcome", "reason", "error"}


def test_what_is_written_may_change(capsys: pytest.CaptureFixture[str]) -> None:
    """For requests and for everything else."""
    stream = io.StringIO()
    logs = configure("error", "json", stream)
    structlog.get_logger().info("before")
    logs.request(RECORD)
    logs.tune("info", 1.0)
    structlog.get_logger().info("after")
    logs.request(RECORD)
    assert [line["event"] for line in lines(logs, stream)] == ["after", "request"]
