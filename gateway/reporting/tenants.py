"""What is told of tenants, where the configuration asks for it: decisions, and what their use of memory adds up to."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gateway.admission.snapshot import TenantSnapshot
from gateway.reporting.families import OTHER, OUTCOMES
from gateway.reporting.registry import Families, Total
from gateway.reporting.tally import Counter

TENANTS_MAX = 100
"""Tenants with series of their own; those configured after them are counted together as `other`."""


class TenantMetrics:
    """Series by tenant; none without names."""

    def __init__(self, families: Families, names: Collection[str]) -> None:
        known = tuple(names)[:TENANTS_MAX]
        self._overflow = families.counter("label_overflow_total", "tenant") if names else None
        self._decisions: dict[tuple[str, str], Counter] = {}
        self._token_seconds: dict[str, Counter] = {}
        self._totals: dict[str, Total] = {}
        for name in (*known, OTHER) if names else ():
            self._token_seconds[name] = families.counter("tenant_kv_token_seconds_total", name)
            for outcome in OUTCOMES:
                self._decisions[name, outcome] = families.counter("tenant_admission_decisions_total", name, outcome)

    def decide(self, tenant: str, outcome: str) -> None:
        """Count one decision."""
        if self._overflow is None:
            return
        if tenant not in self._token_seconds:
            self._overflow.inc()
            tenant = OTHER
        self._decisions[tenant, outcome].inc()

    def refresh(self, tenants: Iterable[TenantSnapshot]) -> None:
        """Bring the integrals up to what admission has added up."""
        if self._overflow is None:
            return
        for tenant in tenants:
            series = self._token_seconds.get(tenant.name) or self._token_seconds[OTHER]
            self._totals.setdefault(tenant.name, Total(series)).reach(tenant.kv_token_seconds)
