"""What happens in a run, as it happens: who was refused, when tokens came, how full the pools were."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """All replicas at one time."""

    at_s: float
    kv_used: float
    """Part of all pools."""
    queued: int
    """Requests without memory: in the gateway, or in an engine's own queue."""


@dataclass(slots=True)
class Record:
    """Filled by the world and by whoever decides. Lists go by the number of the request."""

    first_token_s: list[float | None]
    ended_s: list[float | None]
    refused_s: list[float | None]
    settled: int = 0
    """Requests that got their answer, or were turned away."""
    preemptions: int = 0
    computed_tokens: int = 0
    kv_block_seconds: float = 0.0
    """Over all replicas, until the last request came."""
    decisions: int = 0
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def of(cls, requests: int) -> Record:
        """An empty record of so many requests."""
        return cls([None] * requests, [None] * requests, [None] * requests)

    def end(self, number: int, now: float) -> None:
        """The request has its whole answer."""
        self.ended_s[number] = now
        self.settled += 1

    def refuse(self, number: int, now: float) -> None:
        """The request was turned away, or its client gave up."""
        self.refused_s[number] = now
        self.settled += 1
