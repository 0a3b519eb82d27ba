"""What is known of one request at its end: the one source of its metrics and of its line in the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.domain import Priority

Phase = Literal["queued", "prefill", "decode"]


@dataclass(frozen=True, slots=True)
class UpstreamAttempt:
    """A backend failed a request."""

    backend: str
    reason: str
    """One of `families.UPSTREAM_REASONS`."""
    retried: bool = False
    """The request went on to another backend."""


@dataclass(slots=True)  # A frozen one of so many fields takes several times as long to make.
class RequestRecord:
    """One request, answered or abandoned. Token counts are over all its sequences; None: not known."""

    request_id: str
    endpoint: str
    """The route, `/v1/chat/completions`."""
    model: str
    """As the client named it: only its log line repeats that, metrics know only models that exist."""
    code: int
    """HTTP status of the answer; 499 if the client left before there was one."""
    duration_s: float
    backend: str = ""
    """Where it went last; empty: nowhere."""
    arrived_at: float = 0.0
    """Monotonic seconds."""
    decision: str = ""
    """As `x-kvgate-decision`, or "left" if its client did not wait for one; empty if admission was never asked."""
    outcome: str = ""
    """`families.OUTCOMES`; empty if admission was never asked (bad input)."""
    reason: str = ""
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    error: str = ""
    """Error code of the answer, `kv_capacity_exhausted`; empty without one."""
    stream: bool = False
    queue_wait_s: float = 0.0
    ttft_s: float | None = None
    """Arrival to the first token, queue included."""
    prompt_tokens: int | None = None
    """As the backend reported; the same for the next two."""
    output_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    sequences: int = 1
    """Answers generated side by side: `n` times the number of prompts."""
    predicted_prompt_tokens: int | None = None
    predicted_prompt_bound: int | None = None
    """What was reserved for the prompt; None: as predicted."""
    predicted_output_p50: int | None = None
    predicted_output_bound: int | None = None
    """What was reserved for the output at admission."""
    predicted_output_p90: int | None = None
    max_tokens: int | None = None
    """The client's own bound on each answer; None: it gave none."""
    kv_tokens: int = 0
    """Reserved at admission."""
    need_tokens: int | None = None
    """KV tokens that admission counted on; None: unknown."""
    headroom_tokens: int | None = None
    """What there was instead, where it was refused."""
    retry_after_s: float | None = None
    """When its client was told to come back."""
    disconnect: Phase | None = None
    """How far it was when its client left; None: the client stayed."""
    finished: bool = False
    """The backend itself ended the answer: only such lengths say something about predictions."""
    attempts: tuple[UpstreamAttempt, ...] = ()
    """Failures of backends, in order."""
    hit_length: bool = False
    """A sequence of the answer was cut off by its limit."""
    trace_id: str = ""
    is_sampled: bool = True
    """The trace is kept somewhere, as far as is known: only then it is worth pointing at."""
