"""Whether a backend answers, with hysteresis: one bad look is no death, one good look no recovery."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Health:
    """Counts looks in a row. A backend that was never seen comes up with its first good look."""

    down_after: int
    up_after: int
    up: bool = False
    seen: bool = False
    streak: int = 0
    """Looks in a row that speak against the present state."""

    def answered(self) -> None:
        """A look found the backend alive."""
        if not self.seen:
            self.up = self.seen = True
        self._count(against=not self.up, needed=self.up_after)

    def missed(self) -> None:
        """A look, or a request, could not reach it."""
        self._count(against=self.up, needed=self.down_after)

    def _count(self, *, against: bool, needed: int) -> None:
        self.streak = self.streak + 1 if against else 0
        if self.streak >= needed:
            self.up = not self.up
            self.streak = 0
