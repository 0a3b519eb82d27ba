"""Looks become the numbers that a scraper sees."""

from gateway.reporting.looks import LookMetrics
from gateway.reporting.registry import Families
from tests.reporting.samples import sample


def test_a_look_that_succeeds_is_timed() -> None:
    families = Families()
    looks = LookMetrics(families)
    looks.watch("b", "metrics")
    labels = {"backend": "b", "source": "metrics"}
    assert sample(families, "telemetry_last_success_timestamp_seconds", **labels) == 0
    looks.succeeded("b", "metrics", 0.004)
    assert (sample(families, "telemetry_last_success_timestamp_seconds", **labels) or 0) > 1.7e9
    assert sample(families, "telemetry_scrape_duration_seconds_sum", source="metrics") == 0.004


def test_a_look_at_gpus_has_no_time_of_its_own() -> None:
    """They are read together, in a thread."""
    families = Families()
    LookMetrics(families).succeeded("b", "nvml", None)
    assert sample(families, "telemetry_scrape_duration_seconds_count", source="nvml") == 0
    assert (sample(families, "telemetry_last_success_timestamp_seconds", backend="b", source="nvml") or 0) > 1.7e9


def test_failures_are_counted_by_reason() -> None:
    families = Families()
    LookMetrics(families).failed("b", "metrics", "timeout")
    labels = {"backend": "b", "source": "metrics"}
    assert sample(families, "telemetry_errors_total", **labels, reason="timeout") == 1
    assert sample(families, "telemetry_errors_total", **labels, reason="parse") == 0


def test_who_is_forgotten_starts_anew() -> None:
    """Its old series would count on unseen otherwise."""
    families = Families()
    looks = LookMetrics(families)
    looks.failed("b", "metrics", "parse")
    looks.watch("c", "metrics")
    families.remove_all(backend="b")
    looks.forget("b")
    looks.failed("b", "metrics", "parse")
    labels = {"source": "metrics", "reason": "parse"}
    assert sample(families, "telemetry_errors_total", backend="b", **labels) == 1
    assert sample(families, "telemetry_errors_total", backend="c", **labels) == 0
