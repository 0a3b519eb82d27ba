"""Snapshots of backends become the numbers that a scraper sees."""

import dataclasses
import math

import pytest

from gateway.admission.commands import Admit
from gateway.admission.events import Arrived, Left
from gateway.admission.snapshot import BackendState
from gateway.domain import Outcome, Reason
from gateway.reporting.backends import WORDS
from gateway.reporting.families import STATES
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import UpstreamAttempt
from tests.reporting.page import Page
from tests.reporting.samples import CHAT, HOSTED, OURS, metrics_of_both, record, snapshot, ticket


@pytest.fixture
def metrics() -> Metrics:
    return metrics_of_both()


def test_a_hosted_backend_has_no_pool_and_its_models_wait_for_a_request(metrics: Metrics) -> None:
    """Providers list hundreds of models, and tell nothing of their memory."""
    page = Page(metrics)
    assert page.get("backend_kv_capacity_tokens", backend="h") is None
    assert page.get("backend_up", backend="h") == 1
    assert "far" not in {labels["model_name"] for labels in page.labels_of("admission_decisions_total")}
    metrics.on_request(record(model="far", backend="h"))
    assert Page(metrics).get("time_to_first_token_seconds_count", model_name="far", backend="h") == 0


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


def test_forecasts_of_a_pool_are_shown(metrics: Metrics) -> None:
    """How full it will be, and when; no time where that is not in sight."""
    page = Page(metrics)
    assert page.get("backend_kv_peak_forecast_tokens", backend="b", horizon="30s") == 400
    assert page.get("backend_kv_peak_forecast_tokens", backend="b", horizon="300s") == 600
    assert page.get("backend_kv_time_to_exhaustion_seconds", backend="b") == 240
    metrics.refresh(snapshot(1.0, dataclasses.replace(OURS, exhaustion_s=math.inf)), {})
    assert Page(metrics).get("backend_kv_time_to_exhaustion_seconds", backend="b") == math.inf


def test_the_margin_is_what_is_held_back_for_whatever_cause(metrics: Metrics) -> None:
    metrics.refresh(snapshot(1.0, dataclasses.replace(OURS, margin_share=0.3)), {})
    assert Page(metrics).get("backend_safety_margin_ratio", backend="b") == 0.3
    metrics.refresh(snapshot(1.0, dataclasses.replace(OURS, margin_share=0.0)), {})
    assert Page(metrics).get("backend_safety_margin_ratio", backend="b") == 0.1


def test_token_seconds_follow_the_books(metrics: Metrics) -> None:
    """A total that starts anew is counted on, never back."""
    for total in (50.0, 80.0, 5.0):
        metrics.refresh(snapshot(1.0, dataclasses.replace(OURS, kv_token_seconds=total)), {})
    assert Page(metrics).get("backend_kv_token_seconds_total", backend="b") == 85


def test_what_is_left_of_a_limit_is_a_share(metrics: Metrics) -> None:
    """Only where there is a limit: an own engine has none."""
    page = Page(metrics)
    assert page.get("backend_rate_limit_remaining_ratio", backend="h", unit="requests") == 0.75
    assert page.get("backend_rate_limit_remaining_ratio", backend="h", unit="tokens") == 0.5
    assert {labels["backend"] for labels in page.labels_of("backend_rate_limit_remaining_ratio")} == {"h"}


def test_a_backend_that_is_configured_no_more_is_gone(metrics: Metrics) -> None:
    """Its last state would stand for ever, and alerts with it. What still runs there ends without a word."""
    metrics.on_admission(0.0, Arrived(ticket(1)), [Admit(1, "b", Reason.OK, kv_tokens=1)])
    metrics.on_kv_formula("b", 0.9)
    metrics.on_read_failed("b", "metrics", "timeout")
    metrics.refresh(snapshot(1.0, HOSTED), {})
    metrics.on_admission(1.0, Left(1, Outcome.FINISHED), [])
    metrics.on_request(record())
    assert [labels for _, labels in Page(metrics).samples if ("backend", "b") in labels] == []
    metrics.refresh(snapshot(2.0, OURS, HOSTED), {"b": "vllm"})
    metrics.on_read("b", "metrics", 0.1)
    metrics.on_request(record())
    page = Page(metrics)
    assert page.get("requests_total", endpoint=CHAT, model_name="m", backend="b", code="200") == 1
    assert page.get("telemetry_errors_total", backend="b", source="metrics", reason="timeout") == 0
    assert math.isnan(page.get("backend_kv_formula_ratio", backend="b") or 0)
    assert {labels["backend"] for labels in page.labels_of("backend_info")} == {"b", "h"}


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
        (BackendState.DRAINING, "draining", 1),
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


def test_every_state_has_a_word() -> None:
    """One that is added elsewhere must not be the end of all metrics."""
    assert WORDS.keys() == set(BackendState)
    assert set(WORDS.values()) <= set(STATES)


def test_info_follows_the_engine(metrics: Metrics) -> None:
    """After an upgrade there is one series for the backend, not two."""
    metrics.refresh(snapshot(1.0, dataclasses.replace(OURS, engine_version="0.33")), {"b": "vllm"})
    assert Page(metrics).labels_of("backend_info") == [
        {"backend": "b", "model_name": "m", "kind": "vllm", "engine_version": "0.33"}
    ]
