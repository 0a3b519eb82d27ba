"""What admission wants done. Orders in the imperative; the counterpart of `events`.

Nobody changes them. `Admit` is not frozen only because one is made for every request: that would take three times as
long.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.domain import Reason, Refusal


@dataclass(slots=True)
class Admit:
    """Send the request to this backend now; its memory is reserved."""

    ticket_id: int
    backend: str
    reason: Reason
    """`OK` or `OK_AFTER_WAIT`; in observe mode the reason an enforcing gateway would have refused for."""
    kv_tokens: int
    """Reserved at admission, whole blocks; 0 on a hosted backend."""
    waited_s: float = 0.0
    spilled: bool = False
    max_tokens: int | None = None
    """Set where the request was clamped to fit: send this `max_tokens` instead of the client's."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Turn the request away with this answer."""

    ticket_id: int
    refusal: Refusal


Command = Admit | Refuse
