"""Where a request goes: the best of the backends that have room for it."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.domain import Reason

AFFINITY = 0.5
"""What it is worth that a whole prompt is in a backend's prefix cache, in parts of a free pool. Prefill that is saved
is worth going past an emptier backend, but not past one that is emptier by half: else everybody who begins alike ends
up on one backend while the others idle. Chosen, not measured: how much is gained depends on how much is shared."""


@dataclass(slots=True)
class Offer:
    """A backend that could take the request now."""

    backend: str
    free_share: float
    """Part of its pool that would still be free at the peak with the request on it: 0 to 1 if that is sure, less one
    where it is but predicted."""
    spill: bool = False
    """Only to be used where there is no other."""
    late: bool = False
    """It has room, but the first token would come too late."""
    matched_share: float = 0.0
    """Part of its prompt that is expected in the prefix cache there."""
    spare: float | None = field(default=None, compare=False)
    """Part of the backend's time that prompts may take with it there; None: not reckoned yet."""
    first_token_s: float | None = field(default=None, compare=False)
    """Predicted seconds until its first token; likewise."""

    @property
    def score(self) -> float:
        """Predicted headroom, and what need not be computed again."""
        return self.free_share + AFFINITY * self.matched_share


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
    """The backend with the best score that is in time; one to spill to only where there is no other.

    Ties go by name.
    """
    return min(offers, key=lambda offer: (offer.late, offer.spill, -offer.score, offer.backend), default=None)
