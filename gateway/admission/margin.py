"""What is held back because an engine preempts all the same, and how fast its pool fills up."""

from __future__ import annotations

import math
from dataclasses import dataclass

WINDOW_S = 60.0
PREEMPTIONS_PER_DISPATCH = 0.01
"""More than this within a window raises the margin."""
STEP_SHARE = 0.02
MOST_SHARE = 0.10
DECAY_SHARE_PER_S = 0.01 / 600
FAST_S, SLOW_S = 10.0, 60.0
"""Over which the two means of a trend run."""


@dataclass(slots=True)
class Margin:
    """Part of a pool that is not given out: grows where admission turned out too bold, and fades."""

    share_then: float = 0.0
    changed_at: float = 0.0
    window_from: float = -math.inf
    preemptions: int = 0
    dispatches: int = 0

    def share(self, now: float) -> float:
        """The part held back now."""
        if not self.share_then:
            return 0.0
        return max(0.0, self.share_then - DECAY_SHARE_PER_S * max(0.0, now - self.changed_at))

    def dispatched(self) -> None:
        """A request was sent."""
        self.dispatches += 1

    def preempted(self, count: int, now: float) -> None:
        """The engine has preempted so many since the last look; to be told of every look, be it 0."""
        self.preemptions += count
        if now - self.window_from < WINDOW_S:
            return
        if self.preemptions > max(1.0, PREEMPTIONS_PER_DISPATCH * self.dispatches):
            self.share_then, self.changed_at = min(MOST_SHARE, self.share(now) + STEP_SHARE), now
        self.window_from, self.preemptions, self.dispatches = now, 0, 0


@dataclass(slots=True)
class Trend:
    """Whether a level rises or falls: a fast mean against a slow one."""

    fast: float = 0.0
    slow: float = 0.0
    at: float = -math.inf

    def note(self, level: float, now: float) -> None:
        """The level as of now."""
        seconds, self.at = now - self.at, now
        self.fast += (level - self.fast) * -math.expm1(-seconds / FAST_S)
        self.slow += (level - self.slow) * -math.expm1(-seconds / SLOW_S)

    def until(self, room: float) -> float:
        """Seconds until it has risen by `room`, if it goes on like this; infinite if it does not; 0 without room."""
        if room <= 0:
            return 0.0
        per_s = (self.fast - self.slow) / (SLOW_S - FAST_S)
        return room / per_s if per_s > 1e-9 else math.inf
