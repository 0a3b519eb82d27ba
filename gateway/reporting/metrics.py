"""What Prometheus is told: derived from admission's events and commands, from request records and from snapshots.

`on_*` methods and `refresh` run on the event loop and cost microseconds; `render` belongs in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from prometheus_client.exposition import choose_encoder

from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.events import Arrived, Event, Left
from gateway.admission.snapshot import Snapshot
from gateway.domain import Priority, Reason, Ticket
from gateway.errors import RETRY_AFTER_MAX_S
from gateway.reporting.backends import BackendMetrics
from gateway.reporting.ext_proc import ExtProcMetrics
from gateway.reporting.families import NO_BACKEND, OTHER, PRIORITIES
from gateway.reporting.gpus import GpuMetrics
from gateway.reporting.ledger import LedgerMetrics, Mode
from gateway.reporting.looks import LookMetrics
from gateway.reporting.process import ProcessMetrics
from gateway.reporting.record import RequestRecord
from gateway.reporting.registry import Families
from gateway.reporting.series import ModelSeries, ServedSeries
from gateway.reporting.tally import Gauge
from gateway.reporting.tenants import TenantMetrics

MODELS_MAX = 200
"""Models that may have series of their own; a provider that lists more has the rest counted as `other`."""
ENDPOINTS_MAX = 16


class Metrics:
    """All series of one gateway.

    Args:
        models: public names from the configuration; those that backends list are learnt from snapshots.
        config_sha256: `Config.fingerprint()`.
        exceed_ratio_target: share of requests that may outgrow what is reserved for them.
        revision: commit that this build was made from, if known.
        tenants: names to tell apart; none: nothing is told of tenants.
    """

    def __init__(
        self,
        models: Iterable[str],
        *,
        version: str,
        config_sha256: str,
        exceed_ratio_target: float,
        revision: str = "",
        tenants: Collection[str] = (),
    ) -> None:
        self._families = families = Families()
        self._exceed_ratio_target = exceed_ratio_target
        self._names = {OTHER, *models}
        self._models: dict[str, ModelSeries] = {}
        self._pending: dict[int, tuple[Ticket, float]] = {}
        self._running: dict[int, tuple[Gauge, str, float]] = {}
        self._endpoints: set[str] = set()
        self._backends = BackendMetrics(families)
        self._looks = LookMetrics(families)
        self._gpus = GpuMetrics(families)
        self._tenants = TenantMetrics(families, tenants)
        self._tells_tenants = bool(tenants)
        self._process = ProcessMetrics(families, version=version, revision=revision, config_sha256=config_sha256)
        self.on_decision: Callable[[float], None] = families.histogram("admission_decision_duration_seconds").observe
        """Takes how long one call of admission took, seconds."""
        self.catch_up: Callable[[], None] = lambda: None
        """Called before anything is shown: whoever holds back what it has to tell tells it."""
        self._overflow = families.counter("label_overflow_total", "model_name")
        for name in sorted(self._names):
            self._model(name)

    def on_admission(self, now: float, event: Event | None, commands: Sequence[Command]) -> None:
        """One step of admission. `event` is None where a timer made the step."""
        arrived: int | None = None
        if isinstance(event, Arrived):
            arrived = event.ticket.id
            if len(commands) == 1 and isinstance(admit := commands[0], Admit) and admit.ticket_id == arrived:
                self._admitted(event.ticket, admit, now)  # The common case: nobody waits, and it may go at once.
                return
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

    def on_loop_lag(self, lag_s: float) -> None:
        """How late the event loop ran a timer."""
        self._process.loop_lag(lag_s)

    def on_request(self, record: RequestRecord) -> None:
        """The end of one request."""
        name = record.model
        if name not in self._names:
            self._overflow.inc()
            name = OTHER
        model = self._models.get(name) or self._model(name)
        backend = record.backend or NO_BACKEND
        served = model.served.get(backend) or self._served_by(model, backend)
        endpoint = record.endpoint if record.endpoint in self._endpoints else self._endpoint(record.endpoint)
        served.end(endpoint, record)
        if record.disconnect is not None:
            model.disconnects[record.disconnect].inc()
        for attempt in record.attempts:
            self._backends.failed(attempt)
        if served.is_served:
            served.count_tokens(record)
        if record.finished:
            model.compare(record)

    def on_read(self, backend: str, source: str, duration_s: float) -> None:
        """A look at a backend succeeded; `source` is one of `families.SOURCES`."""
        self._looks.succeeded(backend, source, duration_s)

    def on_read_failed(self, backend: str, source: str, reason: str) -> None:
        """A look brought nothing usable; `reason` is one of `families.TELEMETRY_REASONS`."""
        self._looks.failed(backend, source, reason)

    def on_kv_formula(self, backend: str, ratio: float | None) -> None:
        """How many KV tokens an engine states, as a multiple of the formula's."""
        self._backends.on_kv_formula(backend, ratio)

    def on_gpu(
        self, backend: str, gpu: int, *, used_bytes: int, total_bytes: int, utilization_ratio: float | None
    ) -> None:
        """What NVML says of one GPU that a backend runs on."""
        self._looks.succeeded(backend, "nvml", None)
        self._gpus.read(
            backend, gpu, used_bytes=used_bytes, total_bytes=total_bytes, utilization_ratio=utilization_ratio
        )

    def on_prediction(self, model: str, coverage: Mapping[float, float | None], fitted_unix_s: float | None) -> None:
        """How a model's forecast of output lengths does.

        Args:
            model: public name.
            coverage: by level of `families.LEVELS`: share of answers that were no longer than the forecast's quantile;
                None where too little is known.
            fitted_unix_s: when the forecast was made; None: not yet.
        """
        if model in self._names:
            self._model(model).predict(coverage, fitted_unix_s)

    def on_reload(self, config_sha256: str | None) -> None:
        """The configuration was read again: the fingerprint of the new one, or None where it was of no use."""
        if config_sha256 is None:
            self._process.not_loaded()
        else:
            self._process.loaded(config_sha256)

    def on_risk(self, exceed_ratio_target: float) -> None:
        """Another share of requests may outgrow what is reserved for them from now on."""
        self._exceed_ratio_target = exceed_ratio_target
        for model in self._models.values():
            model.exceed_target.set(exceed_ratio_target)

    def on_certificate(self, name: str, not_after_unix_s: float) -> None:
        """A certificate is in use that ends then; `name` is of our choosing, never from the certificate."""
        self._process.certificate(name, not_after_unix_s)

    def ledger(self, mode: Mode) -> LedgerMetrics:
        """Room is shared with other replicas: series for how that goes. To be called once."""
        return LedgerMetrics(self._families, mode)

    def ext_proc(self) -> ExtProcMetrics:
        """This is an endpoint picker: series for its streams. To be called once."""
        return ExtProcMetrics(self._families)

    def refresh(self, snapshot: Snapshot, kinds: Mapping[str, str]) -> None:
        """Set the gauges: about once a second, and once before the first request.

        Args:
            snapshot: of admission.
            kinds: the kind of each backend, as far as it is known.
        """
        self.catch_up()
        for name in self._backends.names - {backend.name for backend in snapshot.backends}:
            self._forget(name)
        for backend in snapshot.backends:
            self._looks.watch(backend.name, "metrics")
            self._backends.refresh(backend)
            for name in backend.models:
                if name not in self._names and len(self._names) >= MODELS_MAX:
                    continue
                self._names.add(name)
                if not backend.hosted:  # a provider lists hundreds: theirs come with their first request
                    self._served_by(self._model(name), backend.name)
        self._backends.refresh_infos(snapshot, kinds, frozenset(self._names))
        self._gpus.refresh(snapshot)
        self._tenants.refresh(snapshot.tenants)
        self._refresh_queues(snapshot)
        self._refresh_ages(snapshot.now)

    def decision_counts(self) -> list[dict[str, str | int]]:
        """How often each decision was made since the start, for the page; those never made are left out."""
        self.catch_up()
        return [
            {"model": name, "priority": priority, "outcome": outcome, "reason": reason, "count": int(made.value)}
            for name, model in self._models.items()
            for priority, asked in zip(PRIORITIES, model.asked.values(), strict=True)
            for (outcome, reason), made in asked.decisions.items()
            if made.value
        ]

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type, in the format that an Accept header asks for. Takes milliseconds."""
        encode, content_type = choose_encoder(accept)
        return encode(self._families.registry), content_type

    def _forget(self, backend: str) -> None:
        """Nothing is told of a backend that is not configured any more: its last state would stand for ever."""
        self._backends.forget(backend)
        self._looks.forget(backend)
        for model in self._models.values():
            model.served.pop(backend, None)
        self._families.remove_all(backend=backend)

    def _model_of(self, ticket: Ticket) -> ModelSeries:
        name = ticket.model
        return self._models.get(name) or self._model(name if name in self._names else OTHER)

    def _model(self, name: str) -> ModelSeries:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = ModelSeries(self._families, name)
            model.exceed_target.set(self._exceed_ratio_target)
        return model

    def _endpoint(self, endpoint: str) -> str:
        if endpoint not in self._endpoints:
            if len(self._endpoints) >= ENDPOINTS_MAX:
                return OTHER
            self._endpoints.add(endpoint)
        return endpoint

    def _served_by(self, model: ModelSeries, backend: str) -> ServedSeries:
        """Its requests on a backend; a backend of which nothing is known yet counts as none."""
        served = model.served.get(backend)
        if served is None:
            if backend not in self._backends:
                return model.served[NO_BACKEND]
            served = model.served[backend] = ServedSeries(self._families, model.name, backend)
        return served

    def _decide(
        self, model: ModelSeries, ticket: Ticket, outcome: str, reason: Reason, tokens: int, waited_s: float
    ) -> None:
        model.asked[ticket.priority].decide(outcome, reason._value_, tokens, waited_s)
        if self._tells_tenants:
            self._tenants.decide(ticket.tenant, outcome)

    def _admitted(self, ticket: Ticket, command: Admit, now: float) -> None:
        model = self._models.get(ticket.model) or self._model_of(ticket)
        if not ticket.retried:
            tokens = command.kv_tokens or _expected_tokens(ticket)
            self._decide(model, ticket, "admitted", command.reason, tokens, command.waited_s)
        served = model.served.get(command.backend) or self._served_by(model, command.backend)
        if served.is_served:
            in_flight = served.in_flight[ticket.priority]
            in_flight.inc()
            self._running[ticket.id] = (in_flight, command.backend, now)

    def _refused(self, ticket: Ticket, command: Refuse, waited_s: float, *, queued: bool) -> None:
        model, refusal = self._model_of(ticket), command.refusal
        if not ticket.retried:
            outcome = "evicted" if queued else "rejected"
            tokens = refusal.need_tokens or _expected_tokens(ticket)
            self._decide(model, ticket, outcome, refusal.reason, tokens, waited_s)
        if refusal.retry_after_s is not None:
            model.retry_after_s.observe(min(refusal.retry_after_s, RETRY_AFTER_MAX_S))

    def _left(self, ticket_id: int, now: float) -> None:
        running = self._running.pop(ticket_id, None)
        if running is not None:
            running[0].dec()
            return
        pending = self._pending.pop(ticket_id, None)
        if pending is not None:
            ticket, since = pending
            if not ticket.retried:
                model = self._model_of(ticket)
                self._decide(model, ticket, "evicted", Reason.CLIENT_GONE, _expected_tokens(ticket), now - since)

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
        oldest_s: dict[str, float] = {}
        for _, backend, since in self._running.values():  # in the order of admission: the first is the oldest
            oldest_s.setdefault(backend, now - since)
        self._backends.refresh_ages(oldest_s)


def _expected_tokens(ticket: Ticket) -> int:
    """Where admission names no number: the prompt and the middle of what its output may be."""
    demand = ticket.demand
    return demand.prompt_tokens + demand.sequences * demand.output_bound(0.5)
