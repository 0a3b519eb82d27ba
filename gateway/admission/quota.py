"""What a hosted provider allows per minute, as buckets that refill steadily."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_S = 60.0
ROUNDING = 1e-6
"""Less than this is missing only because of floating point: nobody waits for it."""


@dataclass(slots=True)
class Bucket:
    """A quantity per minute that may be used in one burst and comes back evenly. 0 per minute means no limit."""

    per_minute: int
    level: float
    at: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> Bucket:
        """A bucket nobody has drawn from yet."""
        return cls(per_minute, float(per_minute), now)

    def resized(self, per_minute: int, now: float) -> Bucket:
        """A bucket of another size in which the same part is left."""
        return Bucket(per_minute, self.level_share(now) * per_minute, now)

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be drawn. More than the bucket holds may be drawn when it is full."""
        if not self.per_minute:
            return 0.0
        missing = min(amount, self.per_minute) - self._level_at(now)
        return missing * MINUTE_S / self.per_minute if missing > ROUNDING else 0.0

    def draw(self, amount: float, now: float) -> None:
        """Take `amount`, or give it back if negative; the level may fall below zero and rises no higher than full."""
        if self.per_minute:
            self.level = min(self._level_at(now) - amount, float(self.per_minute))
            self.at = now

    def level_share(self, now: float) -> float:
        """Part of a minute's allowance that is left."""
        return self._level_at(now) / self.per_minute if self.per_minute else 1.0

    def _level_at(self, now: float) -> float:
        # Only `draw` changes anything: a mere look must not move later roundings.
        return min(float(self.per_minute), self.level + (now - self.at) * self.per_minute / MINUTE_S)
