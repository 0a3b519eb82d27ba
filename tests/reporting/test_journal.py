"""What is kept of decisions: the newest, by request id, before and after their end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from gateway.domain import Priority
from gateway.reporting.journal import Journal
from gateway.reporting.record import RequestRecord

ADMITTED = RequestRecord(
    request_id="r-1",
    endpoint="/v1/chat/completions",
    model="m",
    code=500,
    duration_s=0.25,
    backend="a",
    arrived_at=10.0,
    decision="admitted",
    outcome="admitted",
    reason="ok",
    priority=Priority.STANDARD,
    tenant="t",
    error="internal_error",
    predicted_prompt_tokens=90,
    predicted_output_p50=20,
    predicted_output_p90=60,
    predicted_output_bound=100,
    max_tokens=100,
    kv_tokens=192,
    need_tokens=192,
)
"""As it is told when its place is given: nobody knows yet how it will end."""
ENDED = replace(
    ADMITTED, code=200, error="", duration_s=2.0, ttft_s=0.5, prompt_tokens=96, output_tokens=40, finished=True
)
REFUSED = replace(
    ADMITTED,
    request_id="r-2",
    backend="",
    code=429,
    error="kv_capacity_exhausted",
    decision="refused",
    outcome="rejected",
    reason="headroom",
    kv_tokens=0,
    headroom_tokens=64,
    retry_after_s=3.21987,
)
READ_BY_REPLAY = {
    *("arrived_s", "model", "prompt_tokens", "output_tokens", "max_tokens", "tenant", "priority", "decision", "reason")
}


class Memory:
    """A file that is a list."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, object]] = []

    def write(self, entry: Mapping[str, object]) -> None:
        self.entries.append(entry)


def test_a_request_is_known_from_its_decision_on_and_whole_at_its_end() -> None:
    """Predicted stands beside real; until the end the prediction stands in for the prompt."""
    journal = Journal(unix_at_zero_s=1_000_000.0)
    assert journal.find("r-1") is None
    journal.admitted("r-1", lambda: ADMITTED)
    running = journal.find("r-1")
    assert running is not None
    assert (running["outcome"], running["code"], running["duration_s"]) == ("running", None, None)
    assert (running["prompt_tokens"], running["output_tokens"]) == (90, None)
    journal.ended(ENDED)
    ended = journal.find("r-1")
    assert ended == {
        "request_id": "r-1",
        "trace_id": None,
        "arrived_s": 1_000_010.0,
        "arrived_monotonic_s": 10.0,
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "tenant": "t",
        "priority": "standard",
        "stream": False,
        "decision": "admitted",
        "reason": "ok",
        "backend": "a",
        "outcome": "finished",
        "code": 200,
        "prompt_tokens": 96,
        "prompt_tokens_predicted": 90,
        "output_tokens": 40,
        "output_tokens_p50": 20,
        "output_tokens_p90": 60,
        "output_tokens_reserved": 100,
        "sequences": 1,
        "max_tokens": 100,
        "kv_tokens": 192,
        "need_tokens": 192,
        "headroom_tokens": None,
        "wait_s": 0.0,
        "retry_after_s": None,
        "ttft_s": 0.5,
        "duration_s": 2.0,
    }
    assert json.loads(json.dumps(ended)) == ended


def test_a_refusal_has_its_numbers() -> None:
    journal = Journal()
    journal.ended(REFUSED)
    refused = journal.find("r-2")
    assert refused is not None
    assert (refused["decision"], refused["outcome"], refused["backend"]) == ("refused", "kv_capacity_exhausted", None)
    assert (refused["need_tokens"], refused["headroom_tokens"], refused["retry_after_s"]) == (192, 64, 3.2199)
    assert (refused["prompt_tokens"], refused["output_tokens"]) == (90, None)


def test_who_left_is_told_from_who_was_served() -> None:
    """In the queue no decision was made; later there was one."""
    journal = Journal()
    journal.ended(
        replace(REFUSED, request_id="q", decision="left", reason="client_gone", disconnect="queued", error="")
    )
    journal.admitted("r-1", lambda: ADMITTED)
    journal.ended(replace(ADMITTED, disconnect="decode", code=499, error=""))
    outcomes = {entry["request_id"]: (entry["decision"], entry["outcome"]) for entry in journal.latest(9)}
    assert outcomes == {"q": ("left", "client_left"), "r-1": ("admitted", "client_left")}


def test_bad_input_is_no_decision() -> None:
    """Admission was never asked."""
    lines = Memory()
    journal = Journal(lines=lines)
    journal.ended(RequestRecord("r", "/v1/completions", "", 400, 0.1, error="invalid_json"))
    assert journal.latest(9) == []
    assert lines.entries == []


def test_the_newest_come_first_and_the_oldest_go() -> None:
    """An end does not make a decision newer; one that was pushed out does not come back by its end."""
    journal = Journal(kept_max=3)
    for number in range(4):
        journal.admitted(f"r-{number}", partial(replace, ADMITTED, request_id=f"r-{number}"))
    journal.ended(replace(ENDED, request_id="r-1"))
    journal.ended(replace(ENDED, request_id="r-0"))
    assert [entry["request_id"] for entry in journal.latest(9)] == ["r-3", "r-2", "r-1"]
    assert [entry["request_id"] for entry in journal.latest(2)] == ["r-3", "r-2"]
    assert journal.find("r-0") is None


def test_an_id_used_again_means_its_newest_request() -> None:
    """Clients choose them; the table cannot grow by that."""
    journal = Journal(kept_max=3)
    for number in range(10):
        journal.admitted("r-1", partial(replace, ADMITTED, model=f"m{number}"))
    (entry,) = journal.latest(9)
    assert entry["model"] == "m9"


def test_the_file_gets_what_replay_reads_once_per_request() -> None:
    """At its end, also of those that memory has forgotten."""
    lines = Memory()
    journal = Journal(lines=lines, kept_max=1)
    journal.admitted("r-1", lambda: ADMITTED)
    journal.ended(REFUSED)
    journal.ended(ENDED)
    assert [entry["request_id"] for entry in lines.entries] == ["r-2", "r-1"]
    assert all(entry.keys() >= READ_BY_REPLAY for entry in lines.entries)
    assert [entry["output_tokens"] for entry in lines.entries] == [None, 40]
