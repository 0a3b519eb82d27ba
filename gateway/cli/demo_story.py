"""What the clients of the demo met: one entry per request, filled in as its answer comes, and counts over them."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Phase(enum.Enum):
    """The part of the demo that a request belongs to."""

    CALM = "calm"
    BURST = "burst"
    RETRY = "retry"
    """Part of the burst, from clients that retry by themselves, as an OpenAI client does unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that turned a request away, as it came."""

    status: int
    code: str
    """The error's `code`."""
    retry_after: str
    """The header's value; empty if there was none."""
    message: str


@dataclass(slots=True)
class Sent:
    """One request as its client saw it. What is not known yet has its default."""

    phase: Phase
    streamed: bool
    decision: str = ""
    """`admitted` or `admitted_after_wait`, by the gateway's own header."""
    queued_s: float = 0.0
    retries: int = 0
    pieces: int = 0
    """Parts in which the answer came: one if it was not streamed."""
    text: str = ""
    took_s: float = 0.0
    complete: bool = False
    refused: Refused | None = None
    fault: str = ""
    """Anything but an answer or a refusal."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many requests got how far."""

    sent: int
    at_once: int
    waited: int
    refused: int
    done: int
    lost: int
    """Neither answered in full nor refused."""


def count(requests: Iterable[Sent]) -> Counts:
    """Count requests by what became of them."""
    all_ = list(requests)
    return Counts(
        sent=len(all_),
        at_once=sum(one.decision == "admitted" for one in all_),
        waited=sum(one.decision == "admitted_after_wait" for one in all_),
        refused=sum(one.refused is not None for one in all_),
        done=sum(one.complete for one in all_),
        lost=sum(bool(one.fault) for one in all_),
    )
