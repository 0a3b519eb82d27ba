"""The loop that processes run on: the faster one where it is installed, and else Python's own; and its garbage."""

from __future__ import annotations

import asyncio
import gc
import sys
import time

import pytest

from gateway.event_loop import collect_seldom, loop_factory


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


def test_garbage_is_looked_for_seldom_but_is() -> None:
    """Thousands of objects may come before a look; what nobody holds any more goes with it."""
    before = gc.get_threshold()
    try:
        collect_seldom()
        young, middle, old = gc.get_threshold()
        assert gc.isenabled()
        assert 5_000 <= young <= 50_000
        assert young * middle * old <= 1_000_000
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
