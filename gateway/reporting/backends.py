"""What is told of each backend: its state, its failures, and the books of its KV pool."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gateway.admission.snapshot import BackendSnapshot, BackendState, Snapshot
from gateway.reporting.families import KV_KINDS, QUOTA_UNITS, STATES, UPSTREAM_REASONS
from gateway.reporting.record import UpstreamAttempt
from gateway.reporting.registry import Families, Total

WORDS = {
    BackendState.COLD: "cold",
    BackendState.READY: "ready",
    BackendState.BUSY: "ejected",
    BackendState.EJECTED: "ejected",
    BackendState.DRAINING: "draining",
    BackendState.DOWN: "ejected",
}
"""Admission's states in the words of `families.STATES`."""
ALIVE = (BackendState.READY, BackendState.BUSY, BackendState.EJECTED, BackendState.DRAINING)
"""It answers, whether or not it is sent anything."""


class BackendMetrics:
    """All backends, once a snapshot has shown them."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._backends: dict[str, BackendSeries] = {}
        self._infos: set[tuple[str, str, str, str]] = set()
        self._formula_ratios: dict[str, float | None] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._backends

    @property
    def names(self) -> frozenset[str]:
        """Those there are series of."""
        return frozenset(self._backends)

    def forget(self, name: str) -> None:
        """It was taken out of the configuration."""
        del self._backends[name]
        self._formula_ratios.pop(name, None)

    def refresh(self, backend: BackendSnapshot) -> None:
        """Set a backend's gauges, and count on what it counts."""
        series = self._backends.get(backend.name)
        if series is None:
            series = self._backends[backend.name] = BackendSeries(self._families, backend.name)
        series.refresh(backend, self._formula_ratios.get(backend.name))

    def refresh_infos(self, snapshot: Snapshot, kinds: Mapping[str, str], names: frozenset[str]) -> None:
        """Say which backend serves which of these models, in one series each."""
        infos = {
            (backend.name, model, kinds.get(backend.name, "auto"), backend.engine_version)
            for backend in snapshot.backends
            for model in backend.models
            if model in names
        }
        for info in infos - self._infos:
            self._families.gauge("backend_info", *info).set(1)
        for info in self._infos - infos:
            self._families.remove_gauge("backend_info", *info)
        self._infos = infos

    def refresh_ages(self, oldest_s: Mapping[str, float]) -> None:
        """Say how old the oldest request of each is; 0 where there is none."""
        for name, series in self._backends.items():
            series.oldest_age_s.set(oldest_s.get(name, 0))

    def on_kv_formula(self, backend: str, ratio: float | None) -> None:
        """How many KV tokens an engine states, as a multiple of the formula's."""
        self._formula_ratios[backend] = ratio

    def failed(self, attempt: UpstreamAttempt) -> None:
        """A backend failed a request."""
        backend = self._backends.get(attempt.backend)
        if backend is not None:
            backend.errors[attempt.reason].inc()
            if attempt.retried:
                backend.retries[attempt.reason].inc()


class BackendSeries:
    """One backend as it is; its KV series once it is known to have a pool: a hosted one has none."""

    def __init__(self, families: Families, backend: str) -> None:
        self._families, self._name = families, backend
        self.up = families.gauge("backend_up", backend)
        self.state = {state: families.gauge("backend_state", backend, state) for state in STATES}
        self.oldest_age_s = families.gauge("oldest_in_flight_age_seconds", backend)
        self.errors = {r: families.counter("upstream_errors_total", backend, r) for r in UPSTREAM_REASONS}
        self.retries = {r: families.counter("upstream_retries_total", backend, r) for r in UPSTREAM_REASONS}
        self.kv: KvSeries | None = None

    def refresh(self, backend: BackendSnapshot, formula_ratio: float | None) -> None:
        """Set the gauges."""
        if self.kv is None and not backend.hosted and backend.capacity_tokens:
            self.kv = KvSeries(self._families, backend.name)
        self.up.set(backend.state in ALIVE)
        for state, gauge in self.state.items():
            gauge.set(state == WORDS[backend.state])
        for unit, share in zip(QUOTA_UNITS, (backend.requests_left_share, backend.tokens_left_share), strict=True):
            if share is not None:
                self._families.gauge("backend_rate_limit_remaining_ratio", self._name, unit).set(share)
        if self.kv is not None:
            self.kv.refresh(backend, formula_ratio)


class KvSeries:
    """The KV pool of one backend."""

    def __init__(self, families: Families, backend: str) -> None:
        self.capacity = families.gauge("backend_kv_capacity_tokens", backend)
        self.reserved = {kind: families.gauge("backend_kv_reserved_tokens", backend, kind) for kind in KV_KINDS}
        self.observed = families.gauge("backend_kv_observed_tokens", backend)
        self.external = families.gauge("backend_kv_external_tokens", backend)
        self.headroom = families.gauge("backend_kv_headroom_tokens", backend)
        self.peak_30s = families.gauge("backend_kv_peak_forecast_tokens", backend, "30s")
        self.peak_300s = families.gauge("backend_kv_peak_forecast_tokens", backend, "300s")
        self.exhaustion_s = families.gauge("backend_kv_time_to_exhaustion_seconds", backend)
        self.formula_ratio = families.gauge("backend_kv_formula_ratio", backend)
        self.margin = families.gauge("backend_safety_margin_ratio", backend)
        self.running = families.gauge("backend_running_requests", backend)
        self.waiting = families.gauge("backend_waiting_requests", backend)
        self._token_seconds = Total(families.counter("backend_kv_token_seconds_total", backend))
        self._preemptions = Total(families.counter("backend_preemptions_total", backend))

    def refresh(self, backend: BackendSnapshot, formula_ratio: float | None) -> None:
        """Set the gauges, and count on."""
        # What drains is in the engine until it shows otherwise: counted as resident, so that headroom, margin,
        # external and reserved add up to the capacity.
        resident = backend.resident_tokens + backend.draining_tokens
        reserved = backend.reserved_tokens + backend.draining_tokens
        held_back = backend.held_back_tokens / backend.capacity_tokens if backend.capacity_tokens else 0.0
        self.capacity.set(backend.capacity_tokens)
        self.reserved["resident"].set(resident)
        self.reserved["predicted"].set(reserved - resident)
        self.observed.set(_or_nan(backend.observed_tokens))
        self.external.set(backend.foreign_tokens)
        self.headroom.set(backend.headroom_tokens)
        self.peak_30s.set(backend.peak_forecast_30s_tokens)
        self.peak_300s.set(backend.peak_forecast_300s_tokens)
        self.exhaustion_s.set(backend.exhaustion_s)
        self.formula_ratio.set(_or_nan(formula_ratio))
        self.margin.set(max(backend.margin_share, held_back))
        self.running.set(_or_nan(backend.running))
        self.waiting.set(_or_nan(backend.waiting))
        self._token_seconds.reach(backend.kv_token_seconds)
        self._preemptions.reach(backend.preemptions)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
