"""The first look at each backend: until all have been taken, it is not known which models exist."""

from __future__ import annotations

import asyncio
import contextlib

from gateway.admission.events import BackendAdded, BackendMissed, BackendRead, BackendRemoved, Event

SURVEY_MAX_S = 3.0
"""A first look ends by itself before."""


class Survey:
    """Hears of backends and of looks at them."""

    def __init__(self) -> None:
        self._unseen: set[str] = set()
        self._ended = asyncio.Event()

    def note(self, event: Event) -> None:
        """Something happened. Backends that come after the first looks have ended are not waited for."""
        match event:
            case BackendAdded(spec) if not self._ended.is_set():
                self._unseen.add(spec.name)
            case BackendRead(reading):
                self._saw(reading.backend)
            case BackendMissed(backend) | BackendRemoved(backend):
                self._saw(backend)
            case _:
                pass

    @property
    def is_over(self) -> bool:
        """Whether every backend was looked at once."""
        return not self._unseen

    async def end(self) -> None:
        """Wait until every backend was looked at once, whatever came of it: a moment after the start."""
        if not self.is_over:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SURVEY_MAX_S):
                    await self._ended.wait()

    def _saw(self, backend: str) -> None:
        self._unseen.discard(backend)
        if not self._unseen:
            self._ended.set()
