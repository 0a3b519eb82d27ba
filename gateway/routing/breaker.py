"""Whether a backend that seems alive can serve: a circuit breaker, told how requests end.

*Closed*: requests go there. *Open*: one distinct request after the other failed there and none succeeded in between;
nothing is sent for a while. *Half open*: single requests are let through; the first that succeeds closes it, the first
that fails opens it again, for twice as long.

What requests say of a backend and what looks say are kept apart. No look closes it: an engine whose core is dead still
answers looks. Nor does a failed request prove that the process is gone: `health` decides that. Only one thing counts
here that looks find: that the engine has started anew. What failed before says nothing of the new process.

A request that is poison fails wherever it goes, and is often sent again and again. So it counts once, under one name,
however often it comes; a success, or any token of an older stream, takes back what was counted; and where no other
backend could serve instead (see `admission.roster`), much more has to fail: ejecting the last one saves nobody.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable
from dataclasses import dataclass, field

FAILED_MIN = 3
"""Distinct requests that must fail in a row where another backend can take over."""
ALONE_MIN = 20
"""Likewise where there is none: then it only turns a failure into an answer that tells when to come back."""
WINDOW_S = 30.0
"""Failures that are older count no more."""
OPEN_MIN_S = 1.0
OPEN_MAX_S = 30.0
CALM_S = 60.0
"""Closed for so long, it is forgotten how often it was open before."""
PROBE_MAX_S = 5.0
"""A probe that has told nothing for so long no longer keeps the next one waiting: an answer in one piece takes time."""
NEVER = math.inf


class BreakerState(enum.Enum):
    """See the module."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True)
class Breaker:
    """Of one backend. Every method takes in an event; only `tick` lets time change the state."""

    state: BreakerState = BreakerState.CLOSED
    opened_until: float = -NEVER
    """While it is open: when it will be tried again."""
    open_s: float = 0.0
    """For how long it was opened last."""
    closed_at: float = -NEVER
    _failed: dict[Hashable, float] = field(default_factory=dict)
    """Requests that failed since the last success, and when; the oldest first."""
    _probes: dict[int, float] = field(default_factory=dict)
    """Tickets that were let through while it is half open, and when; the oldest first."""

    @property
    def is_watching(self) -> bool:
        """Whether a success would change anything."""
        return self.is_out or bool(self._failed)

    @property
    def is_out(self) -> bool:
        """Whether it serves nobody but probes, if that."""
        return self.state is not BreakerState.CLOSED

    def failed(self, ticket_id: int, request: Hashable, now: float, *, needed: float = FAILED_MIN) -> bool:
        """The backend failed a request.

        Args:
            ticket_id: of this attempt.
            request: what names the request, the same whenever it is tried again.
            now: monotonic seconds.
            needed: distinct requests that must fail in a row; infinity where it must not open.

        Returns:
            whether it opened by that.
        """
        if self.state is BreakerState.CLOSED:
            self._failed.pop(request, None)
            self._failed[request] = now
            while len(self._failed) > ALONE_MIN or next(iter(self._failed.values())) < now - WINDOW_S:
                del self._failed[next(iter(self._failed))]
            if len(self._failed) < needed:
                return False
        elif self._probes.pop(ticket_id, None) is None or needed == NEVER:
            return False  # What was sent before it opened is no news.
        self._open(now)
        return True

    def succeeded(self, ticket_id: int, now: float) -> None:
        """The backend served a request, or has begun to."""
        if self.state is BreakerState.CLOSED:
            self._failed.clear()
        elif ticket_id in self._probes:
            self._close(now)

    def ended(self, ticket_id: int) -> None:
        """A request ended in a way that tells nothing of its backend."""
        self._probes.pop(ticket_id, None)

    def sent(self, ticket_id: int, now: float) -> None:
        """A request is being sent there."""
        if self.state is BreakerState.HALF_OPEN:
            self._probes[ticket_id] = now

    def restarted(self) -> None:
        """It is another process now."""
        self._failed.clear()
        if self.state is BreakerState.OPEN:
            self._half_open()

    def tick(self, now: float) -> None:
        """Time has passed."""
        if self.state is BreakerState.OPEN and now >= self.opened_until:
            self._half_open()

    def pause_until(self) -> float:
        """Before this nothing may be sent there; long ago where it may."""
        if self.state is BreakerState.OPEN:
            return self.opened_until
        return max(self._probes.values()) + PROBE_MAX_S if self._probes else -NEVER

    def _open(self, now: float) -> None:
        is_calm = self.state is BreakerState.CLOSED and now - self.closed_at > CALM_S
        self.open_s = OPEN_MIN_S if is_calm else min(max(OPEN_MIN_S, 2 * self.open_s), OPEN_MAX_S)
        self.state, self.opened_until = BreakerState.OPEN, now + self.open_s
        self._failed.clear()
        self._probes.clear()

    def _half_open(self) -> None:
        self.state = BreakerState.HALF_OPEN
        self._probes.clear()

    def _close(self, now: float) -> None:
        self.state, self.closed_at = BreakerState.CLOSED, now
        self._probes.clear()
