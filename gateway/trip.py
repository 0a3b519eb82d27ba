"""The log of one request's way, kept while it goes: turned into its record at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.demand import Demand
from gateway.admission.commands import Admit
from gateway.domain import Reason, Refusal, Usage
from gateway.errors import INTERNAL_ERROR, ApiError
from gateway.reporting.record import Phase, RequestRecord, UpstreamAttempt
from gateway.reporting.tracing import Trace
from gateway.request import InferenceRequest, TraceContext
from gateway.routing.quarantine import fingerprint

CLIENT_CLOSED = 499
INTERNAL = 500
OK = 200


@dataclass(slots=True)
class Trip:
    """What is known so far."""

    request: InferenceRequest
    arrived_at: float
    demand: Demand | None = None
    admit: Admit | None = None
    refusal: Refusal | None = None
    waited_s: float = 0.0
    outcome: str = ""
    reason: str = ""
    code: int = INTERNAL
    error: str = INTERNAL_ERROR
    """Until it is known how the request ends: then only a bug can have ended it."""
    first_token_at: float | None = None
    usage: Usage | None = None
    finished: bool = False
    disconnect: Phase | None = None
    attempts: list[UpstreamAttempt] = field(default_factory=list)
    hit_length: bool = False
    trace: Trace | None = None
    """Told of each step, where requests are traced."""
    _name: bytes = b""

    @property
    def backend(self) -> str:
        """Where it went last; empty if nowhere."""
        return "" if self.admit is None else self.admit.backend

    @property
    def name(self) -> bytes:
        """What names the request, the same whenever it is tried again. Hashes the whole body, once."""
        if not self._name:
            self._name = fingerprint(self.request.endpoint, self.request.body)
        return self._name

    @property
    def decision(self) -> str:
        """Admission's decision in the words of `x-kvgate-decision`."""
        if self.admit is None or self.refusal is not None:
            return "refused" if self.disconnect is None else "left"
        if self.admit.spilled:
            return "spilled"
        return "admitted_after_wait" if self.admit.reason is Reason.OK_AFTER_WAIT else "admitted"

    def entered(self, admit: Admit) -> None:
        """It got a place."""
        self.admit = admit
        self.waited_s += admit.waited_s
        self.outcome, self.reason = "admitted", admit.reason._value_
        if self.trace is not None:
            self.trace.admitted(self.decision, admit)

    def forwarded(self, kind: str, url: str) -> TraceContext:
        """It is about to be sent to a backend of this kind, which is to go on from here in the client's trace."""
        return self.request.trace if self.trace is None else self.trace.forwarded(self.request, kind, url)

    def refused(self, refusal: Refusal) -> None:
        """It got none."""
        self.refusal = refusal
        self.waited_s += refusal.waited_s
        self.outcome, self.reason = "evicted" if refusal.waited_s > 0 else "rejected", refusal.reason._value_

    def upstream_failed(self, backend: str, reason: str) -> None:
        """A backend failed it. The same failure may be told twice on its way up; it counts once."""
        if not self.attempts or self.attempts[-1].backend != backend:
            self.attempts.append(UpstreamAttempt(backend, reason))
            if self.trace is not None:
                self.trace.upstream_failed(reason)

    def retried(self) -> None:
        """It goes on to another backend, after one has failed it, or could not be asked for a reason of our own."""
        if not self.attempts:
            return
        last = self.attempts[-1]
        self.attempts[-1] = UpstreamAttempt(last.backend, last.reason, retried=True)

    def first_token(self, now: float) -> None:
        """The engine has begun to answer."""
        self.first_token_at = now

    def answered(self, usage: Usage | None, *, finished: bool = True, hit_length: bool = False) -> None:
        """The engine has ended its answer."""
        self.usage = usage
        self.finished = finished
        self.hit_length = hit_length
        if self.trace is not None:
            self.trace.answered()

    def delivered(self) -> None:
        """The client was given all of it."""
        self.code = OK
        self.error = ""

    def failed(self, error: ApiError) -> None:
        """The client was told of an error."""
        self.code = error.status
        self.error = error.code

    def client_left(self) -> None:
        """Its client went away, or stopped reading, before the end. Once it has all of it, it may go."""
        if self.code == OK:
            return
        if self.admit is None:
            self.disconnect = "queued"
            self.outcome, self.reason = "evicted", Reason.CLIENT_GONE.value
        else:
            self.disconnect = "prefill" if self.first_token_at is None else "decode"
        self.code = CLIENT_CLOSED
        self.error = ""

    def headers(self) -> dict[str, str]:
        """What its client is told of admission's decision; nothing where there was none."""
        if not self.outcome:
            return {}
        decision, wait_ms = self.decision, str(round(self.waited_s * 1000))
        admit = self.admit
        if admit is None:
            return {"x-kvgate-decision": decision, "x-kvgate-queue-ms": wait_ms}
        return {
            "x-kvgate-backend": admit.backend,
            "x-kvgate-decision": decision,
            "x-kvgate-queue-ms": wait_ms,
            "x-kvgate-kv-tokens": str(admit.kv_tokens),
        }

    def so_far(self, risk: float) -> RequestRecord:
        """As it stands between its admission and its end, whenever it is asked for; it has lasted to its admission."""
        return self.record(self.arrived_at + self.waited_s, risk)

    def record(self, now: float, risk: float) -> RequestRecord:
        """All of it, at the end, or as far as it has come. What is not known stays as a record has it by itself."""
        request, arrived_at = self.request, self.arrived_at
        record = RequestRecord(request.request_id, request.endpoint, request.model, self.code, now - arrived_at)
        record.arrived_at = arrived_at
        record.decision = self.decision if self.outcome else ""
        record.outcome = self.outcome
        record.reason = self.reason
        record.priority = request.priority
        record.tenant = request.tenant.name
        record.error = self.error
        record.stream = request.stream
        record.max_tokens = request.shape.max_tokens
        record.queue_wait_s = record.duration_s if self.disconnect == "queued" else self.waited_s
        record.disconnect = self.disconnect
        record.finished = self.finished
        record.hit_length = self.hit_length
        record.attempts = tuple(self.attempts)
        if self.first_token_at is not None:
            record.ttft_s = self.first_token_at - arrived_at
        trace = request.trace if self.trace is None else self.trace.context
        if trace.parent:
            record.trace_id, record.is_sampled = trace.trace_id, trace.is_sampled
        self._add_tokens(record, risk)
        return record

    def _add_tokens(self, record: RequestRecord, risk: float) -> None:
        """What was predicted of it, what was reserved or missing, and what came of it."""
        if (demand := self.demand) is not None:
            record.sequences = demand.sequences
            record.predicted_prompt_tokens = demand.prompt_tokens
            record.predicted_prompt_bound = sum(demand.prompts)
            bounds = demand.output_bounds(0.5, 0.1, risk)
            record.predicted_output_p50, record.predicted_output_p90, record.predicted_output_bound = bounds
        if (admit := self.admit) is not None:
            record.backend = admit.backend
            record.kv_tokens = record.need_tokens = admit.kv_tokens
        if (refusal := self.refusal) is not None:
            record.need_tokens = refusal.need_tokens
            record.headroom_tokens = refusal.headroom_tokens
            record.retry_after_s = refusal.retry_after_s
        if (usage := self.usage) is not None:
            record.prompt_tokens = usage.prompt_tokens
            record.output_tokens = usage.output_tokens
            record.cached_prompt_tokens = usage.cached_prompt_tokens
