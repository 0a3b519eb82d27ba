"""What is told of the ledger that replicas share: its mode, its store, the leases that ran out."""

from __future__ import annotations

from typing import Literal

from gateway.reporting.families import LEDGER, LEDGER_MODES, LEDGER_OPS
from gateway.reporting.registry import Families

Mode = Literal["local", "shared", "degraded"]
Op = Literal["acquire", "release", "renew", "usage"]


class LedgerMetrics:
    """Exported once it is made: a gateway that shares nothing has no such series."""

    def __init__(self, families: Families, mode: Mode) -> None:
        families.add(LEDGER)
        self._families = families
        self._modes = {each: families.gauge("ledger_mode", each) for each in LEDGER_MODES}
        self._store_up = families.gauge("ledger_store_up")
        self._durations = {op: families.histogram("ledger_store_duration_seconds", op) for op in LEDGER_OPS}
        self.on_mode(mode)

    def on_mode(self, mode: Mode) -> None:
        """How room is shared from now on."""
        for each, gauge in self._modes.items():
            gauge.set(each == mode)

    def on_call(self, op: Op, duration_s: float, *, answered: bool) -> None:
        """One call of the store ended."""
        self._durations[op].observe(duration_s)
        self._store_up.set(answered)

    def on_expired(self, backend: str, leases: int = 0) -> None:
        """Leases on a backend ran out; with 0, once per backend at the start, its series exists before any does."""
        self._families.counter("ledger_leases_expired_total", backend).inc(leases)
