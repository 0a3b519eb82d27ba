"""The quarantine as a worker keeps it: what it learns of a request the other workers learn too."""

from __future__ import annotations

from collections.abc import Callable

from gateway.routing.quarantine import Quarantine
from gateway.workers.messages import Cleared, Died, ToOwner


class RemoteQuarantine(Quarantine):
    """One of several that know the same.

    Args:
        send: to the owner, who passes it on.
    """

    def __init__(self, send: Callable[[ToOwner], None]) -> None:
        super().__init__()
        self._send = send

    def suspect(self, name: bytes, size_bytes: int, now: float) -> bool:
        """An engine died here with this request in it; returns whether it is held from now on."""
        self._send(Died(name, size_bytes))
        return super().suspect(name, size_bytes, now)

    def clear(self, name: bytes) -> bool:
        """Forget what was held against a request; returns whether there was anything."""
        is_known = super().clear(name)
        if is_known:
            self._send(Cleared(name))
        return is_known

    def hear(self, message: Died | Cleared, now: float) -> None:
        """Another worker has learned something."""
        if isinstance(message, Died):
            super().suspect(message.name, message.size_bytes, now)
        else:
            super().clear(message.name)
