"""The log of one request's way, kept while it goes: turned into its record at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.demand import Demand
from gateway.admission.commands import Admit
from gateway.domain import Reason, Refusal, Usage
from gateway.errors import INTERNAL_ERROR, ApiError
from gateway.reporting.record import Phase, RequestRecord, UpstreamAttempt
from gateway.request import InferenceRequest

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

    @property
    def backend(self) -> str:
        """Where it went last; empty if nowhere."""
        return "" if self.admit is None else self.admit.backend

    @property
    def decision(self) -> str:
        """Admission's decision in the words of `x-kvgate-decision`."""
        if self.admit is None:
            return "refused"
        if self.admit.spilled:
            return "spilled"
        return "admitted_after_wait" if self.admit.reason is Reason.OK_AFTER_WAIT else "admitted"

    def entered(self, admit: Admit) -> None:
        """It got a place."""
        self.admit = admit
        self.waited_s += admit.waited_s
        self.outcome, self.reason = "admitted", admit.reason.value

    def refused(self, refusal: Refusal) -> None:
        """It got none."""
        self.waited_s += refusal.waited_s
        self.outcome, self.reason = "evicted" if refusal.waited_s > 0 else "rejected", refusal.reason.value

    def upstream_failed(self, backend: str, reason: str) -> None:
        """A backend failed it. The same failure may be told twice on its way up; it counts once."""
        if not self.attempts or self.attempts[-1].backend != backend:
            self.attempts.append(UpstreamAttempt(backend, reason))

    def retried(self) -> None:
        """It goes on to another backend."""
        last = self.attempts[-1]
        self.attempts[-1] = UpstreamAttempt(last.backend, last.reason, retried=True)

    def first_token(self, now: float) -> None:
        """The engine has begun to answer."""
        self.first_token_at = now

    def answered(self, usage: Usage | None, *, finished: bool = True) -> None:
        """The engine has ended its answer."""
        self.usage = usage
        self.finished = finished

    def delivered(self) -> None:
        """The client was given all of it."""
        self.code = OK
        self.error = ""

    def failed(self, error: ApiError) -> None:
        """The client was told of an error."""
        self.code = error.status
        self.error = error.code

    def client_left(self) -> None:
        """Its client went away, or stopped reading, before the end."""
        if self.admit is None:
            self.disconnect = "queued"
            self.outcome, self.reason = "evicted", Reason.CLIENT_GONE.value
        else:
            self.disconnect = "prefill" if self.first_token_at is None else "decode"
        self.code = CLIENT_CLOSED
        self.error = ""

    def record(self, now: float, risk: float) -> RequestRecord:
        """All of it, at the end."""
        demand, usage, request = self.demand, self.usage, self.request
        return RequestRecord(
            request_id=request.request_id,
            endpoint=request.endpoint,
            model=request.model,
            code=self.code,
            duration_s=now - self.arrived_at,
            backend=self.backend,
            outcome=self.outcome,
            reason=self.reason,
            priority=request.priority,
            tenant=request.tenant.name,
            error=self.error,
            stream=request.stream,
            queue_wait_s=self.waited_s,
            ttft_s=None if self.first_token_at is None else self.first_token_at - self.arrived_at,
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            output_tokens=None if usage is None else usage.output_tokens,
            cached_prompt_tokens=None if usage is None else usage.cached_prompt_tokens,
            sequences=1 if demand is None else demand.sequences,
            predicted_prompt_tokens=None if demand is None else demand.prompt_tokens,
            predicted_prompt_bound=None if demand is None else sum(demand.prompts),
            predicted_output_p50=None if demand is None else demand.output_bound(0.5),
            predicted_output_bound=None if demand is None else demand.output_bound(risk),
            kv_tokens=0 if self.admit is None else self.admit.kv_tokens,
            disconnect=self.disconnect,
            finished=self.finished,
            attempts=tuple(self.attempts),
            trace_id=request.traceparent[3:35],
        )
