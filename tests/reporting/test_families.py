"""The exported families are those of the contract, name by name."""

from pathlib import Path

from gateway.domain import Priority, Reason
from gateway.reporting.families import (
    DECISIONS,
    EXT_PROC,
    FAMILIES,
    FLAGS,
    GPU,
    LEDGER,
    OUTCOMES,
    PREFIX,
    PRIORITIES,
    UNITS,
)
from gateway.reporting.metrics import Metrics
from tests.reporting.page import Page
from tests.reporting.samples import metrics_of_both

CONTRACT = Path(__file__).with_name("contract_metrics.txt")


def contract() -> dict[str, tuple[str, tuple[str, ...]]]:
    lines = [line.split() for line in CONTRACT.read_text().splitlines() if not line.startswith("#")]
    return {name: (type_, tuple(labels)) for name, type_, *labels in lines}


def test_names_types_and_labels_are_those_of_the_contract() -> None:
    """Dashboards and alerts of others break if one of these drifts."""
    assert {family.name: (family.type, family.labels) for family in FAMILIES} == contract()
    assert len(FAMILIES) == len(contract()) == 65


def test_every_family_says_what_it_means() -> None:
    for family in FAMILIES:
        assert family.help.endswith("."), family.name
        assert "|" not in family.help, family.name
        assert bool(family.buckets) == (family.type == "histogram"), family.name
        assert list(family.buckets) == sorted(set(family.buckets)), family.name
        assert family.name.endswith("_total") == (family.type == "counter"), family.name


def test_every_family_has_a_unit() -> None:
    """In its name, as is usual; flags and the always-1 `_info` have none."""
    for family in FAMILIES:
        is_flag = family.name in FLAGS or family.name.endswith("_info")
        assert bool(family.unit) != is_flag, family.name
    assert UNITS.keys() <= {family.name for family in FAMILIES}
    assert {unit_of("backend_kv_token_seconds_total"), unit_of("requests_total")} == {"token-seconds", "requests"}
    assert unit_of("config_last_reload_success_timestamp_seconds") == "unix seconds"


def unit_of(name: str) -> str:
    return next(family.unit for family in FAMILIES if family.name == name)


def test_everything_that_a_gateway_exports_is_fed() -> None:
    """An export that never gets a value would be a lie; ledger and endpoint picker export once they are there."""
    metrics = metrics_of_both("acme")
    assert unfed(metrics) == {family.name for family in (*LEDGER, *EXT_PROC)} | LATER
    metrics.on_gpu("b", 0, used_bytes=7, total_bytes=9, utilization_ratio=0.5)
    metrics.on_certificate("api", 2e9)
    assert unfed(metrics) == {family.name for family in (*LEDGER, *EXT_PROC)}
    metrics.ledger("shared").on_expired("b")
    metrics.ext_proc()
    assert unfed(metrics) == set()


LATER = {family.name for family in GPU} | {"tls_certificate_not_after_timestamp_seconds"}
"""Come with a GPU, or with a certificate."""


def unfed(metrics: Metrics) -> set[str]:
    names = {name for name, _ in Page(metrics).samples}
    return {
        family.name
        for family in FAMILIES
        if f"{PREFIX}{family.name}{'_count' if family.type == 'histogram' else ''}" not in names
    }


def test_enumerations_are_those_of_the_code() -> None:
    """A reason that admission can give has a series before it is first given."""
    assert {reason for _, reason in DECISIONS} == {reason.value for reason in Reason}
    assert {outcome for outcome, _ in DECISIONS} == set(OUTCOMES)
    assert tuple(priority.name.lower() for priority in Priority) == PRIORITIES
