"""A frozen view of admission for the admin port, metrics and tests; tokens are whole blocks times a block's tokens."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from gateway.domain import Priority
from gateway.routing.breaker import BreakerState


class BackendState(enum.Enum):
    """What a backend may be used for now."""

    COLD = "cold"
    """Configured, but nothing is known of it yet: nothing is sent."""
    READY = "ready"
    BUSY = "busy"
    """It asked to be left alone for a while (429 or 503 of its own)."""
    EJECTED = "ejected"
    """It answers, but one request after the other failed there: nothing is sent for a while."""
    DRAINING = "draining"
    """The operator wants no more requests sent there; what runs may end."""
    DOWN = "down"
    """It does not answer: nothing is sent."""


class Telemetry(enum.Enum):
    """How far the numbers of a backend can be trusted."""

    NONE = "none"
    """It has none to give (a hosted provider)."""
    FRESH = "fresh"
    STALE = "stale"
    """Seconds old: the ledger alone decides, with a little held back."""
    LOST = "lost"
    """A minute old or more: the ledger alone decides, with much held back."""
    FROZEN = "frozen"
    """It shows memory in use that nobody works on: probe requests only, until it moves."""


@dataclass(frozen=True, slots=True)
class BackendSnapshot:
    """One backend, as admission accounts for it."""

    name: str
    state: BackendState
    telemetry: Telemetry
    hosted: bool
    models: tuple[str, ...]
    engine_version: str
    capacity_tokens: int
    block_tokens: int
    resident_tokens: int
    """Ledger: what live requests are taken to hold right now."""
    reserved_tokens: int
    """Ledger: what live requests may grow to; includes `resident_tokens`."""
    draining_tokens: int
    """Reserved by requests that ended here but perhaps not yet in the engine."""
    foreign_tokens: int
    """In use by somebody else: telemetry minus what the ledger explains."""
    held_back_tokens: int
    """Margin not given out because telemetry is old."""
    headroom_tokens: int
    """What admission would still give out now, never below 0."""
    observed_tokens: int | None
    requests: int
    """Live requests on this backend, draining ones not counted."""
    running: int | None
    waiting: int | None
    preemptions: int
    """Preemptions that the engine counted since this gateway first saw it."""
    telemetry_age_s: float | None
    drain_timeouts: int
    """Requests whose memory was given free without the engine having shown it."""
    peak_forecast_30s_tokens: int = 0
    """The most that live requests are forecast to hold within 30 s; the next: within 300 s."""
    peak_forecast_300s_tokens: int = 0
    exhaustion_s: float = math.inf
    """Forecast seconds until the headroom is zero; inf when that is not in sight."""
    margin_share: float = 0.0
    """Part of the pool that is held back now."""
    kv_token_seconds: float = 0.0
    """Integral of what is reserved, since the start."""
    step_s: float = 0.0
    """Learned seconds of an engine step with what runs now; the next: of one token of a prompt."""
    prompt_token_s: float = 0.0
    prefix_trust: float | None = None
    """Part of what was expected in its prefix cache that was there; None where it is not known to have one."""
    requests_left_share: float | None = None
    """Hosted: part of the requests per minute that is left; None where no limit is known. The next: of the tokens."""
    tokens_left_share: float | None = None
    breaker: BreakerState = BreakerState.CLOSED
    """What its failures have led to."""


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """Requests of one model and class that wait."""

    model: str
    priority: Priority
    depth: int
    tokens: int
    oldest_wait_s: float


@dataclass(frozen=True, slots=True)
class TenantSnapshot:
    """What one tenant's requests hold."""

    name: str
    kv_token_seconds: float
    """Integral of what is reserved for them, since the start."""
    reserved_tokens: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of admission at one time."""

    now: float
    draining: bool
    backends: tuple[BackendSnapshot, ...]
    queues: tuple[QueueSnapshot, ...]
    queue_requests_max: int
    double_releases: int
    """Ends reported for requests that had ended already; anything but 0 is a bug of the caller."""
    tenants: tuple[TenantSnapshot, ...] = ()
