"""The loop that processes run on: the faster one where it is installed, and else Python's own."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from gateway.event_loop import loop_factory


def test_uvloop_where_there_is_one() -> None:
    uvloop = pytest.importorskip("uvloop")
    factory = loop_factory()
    assert factory is not None
    loop = factory()
    try:
        assert isinstance(loop, uvloop.Loop)
    finally:
        loop.close()


def test_pythons_own_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_factory() is None


def test_all_processes_have_one_clock() -> None:
    """Deadlines go from workers to their owner as they are: the loop's time is the machine's monotonic one."""

    async def now() -> float:
        return asyncio.get_running_loop().time()

    before = time.monotonic()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        told = runner.run(now())
        assert before - 0.01 <= told <= time.monotonic() + 0.01
