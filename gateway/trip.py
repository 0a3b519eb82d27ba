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
        self.outcome, self.reason = "admitted", admit.reason.value
        if self.trace is not None:
            self.trace.admitted(self.decision, admit)

    def forwarded(self, kind: str, url: str) -> TraceContext:
        """It is about to be sent to a backend of this kind, which is to go on from here in the client's trace."""
        return self.request.trace if self.trace is None else self.trace.forwarded(self.request, kind, url)

    def refused(self, refusal: Refusal) -> None:
        """It got none."""
        self.refusal = refusal
        self.waited_s += refusal.waited_s
        self.outcome, self.reason = "evicted" if refusal.waited_s > 0 else "rejected", refusal.reason.value

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
        headers = {"x-kvgate-decision": self.decision, "x-kvgate-queue-ms": str(round(self.waited_s * 1000))}
        if self.admit is None:
            return headers
        return {"x-kvgate-backend": self.backend, **headers, "x-kvgate-kv-tokens": str(self.admit.kv_tokens)}

    def record(self, now: float, risk: float) -> RequestRecord:
        """All of it, at the end, or as far as it has come."""
        demand, usage, request = self.demand, self.usage, self.request
        admit, refusal = self.admit, self.refusal
        trace = request.trace if self.trace is None else self.trace.context
        return RequestRecord(
            request_id=request.request_id,
            endpoint=request.endpoint,
            model=request.model,
            code=self.code,
            arrived_at=self.arrived_at,
            decision=self.decision if self.outcome else "",
            duration_s=now - self.arrived_at,
            backend=self.backend,
            outcome=self.outcome,
            reason=self.reason,
            priority=request.priority,
            tenant=request.tenant.name,
            error=self.error,
            stream=request.stream,
            queue_wait_s=now - self.arrived_at if self.disconnect == "queued" else self.waited_s,
            ttft_s=None if self.first_token_at is None else self.first_token_at - self.arrived_at,
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            output_tokens=None if usage is None else usage.output_tokens,
            cached_prompt_tokens=None if usage is None else usage.cached_prompt_tokens,
            sequences=1 if demand is None else demand.sequences,
            predicted_prompt_tokens=None if demand is None else demand.prompt_tokens,
            predicted_prompt_bound=None if demand is None else sum(demand.prompts),
            predicted_output_p50=None if demand is None else demand.output_bound(0.5),
            predicted_output_p90=None if demand is None else demand.output_bound(0.1),
            predicted_output_bound=None if demand is None else demand.output_bound(risk),
            max_tokens=request.shape.max_tokens,
            kv_tokens=0 if admit is None else admit.kv_tokens,
            need_tokens=refusal.need_tokens if refusal else admit.kv_tokens if admit else None,
            headroom_tokens=refusal.headroom_tokens if refusal else None,
            retry_after_s=refusal.retry_after_s if refusal else None,
            disconnect=self.disconnect,
            finished=self.finished,
            attempts=tuple(self.attempts),
            hit_length=self.hit_length,
            trace_id=trace.trace_id,
            is_sampled=trace.is_sampled,
        )
