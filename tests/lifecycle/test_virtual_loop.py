"""Time that jumps."""

import asyncio
from collections.abc import Callable

import pytest

from tests.lifecycle.virtual_loop import START_S, StuckError, VirtualLoop


def loop() -> VirtualLoop:
    async def nowhere(factory: Callable[[], asyncio.Protocol], host: str) -> tuple[asyncio.Transport, asyncio.Protocol]:
        raise ConnectionRefusedError

    return VirtualLoop(nowhere)


def test_an_hour_passes_at_once_and_in_order() -> None:
    async def hour() -> list[str]:
        told: list[str] = []

        async def say(word: str, after_s: float) -> None:
            await asyncio.sleep(after_s)
            told.append(f"{word} {asyncio.get_running_loop().time() - START_S:g}")

        await asyncio.gather(say("late", 3600.0), say("soon", 1.0))
        return told

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(hour()) == ["soon 1", "late 3600"]


def test_who_waits_for_nothing_is_found() -> None:
    running = loop()
    waiting = running.create_future()
    with pytest.raises(StuckError):
        running.run_until_complete(waiting)
    running.close()


def test_a_thread_is_no_thread() -> None:
    async def asked() -> int:
        return await asyncio.to_thread(lambda: 7)

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(asked()) == 7
