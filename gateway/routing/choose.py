"""Where a request goes: the best of the backends that have room for it."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.domain import Reason


@dataclass(frozen=True, slots=True)
class Offer:
    """A backend that could take the request now."""

    backend: str
    free_share: float
    """Part of its pool that would still be free at the peak with the request on it: 0 to 1 if that is sure, less one
    where it is but predicted."""
    spill: bool = False
    """Only to be used where there is no other."""


class Holds(enum.Enum):
    """Who else must leave a backend alone as long as a request waits for it."""

    NOBODY = "nobody"
    """It cannot come in however empty the backend gets, so leaving it empty helps nobody."""
    TENANT = "tenant"
    """It waits for its own tenant's share only."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Lack:
    """Why a backend cannot take the request now."""

    reason: Reason
    holds: Holds = Holds.NOBODY


def choose(offers: Iterable[Offer]) -> Offer | None:
    """The backend with the best predicted headroom; one to spill to only where there is no other. Ties go by name."""
    return min(offers, key=lambda offer: (offer.spill, -offer.free_share, offer.backend), default=None)
