"""The registry holds the families of the contract, as they are written there."""

import pytest

from gateway.reporting.families import GATEWAY, LEDGER
from gateway.reporting.registry import Families, Total
from tests.reporting.samples import sample


def test_a_gateway_has_the_families_of_a_gateway() -> None:
    families = Families()
    described = {metric.name: (metric.type, metric.documentation) for metric in families.registry.collect()}
    assert described == {
        f"kvgate_{family.name.removesuffix('_total')}": (family.type, family.help) for family in GATEWAY
    }


def test_open_metrics_names_units() -> None:
    """As far as it knows them; the names stay those of the contract."""
    units = {metric.name: metric.unit for metric in Families().registry.collect()}
    assert units["kvgate_request_duration_seconds"] == "seconds"
    assert units["kvgate_prompt_tokens"] == "tokens"
    assert units["kvgate_backend_kv_token_seconds"] == "seconds"
    assert units["kvgate_requests"] == ""


def test_families_of_a_feature_come_once() -> None:
    families = Families()
    families.add(LEDGER)
    assert families.gauge("ledger_store_up") is not None
    with pytest.raises(ValueError, match="Duplicated"):
        families.add(LEDGER)


def test_all_series_of_a_label_can_be_taken_away() -> None:
    families = Families()
    families.gauge("backend_up", "a").set(1)
    families.gauge("backend_up", "b").set(1)
    families.counter("upstream_errors_total", "a", "reset").inc()
    families.histogram("request_duration_seconds", "/", "m", "a").observe(1)
    families.remove_all(backend="a")
    assert sample(families, "backend_up", backend="b") == 1
    assert "a" not in {
        found.labels.get("backend") for metric in families.registry.collect() for found in metric.samples
    }


def test_a_total_is_followed_upwards() -> None:
    families = Families()
    total = Total(families.counter("backend_preemptions_total", "b"))
    for reached in (3, 3, 5, 1):
        total.reach(reached)
    assert sample(families, "backend_preemptions_total", backend="b") == 6
