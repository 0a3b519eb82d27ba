"""An event loop without a clock: time jumps to the next timer, so that an hour takes as long as what happens in it."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

START_S = 1_000.0
T = TypeVar("T")


class StuckError(Exception):
    """Nothing is ready and no timer is set: whoever waits would wait for ever."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in its order, then jumps to the next timer. Same calls, same order: no I/O, no threads.

    Args:
        connect: takes the place of `create_connection`: protocol factory and host in, transport and protocol out.
    """

    def __init__(
        self,
        connect: Callable[[Callable[[], asyncio.Protocol], str], Awaitable[tuple[asyncio.Transport, asyncio.Protocol]]],
    ) -> None:
        super().__init__()
        self._connect = connect
        self._virtual_s = START_S
        self._clock_resolution = 1e-9
        self._selector = self
        """What the base class asks for I/O and lets wait."""

    def time(self) -> float:
        return self._virtual_s

    def select(self, timeout: float | None) -> list[object]:
        """Wait for nothing but time."""
        if timeout is None:
            raise StuckError
        self._virtual_s += timeout
        return []

    def _process_events(self, event_list: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """At once: a thread would finish at a moment of its own."""
        future: asyncio.Future[T] = self.create_future()
        events._set_running_loop(None)  # As in a thread.
        try:
            future.set_result(func(*args))
        finally:
            events._set_running_loop(self)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """To an engine of the simulation."""
        return await self._connect(protocol_factory, host)
