from __future__ import annotations

import pytest

from estimator.demand import Demand, Shape
from estimator.output_length import ENDLESS
from gateway.admission.commands import Admit
from gateway.domain import Priority, Reason, Refusal, Usage
from gateway.errors import upstream_error
from gateway.reporting.families import DECISIONS
from gateway.reporting.record import RequestRecord, UpstreamAttempt
from gateway.request import CHAT, InferenceRequest, Tenant, TraceContext
from gateway.trip import Trip


def trip() -> Trip:
    request = InferenceRequest(
        CHAT,
        "m",
        b"{}",
        {},
        Shape(10),
        stream=True,
        request_id="r1",
        tenant=Tenant("t"),
        priority=Priority.BATCH,
        trace=TraceContext("00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
    )
    return Trip(request, 100.0)


def admit(reason: Reason = Reason.OK, *, waited_s: float = 0.0, spilled: bool = False) -> Admit:
    return Admit(1, "a", reason, kv_tokens=64, waited_s=waited_s, spilled=spilled)


def test_a_request_that_was_served_tells_all_of_it() -> None:
    """Times from its arrival, tokens as the engine counted them, and what had been predicted."""
    way = trip()
    way.demand = Demand(2, (10, 12), 20, 50, ENDLESS)
    way.entered(admit(Reason.OK_AFTER_WAIT, waited_s=1.5))
    way.first_token(103.0)
    way.answered(Usage(21, 40, 8))
    way.delivered()
    record = way.record(110.0, 0.01)
    assert (record.request_id, record.endpoint, record.model, record.tenant) == ("r1", CHAT, "m", "t")
    assert (record.code, record.error, record.outcome, record.reason) == (200, "", "admitted", "ok_after_wait")
    assert (record.backend, record.kv_tokens, record.priority, record.stream) == ("a", 64, Priority.BATCH, True)
    assert (record.duration_s, record.queue_wait_s, record.ttft_s) == (10.0, 1.5, 3.0)
    assert (record.prompt_tokens, record.output_tokens, record.cached_prompt_tokens) == (21, 40, 8)
    assert (record.predicted_prompt_tokens, record.predicted_prompt_bound, record.sequences) == (20, 22, 4)
    assert (record.predicted_output_p50, record.predicted_output_bound) == (50, 50)
    assert (record.finished, record.disconnect, record.trace_id) == (True, None, "a" * 32)


def test_what_is_told_of_a_request_that_goes_on() -> None:
    """It has a place and no end; the time it took so far is its wait."""
    way = trip()
    way.demand = Demand(1, (10,), 8, 50, ENDLESS)
    way.entered(admit(Reason.OK_AFTER_WAIT, waited_s=1.5))
    record = way.so_far(0.01)
    assert (record.decision, record.backend, record.kv_tokens) == ("admitted_after_wait", "a", 64)
    assert (record.duration_s, record.finished, record.output_tokens) == (1.5, False, None)


def test_a_refusal_is_remembered_with_its_numbers() -> None:
    """For the journal; who left in the queue was not decided on, and bad input never came so far."""
    way = trip()
    assert way.record(101.0, 0.01).decision == ""
    way.refused(Refusal(Reason.HEADROOM, 2.5, 400, 64))
    record = way.record(101.0, 0.01)
    assert (record.decision, record.arrived_at, record.max_tokens) == ("refused", 100.0, None)
    assert (record.need_tokens, record.headroom_tokens, record.retry_after_s) == (400, 64, 2.5)
    gone = trip()
    gone.client_left()
    assert gone.record(101.0, 0.01).decision == "left"
    admitted = trip()
    admitted.demand = Demand(1, (10,), 10, 50, ENDLESS)
    admitted.entered(admit())
    record = admitted.record(101.0, 0.01)
    assert (record.decision, record.need_tokens, record.headroom_tokens) == ("admitted", 64, None)
    assert record.predicted_output_p90 == 50


def test_a_request_whose_end_nobody_told_failed_by_a_bug() -> None:
    """Success has to be said; forgetting to say it must not look like it."""
    way = trip()
    way.entered(admit())
    way.answered(Usage(1, 1))
    record = way.record(101.0, 0.01)
    assert (record.code, record.error) == (500, "internal_error")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (None, "refused"),
        (admit(), "admitted"),
        (admit(Reason.OK_AFTER_WAIT), "admitted_after_wait"),
        (admit(Reason.OK_AFTER_WAIT, spilled=True), "spilled"),
        (admit(Reason.QUEUE_FULL), "admitted"),
    ],
)
def test_decisions_have_words_for_clients(command: Admit | None, words: str) -> None:
    """`x-kvgate-decision`; in observe mode whatever was wanted, it was admitted."""
    way = trip()
    if command is not None:
        way.entered(command)
    assert way.decision == words


@pytest.mark.parametrize(("waited_s", "outcome"), [(0.0, "rejected"), (2.0, "evicted")])
def test_a_refusal_is_told_by_whether_it_waited(waited_s: float, outcome: str) -> None:
    """Both pairs exist in the metrics."""
    way = trip()
    way.refused(Refusal(Reason.QUEUE_TIMEOUT, waited_s=waited_s))
    record = way.record(103.0, 0.01)
    assert (record.outcome, record.reason) in DECISIONS
    assert (record.outcome, record.queue_wait_s) == (outcome, waited_s)


@pytest.mark.parametrize(
    ("is_in", "has_begun", "phase"), [(False, False, "queued"), (True, False, "prefill"), (True, True, "decode")]
)
def test_a_client_that_left_is_told_by_how_far_it_came(is_in: bool, has_begun: bool, phase: str) -> None:
    """With 499, which no client sees."""
    way = trip()
    if is_in:
        way.entered(admit())
    if has_begun:
        way.first_token(101.0)
    way.client_left()
    record = way.record(102.0, 0.01)
    assert (record.code, record.error, record.disconnect) == (499, "", phase)
    assert (record.outcome, record.reason) == (("admitted", "ok") if is_in else ("evicted", "client_gone"))


def test_attempts_keep_their_order_and_who_was_tried_again() -> None:
    """A backend that failed counts once, however often that was told."""
    way = trip()
    way.entered(admit())
    way.upstream_failed("a", "connect")
    way.upstream_failed("a", "connect")
    way.retried()
    way.upstream_failed("b", "reset")
    way.failed(upstream_error("no"))
    record = way.record(102.0, 0.01)
    assert record.attempts == (UpstreamAttempt("a", "connect", retried=True), UpstreamAttempt("b", "reset"))
    assert (record.code, record.error) == (502, "upstream_error")


class Told:
    """A trace that notes what it is told."""

    context = TraceContext("00-" + "c" * 32 + "-" + "d" * 16 + "-00")

    def __init__(self) -> None:
        self.steps: list[tuple[object, ...]] = []

    def admitted(self, decision: str, admit: Admit) -> None:
        self.steps.append(("admitted", decision, admit.backend))

    def forwarded(self, request: InferenceRequest, kind: str, url: str) -> TraceContext:
        self.steps.append(("forwarded", request.request_id, kind, url))
        return self.context

    def upstream_failed(self, reason: str) -> None:
        self.steps.append(("upstream_failed", reason))

    def answered(self) -> None:
        self.steps.append(("answered",))

    def ended(self, record: RequestRecord) -> None:
        raise AssertionError("its record is made elsewhere")


def test_a_trace_hears_of_each_step_once() -> None:
    """And gives the record its id; without one the client's own context goes on to the engine."""
    way = trip()
    assert way.forwarded("vllm", "http://a") == way.request.trace
    way.trace = told = Told()
    way.entered(admit())
    assert way.forwarded("vllm", "http://a") == Told.context
    way.upstream_failed("a", "connect")
    way.upstream_failed("a", "connect")
    way.answered(Usage(1, 2), hit_length=True)
    record = way.record(102.0, 0.01)
    assert told.steps == [
        ("admitted", "admitted", "a"),
        ("forwarded", "r1", "vllm", "http://a"),
        ("upstream_failed", "connect"),
        ("answered",),
    ]
    assert (record.trace_id, record.is_sampled, record.hit_length) == ("c" * 32, False, True)


def test_who_left_the_queue_waited_all_the_time() -> None:
    way = trip()
    way.client_left()
    assert way.record(102.5, 0.01).queue_wait_s == 2.5


def test_what_never_was_is_unknown() -> None:
    """A request turned away before it was priced."""
    record = trip().record(100.5, 0.01)
    assert (record.backend, record.outcome, record.kv_tokens, record.sequences) == ("", "", 0, 1)
    assert record.ttft_s is record.prompt_tokens is record.predicted_output_bound is None


def test_whatever_came_before_a_refusal_is_the_decision() -> None:
    """Who got a place and then none at another backend was refused in the end."""
    way = trip()
    way.entered(admit())
    way.refused(Refusal(Reason.HEADROOM))
    assert way.decision == "refused"


def test_a_retry_without_a_failed_attempt_is_none_of_a_backends() -> None:
    """The gateway itself could not connect."""
    way = trip()
    way.retried()
    assert way.attempts == []


def test_its_name_is_that_of_what_is_asked() -> None:
    """Whoever asks, and however often; asked elsewhere it is another request."""
    one, again, other, elsewhere = trip(), trip(), trip(), trip()
    again.request.request_id = "r2"
    other.request.body += b" "
    elsewhere.request.endpoint = "/v1/embeddings"
    assert one.name == again.name
    assert len({one.name, other.name, elsewhere.name}) == 3
