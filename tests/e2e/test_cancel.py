"""Clients that leave at each point of a request's life, in each way: its connection to the engine is closed at once."""

from __future__ import annotations

import asyncio

from tests.chaos.case import Case, How, Leave
from tests.chaos.client import Caller
from tests.chaos.engine import ChaosEngine
from tests.e2e.stand import Stand, eventually, gateway

STREAMED = (
    (Leave.ASKED, "held before head"),
    (Leave.HEAD, "held after head"),
    (Leave.MIDSTREAM, "flowing"),
    (Leave.MIDSTREAM, "held in stream"),
)
WHOLE = ((Leave.ASKED, "held before head"), (Leave.HEAD, "held after head"), (Leave.HEAD, "held in stream"))
ROOM_FOR_ONE = 40
"""Tokens of an answer, two of which do not fit into the pool."""


async def word(case: Case, stand: Stand) -> str:
    """What its client sees."""
    host, port = stand.running.api_url.removeprefix("http://").split(":")
    return (await Caller(host, int(port)).ask(case)).word


async def test_the_engine_is_told_wherever_a_client_leaves() -> None:
    """Before the head, before the first token, in a stream, in a stall; closed, reset, half closed; streamed or not."""
    points = [(True, *point) for point in STREAMED] + [(False, *point) for point in WHOLE]
    cases = [
        Case(number, fault, stream, leave=leave, how=how)
        for number, (how, (stream, leave, fault)) in enumerate((how, point) for how in How for point in points)
    ]
    async with (
        ChaosEngine("m", {case.id: case for case in cases}) as engine,
        gateway({"name": "b0", "url": engine.url, "kind": "vllm"}) as stand,
    ):
        for case in cases:
            assert await word(case, stand) == "left", case
            await eventually(lambda: not engine.inside)
        lines = await stand.settled_log(len(cases))
    assert {line["code"] for line in lines} == {499}


async def test_who_leaves_the_queue_is_never_sent() -> None:
    """One holds the only room; the others wait, leave, and the engine never hears of them."""
    holder = Case(0, "held till told", stream=True, max_tokens=ROOM_FOR_ONE)
    ways = [(stream, how) for stream in (True, False) for how in How]
    leavers = [
        Case(number, "good", stream, leave=Leave.QUEUED, how=how, max_tokens=ROOM_FOR_ONE)
        for number, (stream, how) in enumerate(ways, start=1)
    ]
    engine = ChaosEngine("m", {case.id: case for case in (holder, *leavers)}, blocks=4, request_blocks=3)
    async with engine, gateway({"name": "b0", "url": engine.url, "kind": "vllm"}) as stand:
        async with asyncio.TaskGroup() as group:
            held = group.create_task(word(holder, stand))
            await holder.taken.wait()
            left = [group.create_task(word(case, stand)) for case in leavers]
            await stand.until(lambda state: state.waiting == len(leavers))
            for case in leavers:
                case.release.set()
            await stand.until(lambda state: state.waiting == 0)
            holder.release.set()
        assert held.result() == "ok"
        assert [task.result() for task in left] == ["left"] * len(leavers)
        assert not any(case.asked.is_set() for case in leavers)
