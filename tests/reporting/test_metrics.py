"""Events, records and snapshots become the numbers that a scraper sees."""

import dataclasses
import math

import pytest

from estimator.demand import Demand, DemandModel, Shape
from gateway.admission.commands import Admit, Refuse
from gateway.admission.events import Arrived, Left
from gateway.admission.snapshot import BackendSnapshot, BackendState, QueueSnapshot, Snapshot, Telemetry
from gateway.domain import Outcome, Priority, Reason, Refusal, Ticket
from gateway.reporting.metrics import ENDPOINTS_MAX, MODELS_MAX, Metrics
from gateway.reporting.record import RequestRecord, UpstreamAttempt
from tests.reporting.page import Page

CHAT = "/v1/chat/completions"
OURS = BackendSnapshot(
    name="b",
    state=BackendState.READY,
    telemetry=Telemetry.FRESH,
    hosted=False,
    models=("m",),
    engine_version="0.32",
    capacity_tokens=1000,
    block_tokens=16,
    resident_tokens=100,
    reserved_tokens=300,
    draining_tokens=50,
    foreign_tokens=20,
    held_back_tokens=100,
    headroom_tokens=530,
    observed_tokens=170,
    requests=2,
    running=2,
    waiting=1,
    preemptions=3,
    telemetry_age_s=0.1,
    drain_timeouts=0,
)
HOSTED = dataclasses.replace(
    OURS, name="h", hosted=True, models=("far",), capacity_tokens=0, engine_version="", observed_tokens=None
)


def snapshot(now: float = 0.0, *backends: BackendSnapshot, queues: tuple[QueueSnapshot, ...] = ()) -> Snapshot:
    return Snapshot(now, draining=False, backends=backends, queues=queues, queue_requests_max=512, double_releases=0)


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(["m"], version="1.2.3", config_sha256="abc", exceed_ratio_target=0.01)
    made.refresh(snapshot(0.0, OURS, HOSTED), {"b": "vllm", "h": "openai"})
    return made


def demand() -> Demand:
    return DemandModel().estimate(Shape(text_bytes=0, token_prompts=(100,), max_tokens=10), context_tokens=1000)


def ticket(number: int, model: str = "m", **changes: object) -> Ticket:
    return dataclasses.replace(Ticket(number, model, demand(), deadline=30.0), **changes)  # type: ignore[arg-type]


def record(**changes: object) -> RequestRecord:
    return dataclasses.replace(RequestRecord("r", CHAT, "m", 200, 2.0, backend="b"), **changes)  # type: ignore[arg-type]


def decisions(metrics: Metrics, outcome: str, reason: str, priority: str = "interactive") -> float | None:
    return Page(metrics).get(
        "admission_decisions_total", model_name="m", priority=priority, outcome=outcome, reason=reason
    )


def test_series_exist_before_the_first_request(metrics: Metrics) -> None:
    """A rate over a series that appears with its first increment misses that increment."""
    page = Page(metrics)
    assert page.get("requests_total", endpoint=CHAT, model_name="m", backend="b", code="200") == 0
    assert page.get("requests_total", endpoint=CHAT, model_name="m", backend="none", code="429") == 0
    assert decisions(metrics, "evicted", "client_gone", "batch") == 0
    assert page.get("upstream_errors_total", backend="b", reason="http_5xx") == 0
    assert page.get("telemetry_errors_total", backend="b", source="metrics", reason="parse") == 0
    assert page.get("prediction_outcomes_total", model_name="m", kind="output", result="exceeded") == 0
    assert page.get("time_to_first_token_seconds_count", model_name="m", backend="b") == 0


def test_the_page_is_text_that_a_scraper_reads(metrics: Metrics) -> None:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    assert b"_created" not in body
    _, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")


def test_a_hosted_backend_has_no_pool_and_its_models_wait_for_a_request(metrics: Metrics) -> None:
    """Providers list hundreds of models, and tell nothing of their memory."""
    page = Page(metrics)
    assert page.get("backend_kv_capacity_tokens", backend="h") is None
    assert page.get("backend_up", backend="h") == 1
    assert "far" not in {labels["model_name"] for labels in page.labels_of("admission_decisions_total")}
    metrics.on_request(record(model="far", backend="h"))
    assert Page(metrics).get("time_to_first_token_seconds_count", model_name="far", backend="h") == 0


def test_an_admitted_request_is_decided_then_in_flight_then_gone(metrics: Metrics) -> None:
    metrics.on_admission(1.0, Arrived(ticket(1)), [Admit(1, "b", Reason.OK, kv_tokens=112)])
    metrics.refresh(snapshot(4.0, OURS), {"b": "vllm"})
    page = Page(metrics)
    assert decisions(metrics, "admitted", "ok") == 1
    assert page.get("admission_tokens_total", model_name="m", priority="interactive", outcome="admitted") == 112
    assert page.get("requests_in_flight", model_name="m", backend="b", priority="interactive") == 1
    assert page.get("oldest_in_flight_age_seconds", backend="b") == 3
    metrics.on_admission(5.0, Left(1, Outcome.FINISHED), [])
    metrics.on_admission(5.0, Left(1, Outcome.FINISHED), [])
    metrics.refresh(snapshot(6.0, OURS), {"b": "vllm"})
    page = Page(metrics)
    assert page.get("requests_in_flight", model_name="m", backend="b", priority="interactive") == 0
    assert page.get("oldest_in_flight_age_seconds", backend="b") == 0


def test_whoever_waited_is_evicted_and_whoever_did_not_is_rejected(metrics: Metrics) -> None:
    """The words tell a full queue from one that is too slow."""
    full = Refuse(1, Refusal(Reason.QUEUE_FULL, retry_after_s=90.0, need_tokens=112))
    metrics.on_admission(0.0, Arrived(ticket(1)), [full])
    metrics.on_admission(0.0, Arrived(ticket(2, priority=Priority.BATCH)), [])
    metrics.on_admission(0.0, Arrived(ticket(3)), [])
    metrics.on_admission(30.0, None, [Refuse(2, Refusal(Reason.QUEUE_TIMEOUT, retry_after_s=4.0))])
    metrics.on_admission(40.0, Left(3, Outcome.NOT_SENT), [])
    assert decisions(metrics, "rejected", "queue_full") == 1
    assert decisions(metrics, "evicted", "queue_timeout", "batch") == 1
    assert decisions(metrics, "evicted", "client_gone") == 1
    page = Page(metrics)
    assert page.get("retry_after_seconds_sum", model_name="m") == 64
    waited = {"model_name": "m", "priority": "batch", "outcome": "evicted"}
    assert page.get("admission_queue_wait_seconds_sum", **waited) == 30
    # Nobody named a number for these two: the prompt and the middle of the output stand in.
    assert page.get("admission_tokens_total", **waited) == 110


def test_a_second_try_on_another_backend_is_no_second_decision(metrics: Metrics) -> None:
    metrics.on_admission(0.0, Arrived(ticket(1)), [Admit(1, "b", Reason.OK, kv_tokens=1)])
    metrics.on_admission(0.1, Left(1, Outcome.NOT_SENT), [])
    again = ticket(2, excluded=frozenset({"b"}))
    metrics.on_admission(0.1, Arrived(again), [Admit(2, "h", Reason.OK, kv_tokens=0)])
    assert decisions(metrics, "admitted", "ok") == 1
    metrics.on_admission(0.2, Arrived(dataclasses.replace(again, id=3)), [Refuse(3, Refusal(Reason.NO_BACKEND))])
    metrics.on_admission(0.3, Arrived(dataclasses.replace(again, id=4)), [])
    metrics.on_admission(0.4, Left(4, Outcome.NOT_SENT), [])
    assert decisions(metrics, "rejected", "no_backend") == 0
    assert decisions(metrics, "evicted", "client_gone") == 0


def test_a_finished_request_is_measured(metrics: Metrics) -> None:
    metrics.on_request(
        record(
            stream=True,
            ttft_s=0.5,
            prompt_tokens=100,
            cached_prompt_tokens=64,
            output_tokens=16,
            predicted_prompt_tokens=80,
            predicted_prompt_bound=120,
            predicted_output_p50=8,
            predicted_output_bound=10,
            finished=True,
        )
    )
    page = Page(metrics)
    assert page.get("requests_total", endpoint=CHAT, model_name="m", backend="b", code="200") == 1
    assert page.get("request_duration_seconds_sum", endpoint=CHAT, model_name="m", backend="b") == 2
    assert page.get("time_to_first_token_seconds_sum", model_name="m", backend="b") == 0.5
    assert page.get("time_per_output_token_seconds_sum", model_name="m", backend="b") == 0.1
    assert page.get("cached_prompt_tokens_total", model_name="m", backend="b") == 64
    assert page.get("prediction_ratio_sum", model_name="m", kind="prompt") == 1.25
    assert page.get("prediction_ratio_sum", model_name="m", kind="output") == 2
    assert page.get("prediction_outcomes_total", model_name="m", kind="prompt", result="covered") == 1
    assert page.get("prediction_outcomes_total", model_name="m", kind="output", result="exceeded") == 1


def test_failures_count_for_the_backend_that_failed(metrics: Metrics) -> None:
    attempts = (
        UpstreamAttempt("h", "connect", retried=True),
        UpstreamAttempt("b", "reset"),
        UpstreamAttempt("x", "reset"),
    )
    metrics.on_request(record(code=502, disconnect="decode", attempts=attempts))
    page = Page(metrics)
    assert page.get("upstream_errors_total", backend="h", reason="connect") == 1
    assert page.get("upstream_retries_total", backend="h", reason="connect") == 1
    assert page.get("upstream_errors_total", backend="b", reason="reset") == 1
    assert page.get("upstream_retries_total", backend="b", reason="reset") == 0
    assert page.get("client_disconnects_total", model_name="m", phase="decode") == 1


def test_labels_come_from_what_exists_never_from_requests(metrics: Metrics) -> None:
    """Junk in requests must not become series."""
    for index in range(100):
        metrics.on_request(record(model=f"junk-{index}", backend=f"junk-{index}", endpoint=f"/junk/{index}", code=404))
    page = Page(metrics)
    models = {labels["model_name"] for labels in page.labels_of("requests_total")}
    assert models == {"m", "other"}, "what the provider lists waits for its first request"
    assert {labels["backend"] for labels in page.labels_of("requests_total")} == {"b", "none"}
    assert len({labels["endpoint"] for labels in page.labels_of("requests_total")}) <= ENDPOINTS_MAX + 4
    assert page.get("label_overflow_total", label="model_name") == 100


def test_too_many_models_share_one_label() -> None:
    crowded = Metrics([], version="1", config_sha256="x", exceed_ratio_target=0.01)
    many = tuple(f"m{index}" for index in range(MODELS_MAX + 5))
    crowded.refresh(snapshot(0.0, dataclasses.replace(HOSTED, models=many)), {})
    crowded.on_admission(0.0, Arrived(ticket(1, model=many[-1])), [Admit(1, "h", Reason.OK, kv_tokens=0)])
    labels = {"priority": "interactive", "outcome": "admitted", "reason": "ok"}
    assert Page(crowded).get("admission_decisions_total", model_name="other", **labels) == 1
    assert len(Page(crowded).labels_of("backend_info")) == MODELS_MAX - 1


def test_a_pool_adds_up(metrics: Metrics) -> None:
    """Reserved, external, held back and headroom are the capacity; what drains is still resident."""
    page = Page(metrics)
    resident = page.get("backend_kv_reserved_tokens", backend="b", kind="resident")
    predicted = page.get("backend_kv_reserved_tokens", backend="b", kind="predicted")
    assert (resident, predicted) == (150, 200)
    assert page.get("backend_kv_headroom_tokens", backend="b") == 1000 - 150 - 200 - 20 - 100
    assert page.get("backend_safety_margin_ratio", backend="b") == 0.1
    assert page.get("backend_kv_observed_tokens", backend="b") == 170
    assert page.get("backend_preemptions_total", backend="b") == 3


def test_token_seconds_are_the_integral_of_what_is_reserved(metrics: Metrics) -> None:
    """Trapezoids between looks; time that goes back adds nothing."""
    metrics.refresh(snapshot(2.0, OURS), {})
    metrics.refresh(
        snapshot(4.0, dataclasses.replace(OURS, reserved_tokens=0, resident_tokens=0, draining_tokens=0)), {}
    )
    metrics.refresh(snapshot(3.0, OURS), {})
    assert Page(metrics).get("backend_kv_token_seconds_total", backend="b") == 350 * 2 + 350


def test_what_an_engine_does_not_say_is_no_number(metrics: Metrics) -> None:
    silent = dataclasses.replace(OURS, observed_tokens=None, running=None, waiting=None, preemptions=0)
    metrics.refresh(snapshot(1.0, silent), {})
    page = Page(metrics)
    for name in ("backend_kv_observed_tokens", "backend_running_requests", "backend_waiting_requests"):
        assert math.isnan(page.get(name, backend="b") or 0), name
    assert page.get("backend_preemptions_total", backend="b") == 3


def test_engine_and_formula_are_compared(metrics: Metrics) -> None:
    """No number until there is one, and none again when the engine stops to state it."""
    for ratio, shown in ((None, math.nan), (0.87, 0.87), (None, math.nan)):
        metrics.on_kv_formula("b", ratio)
        metrics.refresh(snapshot(1.0, OURS), {})
        value = Page(metrics).get("backend_kv_formula_ratio", backend="b")
        assert value == pytest.approx(shown, nan_ok=True)


@pytest.mark.parametrize(
    ("state", "word", "up"),
    [
        (BackendState.READY, "ready", 1),
        (BackendState.BUSY, "ejected", 1),
        (BackendState.COLD, "cold", 0),
        (BackendState.DOWN, "ejected", 0),
    ],
)
def test_a_backend_is_in_exactly_one_state(metrics: Metrics, state: BackendState, word: str, up: int) -> None:
    metrics.refresh(snapshot(1.0, dataclasses.replace(OURS, state=state)), {})
    page = Page(metrics)
    states = {labels["state"]: page.get("backend_state", **labels) for labels in page.labels_of("backend_state")}
    assert page.get("backend_up", backend="b") == up
    assert page.get("backend_state", backend="b", state=word) == 1
    assert len(states) == 5


def test_info_follows_the_engine(metrics: Metrics) -> None:
    """After an upgrade there is one series for the backend, not two."""
    metrics.refresh(snapshot(1.0, dataclasses.replace(OURS, engine_version="0.33")), {"b": "vllm"})
    assert Page(metrics).labels_of("backend_info") == [
        {"backend": "b", "model_name": "m", "kind": "vllm", "engine_version": "0.33"}
    ]


def test_queues_are_shown_and_emptied(metrics: Metrics) -> None:
    waiting = QueueSnapshot("m", Priority.STANDARD, depth=3, tokens=300, oldest_wait_s=1.5)
    metrics.refresh(snapshot(1.0, OURS, queues=(waiting,)), {})
    labels = {"model_name": "m", "priority": "standard"}
    page = Page(metrics)
    assert page.get("admission_queue_depth", **labels) == 3
    assert page.get("admission_queue_tokens", **labels) == 300
    assert page.get("admission_oldest_wait_seconds", **labels) == 1.5
    assert page.get("admission_queue_limit", model_name="m") == 512
    metrics.refresh(snapshot(2.0, OURS), {})
    assert Page(metrics).get("admission_queue_depth", **labels) == 0


def test_looks_and_the_process_are_measured(metrics: Metrics) -> None:
    metrics.on_read("b", "metrics", 0.004)
    metrics.on_read_failed("b", "metrics", "timeout")
    metrics.on_gpu("b", 0, used_bytes=7, total_bytes=9, utilization_ratio=0.5)
    metrics.on_gpu("b", 1, used_bytes=8, total_bytes=9, utilization_ratio=None)
    metrics.on_loop_lag(0.002)
    metrics.on_decision(0.0001)
    page = Page(metrics)
    assert page.get("telemetry_scrape_duration_seconds_count", source="metrics") == 1
    assert (page.get("telemetry_last_success_timestamp_seconds", backend="b", source="metrics") or 0) > 1.7e9
    assert page.get("telemetry_errors_total", backend="b", source="metrics", reason="timeout") == 1
    assert page.get("gpu_memory_used_bytes", gpu="1", backend="b") == 8
    assert page.get("gpu_utilization_ratio", gpu="0", backend="b") == 0.5
    assert page.get("gpu_utilization_ratio", gpu="1", backend="b") is None
    assert page.get("event_loop_lag_seconds_count") == 1
    assert page.get("admission_decision_duration_seconds_count") == 1
    assert page.get("config_info", sha256="abc") == 1
