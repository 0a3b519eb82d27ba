"""The exported families are those of the contract, name by name."""

from pathlib import Path

from gateway.domain import Priority, Reason
from gateway.reporting.families import DECISIONS, FAMILIES, OUTCOMES, PRIORITIES

CONTRACT = Path(__file__).with_name("contract_metrics.txt")
NOT_FED = {
    "backend_kv_peak_forecast_tokens",
    "backend_kv_time_to_exhaustion_seconds",
    "backend_rate_limit_remaining_ratio",
    "config_last_reload_success_timestamp_seconds",
    "config_last_reload_successful",
    "estimator_last_fit_timestamp_seconds",
    "ext_proc_streams_in_flight",
    "ext_proc_streams_total",
    "gpu_memory_unaccounted_bytes",
    "ledger_leases_expired_total",
    "ledger_mode",
    "ledger_store_duration_seconds",
    "ledger_store_up",
    "tenant_admission_decisions_total",
    "tenant_kv_token_seconds_total",
    "tls_certificate_not_after_timestamp_seconds",
}
"""Families whose feature does not exist yet: an export that never moves would be a lie."""


def contract() -> dict[str, tuple[str, tuple[str, ...]]]:
    lines = [line.split() for line in CONTRACT.read_text().splitlines() if not line.startswith("#")]
    return {name: (type_, tuple(labels)) for name, type_, *labels in lines}


def test_names_types_and_labels_are_those_of_the_contract() -> None:
    """Dashboards and alerts of others break if one of these drifts."""
    expected = {name: kind for name, kind in contract().items() if name not in NOT_FED}
    assert {family.name: (family.type, family.labels) for family in FAMILIES} == expected
    assert contract().keys() >= NOT_FED
    assert len(contract()) == 64


def test_every_family_says_what_it_means() -> None:
    for family in FAMILIES:
        assert family.help.endswith("."), family.name
        assert bool(family.buckets) == (family.type == "histogram"), family.name
        assert list(family.buckets) == sorted(set(family.buckets)), family.name
        assert family.name.endswith("_total") == (family.type == "counter"), family.name


def test_enumerations_are_those_of_the_code() -> None:
    """A reason that admission can give has a series before it is first given."""
    assert {reason for _, reason in DECISIONS} == {reason.value for reason in Reason}
    assert {outcome for outcome, _ in DECISIONS} == set(OUTCOMES)
    assert tuple(priority.name.lower() for priority in Priority) == PRIORITIES
