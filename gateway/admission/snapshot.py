"""A frozen view of admission for the admin port, metrics and tests; tokens are whole blocks times a block's tokens."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.domain import Priority


class BackendState(enum.Enum):
    """What a backend may be used for now."""

    COLD = "cold"
    """Configured, but nothing is known of it yet: nothing is sent."""
    READY = "ready"
    BUSY = "busy"
    """It asked to be left alone for a while (429 or 503 of its own)."""
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


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """Requests of one model and class that wait."""

    model: str
    priority: Priority
    depth: int
    tokens: int
    oldest_wait_s: float


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
