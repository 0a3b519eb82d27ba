"""What is known of a backend apart from memory: whether it answers, what it serves, whether it asked for a pause."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendState
from gateway.domain import BackendSpec, Reading
from gateway.routing.breaker import Breaker, BreakerState
from gateway.routing.health import Health

SPEED_UNKNOWN_TOKENS_PER_S = 30.0
"""A cautious guess: a large model on one busy GPU."""
SPEED_KEPT = 0.9
"""Part of its weight that a sample keeps with each later one."""


@dataclass(slots=True)
class Standing:
    """The public face of a backend, as far as it has shown it."""

    spec: BackendSpec
    health: Health
    breaker: Breaker = field(default_factory=Breaker)
    reading: Reading | None = None
    """The newest one."""
    read_at: float = float("-inf")
    """When it was asked for."""
    busy_until: float = float("-inf")
    draining: bool = False
    """The operator wants no more requests sent there."""
    preemptions: int = 0
    """That the engine counted since it was first seen, over all its generations."""

    @classmethod
    def unknown(cls, spec: BackendSpec, limits: AdmissionLimits) -> Standing:
        """A backend that has not been looked at yet."""
        return cls(spec, Health(limits.down_after, limits.up_after))

    def answered(self, reading: Reading, now: float) -> bool:
        """Keep what a look at it brought; False if a newer one is known already."""
        if reading.asked_at < self.read_at:
            return False
        self.health.answered()
        if self.reading is not None and reading.generation != self.reading.generation:
            self.breaker.restarted()
        self._count_preemptions(reading)
        self.reading = reading
        self.read_at = min(reading.asked_at, now)
        return True

    def missed(self, *, reachable: bool) -> None:
        """A look brought nothing usable."""
        if reachable:
            self.health.answered()
        else:
            self.health.missed()

    def asked_for_pause(self, until: float) -> None:
        """It wants to be left alone until then."""
        self.busy_until = max(self.busy_until, until)

    def pause_until(self) -> float:
        """Before this nothing is sent there, though it answers; a time that has passed where there is no such pause."""
        return max(self.busy_until, self.breaker.pause_until())

    def serves(self, model: str) -> bool:
        """Whether it last said that it serves the model, and may be sent requests at all."""
        return not self.draining and self.reading is not None and model in self.reading.models

    def state(self, now: float) -> BackendState:
        """What it may be used for."""
        if self.reading is None:
            return BackendState.COLD
        if not self.health.up:
            return BackendState.DOWN
        if self.draining:
            return BackendState.DRAINING
        pause_until = self.busy_until
        if self.breaker.state is not BreakerState.CLOSED:
            if self.breaker.state is BreakerState.OPEN:
                return BackendState.EJECTED
            pause_until = self.pause_until()
        return BackendState.BUSY if now < pause_until else BackendState.READY

    def _count_preemptions(self, reading: Reading) -> None:
        before = self.reading
        if before is None or reading.preemptions is None:
            return
        if reading.generation != before.generation:
            self.preemptions += reading.preemptions
        elif before.preemptions is not None:
            self.preemptions += max(0, reading.preemptions - before.preemptions)


@dataclass(slots=True)
class Speed:
    """Tokens per second of one sequence, from requests that ended: all their tokens over all their seconds, fading."""

    tokens: float = 0.0
    seconds: float = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        """A sequence generated so many tokens in so many seconds, its wait for the first one included."""
        if tokens > 0 and seconds > 0:
            self.tokens = SPEED_KEPT * self.tokens + tokens
            self.seconds = SPEED_KEPT * self.seconds + seconds

    @property
    def tokens_per_s(self) -> float | None:
        """The learned speed; None until a request has ended."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def known_or_slow(self) -> float:
        """The learned speed, or the guess."""
        return self.tokens / self.seconds if self.seconds else SPEED_UNKNOWN_TOKENS_PER_S
