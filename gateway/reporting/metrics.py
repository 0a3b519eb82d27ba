"""What Prometheus is told: derived from admission's events and commands, from request records and from snapshots.

`on_*` methods and `refresh` run on the event loop and cost microseconds; `render` belongs in a thread.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.events import Arrived, Event, Left
from gateway.admission.snapshot import BackendSnapshot, BackendState, Snapshot
from gateway.domain import Priority, Ticket
from gateway.errors import RETRY_AFTER_MAX_S
from gateway.reporting.families import NO_BACKEND, OTHER, TELEMETRY_REASONS
from gateway.reporting.record import RequestRecord
from gateway.reporting.series import AskedSeries, BackendSeries, Families, KvSeries, ModelSeries, ServedSeries

MODELS_MAX = 200
"""Models that may have series of their own; a provider that lists more has the rest counted as `other`."""
ENDPOINTS_MAX = 16
STATES = {
    BackendState.COLD: "cold",
    BackendState.READY: "ready",
    BackendState.BUSY: "ejected",
    BackendState.DOWN: "ejected",
}


class Metrics:
    """All series of one gateway.

    Args:
        models: public names from the configuration; those that backends list are learnt from snapshots.
        config_sha256: `Config.fingerprint()`.
        exceed_ratio_target: share of requests that may outgrow what is reserved for them.
        revision: commit that this build was made from, if known.
    """

    def __init__(
        self, models: Iterable[str], *, version: str, config_sha256: str, exceed_ratio_target: float, revision: str = ""
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._families = Families()
        self._exceed_ratio_target = exceed_ratio_target
        self._names = {OTHER, *models}
        self._models: dict[str, ModelSeries] = {}
        self._served: dict[tuple[str, str], ServedSeries] = {}
        self._backends: dict[str, BackendSeries] = {}
        self._infos: set[tuple[str, str, str, str]] = set()
        self._pending: dict[int, tuple[Ticket, float]] = {}
        self._running: dict[int, tuple[Gauge, str, float]] = {}
        self._reserved: dict[str, tuple[float, int]] = {}
        self._preemptions: dict[str, int] = {}
        self._formula_ratios: dict[str, float | None] = {}
        self._endpoints: set[str] = set()
        self._reads: dict[str, Histogram] = {}
        self._read_times: dict[tuple[str, str], Gauge] = {}
        self._read_errors: dict[tuple[str, str, str], Counter] = {}
        self._decision_s = self._families.histogram("admission_decision_duration_seconds")
        self._loop_lag_s = self._families.histogram("event_loop_lag_seconds")
        self._overflow = self._families.counter("label_overflow_total", "model_name")
        self._families.gauge("build_info", version, revision, platform.python_version()).set(1)
        self._families.gauge("config_info", config_sha256).set(1)
        for name in sorted(self._names):
            self._model(name)

    def on_admission(self, now: float, event: Event | None, commands: Sequence[Command]) -> None:
        """One step of admission. `event` is None where a timer made the step."""
        arrived: int | None = None
        if isinstance(event, Arrived):
            arrived = event.ticket.id
            self._pending[arrived] = (event.ticket, now)
        elif isinstance(event, Left):
            self._left(event.ticket_id, now)
        for command in commands:
            pending = self._pending.pop(command.ticket_id, None)
            if pending is None:
                continue
            ticket, since = pending
            if isinstance(command, Admit):
                self._admitted(ticket, command, now)
            else:
                self._refused(ticket, command, now - since, queued=command.ticket_id != arrived)

    def on_decision(self, duration_s: float) -> None:
        """How long one call of admission took."""
        self._decision_s.observe(duration_s)

    def on_loop_lag(self, lag_s: float) -> None:
        """How late the event loop ran a timer."""
        self._loop_lag_s.observe(lag_s)

    def on_request(self, record: RequestRecord) -> None:
        """The end of one request."""
        name = record.model
        if name not in self._names:
            self._overflow.inc()
            name = OTHER
        model = self._model(name)
        served = self._served_by(name, record.backend or NO_BACKEND)
        served.end(self._endpoint(record.endpoint), record.code, record.duration_s)
        if record.disconnect is not None:
            model.disconnects[record.disconnect].inc()
        for attempt in record.attempts:
            backend = self._backends.get(attempt.backend)
            if backend is not None:
                backend.errors[attempt.reason].inc()
                if attempt.retried:
                    backend.retries[attempt.reason].inc()
        if record.backend in self._backends:
            served.count_tokens(record)
        if record.finished:
            model.compare(record)

    def on_read(self, backend: str, source: str, duration_s: float) -> None:
        """A look at a backend (`source` metrics) or its GPUs (nvml) succeeded."""
        self._watch(backend, source)
        self._reads[source].observe(duration_s)
        self._read_times[backend, source].set_to_current_time()

    def on_kv_formula(self, backend: str, ratio: float | None) -> None:
        """How many KV tokens an engine states, as a multiple of the formula's."""
        self._formula_ratios[backend] = ratio

    def on_read_failed(self, backend: str, source: str, reason: str) -> None:
        """A look brought nothing usable; `reason` is one of `families.TELEMETRY_REASONS`."""
        self._watch(backend, source)
        self._read_errors[backend, source, reason].inc()

    def on_gpu(
        self, backend: str, gpu: int, *, used_bytes: int, total_bytes: int, utilization_ratio: float | None
    ) -> None:
        """What NVML says of one GPU that a backend runs on."""
        self._families.gauge("gpu_memory_used_bytes", str(gpu), backend).set(used_bytes)
        self._families.gauge("gpu_memory_total_bytes", str(gpu), backend).set(total_bytes)
        if utilization_ratio is not None:
            self._families.gauge("gpu_utilization_ratio", str(gpu), backend).set(utilization_ratio)

    def refresh(self, snapshot: Snapshot, kinds: Mapping[str, str]) -> None:
        """Set the gauges and integrate what is held: about once a second, and once before the first request.

        Args:
            snapshot: of admission.
            kinds: the kind of each backend, as far as it is known.
        """
        infos: set[tuple[str, str, str, str]] = set()
        for backend in snapshot.backends:
            self._refresh_backend(snapshot.now, backend)
            for name in backend.models:
                if name not in self._names and len(self._names) >= MODELS_MAX:
                    continue
                self._names.add(name)
                infos.add((backend.name, name, kinds.get(backend.name, "auto"), backend.engine_version))
                if not backend.hosted:  # a provider lists hundreds: theirs come with their first request
                    self._model(name)
                    self._served_by(name, backend.name)
        for info in infos - self._infos:
            self._families.gauge("backend_info", *info).set(1)
        for info in self._infos - infos:
            self._families.remove_gauge("backend_info", *info)
        self._infos = infos
        self._refresh_queues(snapshot)
        self._refresh_ages(snapshot.now)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type, in the format that an Accept header asks for. Takes milliseconds."""
        encode, content_type = choose_encoder(accept)
        return encode(self._families.registry), content_type

    def _name(self, model: str) -> str:
        return model if model in self._names else OTHER

    def _model(self, name: str) -> ModelSeries:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = ModelSeries(self._families, name)
            model.exceed_target.set(self._exceed_ratio_target)
            self._served_by(name, NO_BACKEND)
        return model

    def _endpoint(self, endpoint: str) -> str:
        if endpoint not in self._endpoints:
            if len(self._endpoints) >= ENDPOINTS_MAX:
                return OTHER
            self._endpoints.add(endpoint)
        return endpoint

    def _served_by(self, model: str, backend: str) -> ServedSeries:
        served = self._served.get((model, backend))
        if served is None:
            if backend != NO_BACKEND and backend not in self._backends:
                return self._served_by(model, NO_BACKEND)
            served = self._served[model, backend] = ServedSeries(self._families, model, backend)
        return served

    def _asked(self, ticket: Ticket) -> AskedSeries:
        return self._model(self._name(ticket.model)).asked[ticket.priority]

    def _admitted(self, ticket: Ticket, command: Admit, now: float) -> None:
        if not ticket.excluded:  # a second try after a backend failed: this request was counted before
            tokens = command.kv_tokens or _expected_tokens(ticket)
            self._asked(ticket).decide("admitted", command.reason.value, tokens, command.waited_s)
        if command.backend in self._backends:
            in_flight = self._served_by(self._name(ticket.model), command.backend).in_flight[ticket.priority]
            in_flight.inc()
            self._running[ticket.id] = (in_flight, command.backend, now)

    def _refused(self, ticket: Ticket, command: Refuse, waited_s: float, *, queued: bool) -> None:
        refusal = command.refusal
        if not ticket.excluded:
            outcome = "evicted" if queued else "rejected"
            tokens = refusal.need_tokens or _expected_tokens(ticket)
            self._asked(ticket).decide(outcome, refusal.reason.value, tokens, waited_s)
        if refusal.retry_after_s is not None:
            self._model(self._name(ticket.model)).retry_after_s.observe(min(refusal.retry_after_s, RETRY_AFTER_MAX_S))

    def _left(self, ticket_id: int, now: float) -> None:
        running = self._running.pop(ticket_id, None)
        if running is not None:
            running[0].dec()
        pending = self._pending.pop(ticket_id, None)
        if pending is not None:
            ticket, since = pending
            if not ticket.excluded:
                self._asked(ticket).decide("evicted", "client_gone", _expected_tokens(ticket), now - since)

    def _watch(self, backend: str, source: str) -> None:
        if (backend, source) in self._read_times:
            return
        self._reads.setdefault(source, self._families.histogram("telemetry_scrape_duration_seconds", source))
        self._read_times[backend, source] = self._families.gauge(
            "telemetry_last_success_timestamp_seconds", backend, source
        )
        for reason in TELEMETRY_REASONS:
            self._read_errors[backend, source, reason] = self._families.counter(
                "telemetry_errors_total", backend, source, reason
            )

    def _refresh_backend(self, now: float, backend: BackendSnapshot) -> None:
        series = self._backends.get(backend.name)
        if series is None:
            series = self._backends[backend.name] = BackendSeries(self._families, backend.name)
            self._watch(backend.name, "metrics")
        if series.kv is None and not backend.hosted and backend.capacity_tokens:
            series.kv = KvSeries(self._families, backend.name)
        series.up.set(backend.state in (BackendState.READY, BackendState.BUSY))
        for state, gauge in series.state.items():
            gauge.set(state == STATES[backend.state])
        if series.kv is not None:
            self._refresh_kv(now, backend, series.kv)

    def _refresh_kv(self, now: float, backend: BackendSnapshot, kv: KvSeries) -> None:
        # What drains is in the engine until it shows otherwise: counted as resident, so that headroom, margin,
        # external and reserved add up to the capacity.
        resident = backend.resident_tokens + backend.draining_tokens
        reserved = backend.reserved_tokens + backend.draining_tokens
        kv.capacity.set(backend.capacity_tokens)
        kv.reserved["resident"].set(resident)
        kv.reserved["predicted"].set(reserved - resident)
        kv.observed.set(_or_nan(backend.observed_tokens))
        kv.external.set(backend.foreign_tokens)
        kv.headroom.set(backend.headroom_tokens)
        kv.formula_ratio.set(_or_nan(self._formula_ratios.get(backend.name)))
        kv.margin.set(backend.held_back_tokens / backend.capacity_tokens if backend.capacity_tokens else 0)
        kv.running.set(_or_nan(backend.running))
        kv.waiting.set(_or_nan(backend.waiting))
        kv.preemptions.inc(max(0, backend.preemptions - self._preemptions.get(backend.name, 0)))
        self._preemptions[backend.name] = backend.preemptions
        since, before = self._reserved.get(backend.name, (now, reserved))
        kv.token_seconds.inc((before + reserved) / 2 * max(0.0, now - since))
        self._reserved[backend.name] = (now, reserved)

    def _refresh_queues(self, snapshot: Snapshot) -> None:
        waiting = {(queue.model, queue.priority): queue for queue in snapshot.queues}
        for name, model in self._models.items():
            model.queue_limit.set(snapshot.queue_requests_max)
            for priority, asked in model.asked.items():
                queue = waiting.get((name, Priority(priority)))
                asked.queue_depth.set(queue.depth if queue else 0)
                asked.queue_tokens.set(queue.tokens if queue else 0)
                asked.oldest_wait_s.set(queue.oldest_wait_s if queue else 0)

    def _refresh_ages(self, now: float) -> None:
        oldest: dict[str, float] = {}
        for _, backend, since in self._running.values():  # in the order of admission: the first is the oldest
            oldest.setdefault(backend, since)
        for name, series in self._backends.items():
            series.oldest_age_s.set(now - oldest[name] if name in oldest else 0)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _expected_tokens(ticket: Ticket) -> int:
    """Where admission names no number: the prompt and the middle of what its output may be."""
    demand = ticket.demand
    return demand.prompt_tokens + demand.sequences * demand.output_bound(0.5)
