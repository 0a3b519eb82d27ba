"""Events, records and snapshots become the numbers that a scraper sees."""

import dataclasses
import math

import pytest
from prometheus_client.openmetrics import parser as openmetrics

from gateway.admission.commands import Admit, Refuse
from gateway.admission.events import Arrived, Left
from gateway.admission.snapshot import QueueSnapshot
from gateway.domain import Outcome, Priority, Reason, Refusal
from gateway.reporting.metrics import ENDPOINTS_MAX, MODELS_MAX, Metrics
from tests.reporting.page import Page
from tests.reporting.samples import CHAT, HOSTED, OURS, metrics_of_both, record, snapshot, ticket

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def metrics() -> Metrics:
    return metrics_of_both()


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
    _, content_type = metrics.render(OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")


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
    again = ticket(2, excluded=frozenset({"b"}), retried=True)
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


def test_the_accepted_risk_may_change() -> None:
    """For models that are known and for those that come."""
    metrics = Metrics(["m"], version="1", config_sha256="x", exceed_ratio_target=0.01)
    metrics.on_risk(0.2)
    metrics.refresh(snapshot(0.0, dataclasses.replace(OURS, models=("new",))), {})
    shown = [Page(metrics).get("prediction_target_exceed_ratio", model_name=name) for name in ("m", "new", "other")]
    assert shown == [0.2, 0.2, 0.2]


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


def test_decisions_take_time(metrics: Metrics) -> None:
    metrics.on_decision(0.0001)
    assert Page(metrics).get("admission_decision_duration_seconds_count") == 1


def test_forecasts_of_lengths_are_held_against_what_came(metrics: Metrics) -> None:
    """No number before there is one, and only for models that exist."""
    level = {"model_name": "m", "level": "0.99"}
    assert math.isnan(Page(metrics).get("prediction_coverage_ratio", **level) or 0)
    assert Page(metrics).get("estimator_last_fit_timestamp_seconds", model_name="m") == 0
    metrics.on_prediction("m", {0.5: 0.52, 0.9: 0.88, 0.99: 0.985}, 1.8e9)
    metrics.on_prediction("unheard-of", {0.5: 0.1}, 1.8e9)
    page = Page(metrics)
    assert page.get("prediction_coverage_ratio", **level) == 0.985
    assert page.get("estimator_last_fit_timestamp_seconds", model_name="m") == 1.8e9
    assert {labels["model_name"] for labels in page.labels_of("prediction_coverage_ratio")} == {"m", "other"}
    metrics.on_prediction("m", {0.99: None}, None)
    assert math.isnan(Page(metrics).get("prediction_coverage_ratio", **level) or 0)


def test_a_latency_leads_to_a_trace(metrics: Metrics) -> None:
    """Only in OpenMetrics, which alone has a place for it; without a trace that somebody keeps there is none."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    metrics.on_request(record(ttft_s=0.5, output_tokens=16))
    metrics.on_request(record(ttft_s=0.5, output_tokens=16, trace_id=trace, is_sampled=False))
    assert exemplars(metrics) == {}
    metrics.on_request(record(ttft_s=0.5, output_tokens=16, trace_id=trace))
    found = exemplars(metrics)
    assert found == {
        "kvgate_request_duration_seconds_bucket": ({"trace_id": trace}, 2.0),
        "kvgate_time_to_first_token_seconds_bucket": ({"trace_id": trace}, 0.5),
        "kvgate_time_per_output_token_seconds_bucket": ({"trace_id": trace}, 0.1),
    }
    assert trace.encode() not in metrics.render("text/plain")[0]


def exemplars(metrics: Metrics) -> dict[str, tuple[dict[str, str], float]]:
    body, _ = metrics.render(OPEN_METRICS)
    return {
        sample.name: (sample.exemplar.labels, sample.exemplar.value)
        for family in openmetrics.text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    }
