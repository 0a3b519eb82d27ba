"""How many requests may be sent a second time, as a part of all: retries must not multiply the load of bad times."""

from __future__ import annotations

from dataclasses import dataclass

RETRY_SHARE = 0.1
"""Part of requests that may be retried in the long run."""
CREDIT_MAX = 10.0
"""Retries that quiet times save up, so that one backend's death costs few requests."""


@dataclass(slots=True)
class RetryBudget:
    """Each request pays in a tenth of a retry."""

    credit: float = CREDIT_MAX

    def earn(self) -> None:
        """A request came."""
        self.credit = min(CREDIT_MAX, self.credit + RETRY_SHARE)

    def spend(self) -> bool:
        """Whether one may be retried; if so, it is paid for."""
        if self.credit < 1:
            return False
        self.credit -= 1
        return True
