"""What gateways and their store say to each other, and what an operator may turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Where the store is, and how far its word is trusted."""

    url: str
    password: str | None = field(default=None, repr=False)
    prefix: str = "kvgate"
    """Tells the ledgers of several deployments in one store apart."""
    replicas_max: int = 16
    """So many gateways are taken to share the pools, where it was never seen how many do."""
    ttl_s: float = 5.0
    """What a gateway holds lapses when it has not been heard for so long."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a gateway holds of a backend, or would hold with what it is about to send. Repeating it changes nothing."""

    backend: str
    number: int
    """Later ones are higher: one that comes late, after a newer one, is ignored."""
    is_request: bool
    """To be granted only if there is room; else it states what is."""
    blocks: int
    room_blocks: int
    """What all gateways together may hold, as this one sees it."""
    resident_blocks: int | None
    """In use by now; None: as said last."""
    sequences: int
    wanted_blocks: int
    """What the request needs that waits here and goes next; 0: none does."""
    waited_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """The store's answer: what all others hold of the backend."""

    granted: bool
    replicas: int
    """Gateways that hold entries, the asking one included."""
    blocks: int
    resident_blocks: int
    sequences: int
    promised_blocks: int
    """Kept for a request that waits elsewhere, and has waited longer than ours."""
    others_want: bool
    """Somebody waits for room."""
    lapsed_blocks: int
    """Of all entries that ever lapsed, or were left with something in them."""
    lapsed_now: int
    """Entries that this very call found lapsed."""
    age_s: float
    """For how long the ledger has been in use without a break."""


class StoreError(Exception):
    """The store does not answer, or not as it should."""


class Store(Protocol):
    """Where the gateways meet."""

    async def hold(self, claims: Sequence[Claim]) -> Sequence[Reply]:
        """Put down what is held; one round trip for all.

        Raises:
            StoreError: it is not known which of the claims were taken in.
        """
        ...

    async def leave(self, held_blocks: Sequence[tuple[str, int]]) -> None:
        """Take this gateway's entries out; what its requests may still hold is given by backend.

        Raises:
            StoreError: the entries lapse in time.
        """
        ...

    async def aclose(self) -> None:
        """Close its connections."""
        ...
