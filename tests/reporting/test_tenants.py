"""Tenants are told apart where that was asked for, and only as many as were named."""

from gateway.admission.commands import Admit, Refuse
from gateway.admission.events import Arrived
from gateway.admission.snapshot import TenantSnapshot
from gateway.domain import Reason, Refusal
from gateway.reporting.tenants import TENANTS_MAX
from tests.reporting.page import Page
from tests.reporting.samples import OURS, metrics_of_both, snapshot, ticket


def test_nothing_is_told_of_tenants_unless_asked() -> None:
    metrics = metrics_of_both()
    metrics.on_admission(0.0, Arrived(ticket(1, tenant="acme")), [Admit(1, "b", Reason.OK, kv_tokens=1)])
    metrics.refresh(snapshot(1.0, OURS, tenants=(TenantSnapshot("acme", 5.0, 1),)), {})
    page = Page(metrics)
    assert page.labels_of("tenant_admission_decisions_total") == []
    assert page.labels_of("tenant_kv_token_seconds_total") == []
    assert page.get("label_overflow_total", label="tenant") is None


def test_decisions_and_memory_are_counted_by_tenant() -> None:
    metrics = metrics_of_both("acme", "bolt")
    metrics.on_admission(0.0, Arrived(ticket(1, tenant="acme")), [Admit(1, "b", Reason.OK, kv_tokens=1)])
    refusal = Refuse(2, Refusal(Reason.TENANT_LIMIT))
    metrics.on_admission(0.0, Arrived(ticket(2, tenant="acme")), [refusal])
    for total in (5.0, 12.0):
        metrics.refresh(snapshot(1.0, OURS, tenants=(TenantSnapshot("acme", total, 1),)), {})
    page = Page(metrics)
    assert page.get("tenant_admission_decisions_total", tenant="acme", outcome="admitted") == 1
    assert page.get("tenant_admission_decisions_total", tenant="acme", outcome="rejected") == 1
    assert page.get("tenant_admission_decisions_total", tenant="bolt", outcome="admitted") == 0
    assert page.get("tenant_kv_token_seconds_total", tenant="acme") == 12
    assert page.get("tenant_kv_token_seconds_total", tenant="bolt") == 0


def test_who_comes_after_the_hundredth_is_one_of_the_others() -> None:
    """Their series add up to what all of them used."""
    names = [f"t{number}" for number in range(TENANTS_MAX + 2)]
    metrics = metrics_of_both(*names)
    metrics.on_admission(0.0, Arrived(ticket(1, tenant=names[-1])), [Admit(1, "b", Reason.OK, kv_tokens=1)])
    both = tuple(TenantSnapshot(name, 7.0, 0) for name in names[-2:])
    metrics.refresh(snapshot(1.0, OURS, tenants=both), {})
    metrics.refresh(snapshot(2.0, OURS, tenants=both), {})
    page = Page(metrics)
    assert page.get("tenant_admission_decisions_total", tenant="other", outcome="admitted") == 1
    assert page.get("tenant_kv_token_seconds_total", tenant="other") == 14
    assert page.get("label_overflow_total", label="tenant") == 1
    assert len(page.labels_of("tenant_kv_token_seconds_total")) == TENANTS_MAX + 1
