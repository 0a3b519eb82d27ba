"""Whether this process itself can take more: a late event loop, or memory that runs out, turns new requests away.

This is not admission: it protects the gateway, not an engine, and acts before a body is read. Nothing here reads a
clock or the system; it is told, and answers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.errors import SERVER_ERROR, ApiError

GATEWAY_OVERLOADED = "gateway_overloaded"
RETRY_AFTER_S = 2.0
RETRY_SPREAD_S = 2.0
GOLDEN_RATIO = 0.6180339887498949


class Strain(enum.Enum):
    """What there is too much of."""

    LAG = "event_loop_lag"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class ShedLimits:
    """Where shedding begins, and where it ends: apart, so that it does not flutter."""

    lag_max_s: float = 0.25
    lag_calm_s: float = 0.1
    lag_samples: int = 8
    """So many samples in a row must agree. One late turn is a long garbage collection or a busy machine; when each of
    these is late, requests have come faster than they are served for two seconds and more."""
    memory_max_ratio: float = 0.9
    memory_calm_ratio: float = 0.85


def overloaded(message: str, retry_after_s: float = RETRY_AFTER_S, *, close: bool = False) -> ApiError:
    """The answer where this process itself cannot go on, whatever the engines could."""
    message = f"{message} Retry in about {retry_after_s:.1f} s."
    return ApiError(
        503,
        GATEWAY_OVERLOADED,
        message,
        type_=SERVER_ERROR,
        retry_after_s=retry_after_s,
        should_retry=True,
        close=close,
    )


class Shedding:
    """Decides whether new requests are turned away now."""

    def __init__(self, limits: ShedLimits | None = None) -> None:
        self._limits = limits or ShedLimits()
        self._is_late = False
        self._is_full = False
        self._agreeing = 0
        """Lag samples in a row that speak for the other state."""
        self._refused = 0
        self.is_told = False
        """Another process that this one depends on cannot take more."""

    @property
    def strain(self) -> Strain | None:
        """Why new requests are turned away; None: they are not."""
        if self._is_full:
            return Strain.MEMORY
        return Strain.LAG if self._is_late or self.is_told else None

    def on_lag(self, lag_s: float) -> None:
        """The event loop was so late."""
        limits = self._limits
        speaks_for_change = lag_s < limits.lag_calm_s if self._is_late else lag_s > limits.lag_max_s
        self._agreeing = self._agreeing + 1 if speaks_for_change else 0
        if self._agreeing >= limits.lag_samples:
            self._is_late = not self._is_late
            self._agreeing = 0

    def on_memory(self, used_ratio: float) -> None:
        """So much of the memory that this process may use is in use."""
        limits = self._limits
        self._is_full = used_ratio > (limits.memory_calm_ratio if self._is_full else limits.memory_max_ratio)

    def refusal(self) -> ApiError | None:
        """The answer for a request that comes now; None: it may come in."""
        if self.strain is None:
            return None
        self._refused += 1
        # They must not come back together: the golden ratio spreads one after the other evenly.
        retry_after_s = RETRY_AFTER_S + RETRY_SPREAD_S * (self._refused * GOLDEN_RATIO % 1)
        return overloaded("This gateway has more to do than it can.", retry_after_s)
