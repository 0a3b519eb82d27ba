"""Telemetry that fails while the gateway serves, engines that restart, and memory that others use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.simulation.exposition import MetricsFault
from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import SLOW, SMALL, Stand, gateway

BODY: dict[str, object] = {"model": "m", "prompt": [7] * 64, "max_tokens": 8, "ignore_eos": True}


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as running:
        yield running


@pytest.fixture
async def stand(engine: RunningEngine) -> AsyncIterator[Stand]:
    async with gateway(engine.url) as stand:
        yield stand


async def errors_told(stand: Stand) -> float:
    """Looks that brought nothing, over all reasons."""
    page = (await stand.admin("/metrics")).body.decode()
    lines = [line for line in page.splitlines() if line.startswith("kvgate_telemetry_errors_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.mark.parametrize("fault", [MetricsFault.NAN, MetricsFault.GARBAGE, MetricsFault.ERROR])
async def test_useless_telemetry_stops_nobody(stand: Stand, engine: RunningEngine, fault: MetricsFault) -> None:
    """The ledger alone carries on, the failure is counted, the backend is not taken for dead; and back again."""
    before = await errors_told(stand)
    engine.break_metrics(fault)
    loop = asyncio.get_running_loop()
    end = loop.time() + 5
    while await errors_told(stand) <= before:
        assert loop.time() < end
        await asyncio.sleep(0.1)
    answers = await asyncio.gather(*(stand.complete(**BODY) for _ in range(30)))
    assert {answer.status for answer in answers} == {200}
    state = await stand.state()
    assert state.backends[0].state == "ready"
    assert 0 < state.backends[0].headroom_tokens <= 1024
    engine.break_metrics()
    await stand.until(lambda state: state.backends[0].telemetry == "fresh")


async def test_stale_telemetry_holds_a_little_back(stand: Stand, engine: RunningEngine) -> None:
    """After five seconds without a reading a tenth of the pool is not given out; requests still go through."""
    engine.break_metrics(MetricsFault.ERROR)
    state = await stand.until(lambda state: state.backends[0].telemetry == "stale", within_s=12)
    assert state.backends[0].state == "ready"
    assert 96 <= state.backends[0].held_back_tokens <= 112
    assert (await stand.complete(**BODY)).status == 200
    engine.break_metrics()
    state = await stand.until(lambda state: state.backends[0].telemetry == "fresh")
    assert state.backends[0].held_back_tokens == 0


async def test_old_names_are_understood(stand: Stand, engine: RunningEngine) -> None:
    """An engine from before the gauge was renamed is read like any other."""
    before = await errors_told(stand)
    engine.break_metrics(MetricsFault.OLD_NAMES)
    assert (await stand.complete(**BODY)).status == 200
    state = await stand.state()
    assert state.backends[0].telemetry == "fresh"
    assert await errors_told(stand) == before


@pytest.mark.parametrize("usage", [0.0, 7.0, -1.0])
async def test_a_gauge_that_lies(usage: float) -> None:
    """The ledger wins: with a gauge that shows no use, or nonsense, no more is let in than fits, and nobody is lost."""
    async with start_engine(SLOW) as slow, gateway(slow.url) as stand:
        slow.break_metrics(usage=usage)
        body = {"model": "m", "prompt": [7] * 200, "max_tokens": 20, "ignore_eos": True}
        answers = await asyncio.gather(*(stand.complete(**body) for _ in range(12)))
        assert {answer.status for answer in answers} == {200}
        assert slow.engine.preemptions == 0
        slow.break_metrics()


async def test_a_frozen_page(stand: Stand, engine: RunningEngine) -> None:
    """It shows an idle engine for ever: the ledger still counts, everybody is served.

    How far answers in one piece have come is inferred from the time, which says little on a machine that stands still
    for a moment: one or two may be preempted. Let in all at once, they would be preempted by the dozen.
    """
    await stand.complete(**BODY)
    engine.break_metrics(MetricsFault.FROZEN)
    answers = await asyncio.gather(*(stand.complete(**BODY) for _ in range(40)))
    assert {answer.status for answer in answers} == {200}
    assert engine.engine.preemptions <= 4


async def test_a_restart_is_noticed() -> None:
    """Killed, and started again with another size on the same port: the new pool is known, the old books are gone."""
    async with start_engine(SLOW) as first, gateway(first.url) as stand:
        port = int(first.url.rpartition(":")[2])
        stream = await stand.openai().completions.create(model="m", prompt="x", max_tokens=900, stream=True)
        await stand.until(lambda state: state.live == 1)
        await first.die()
        await stand.until(lambda state: state.backends[0].state == "down")
        await stream.close()
        larger = EngineOptions(model="m", kv_tokens=2048, speed=100)
        async with start_engine(larger, port=port) as second:
            state = await stand.until(lambda state: state.backends[0].state == "ready")
            assert state.backends[0].capacity_tokens == 2048
            assert (await stand.complete(**BODY)).status == 200
            await stand.ledger_is_zero()
            assert second.engine.generated_tokens == 8


async def test_what_others_use_is_not_given_out() -> None:
    """Traffic that goes to the engine past the gateway shows as foreign memory, and leaves with it."""
    async with (
        start_engine(SLOW) as engine,
        gateway(engine.url) as stand,
        aiohttp.ClientSession(engine.url) as direct,
    ):
        body = {"model": "m", "prompt": [7] * 500, "max_tokens": 400, "ignore_eos": True, "stream": True}
        async with direct.post("/v1/completions", json=body):
            state = await stand.until(lambda state: state.backends[0].foreign_tokens >= 496)
            assert state.backends[0].headroom_tokens <= 1024 - 496
            assert (await stand.complete(**BODY)).status == 200
        state = await stand.until(lambda state: state.backends[0].foreign_tokens == 0)
        assert state.backends[0].headroom_tokens == 1024
