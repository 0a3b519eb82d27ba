"""Two hundred requests of all kinds over two small engines: everybody gets an answer, nothing is lost or kept."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from pathlib import Path

import aiohttp

from gateway.simulation.server import EngineOptions, start_engine
from tests.e2e.stand import Stand, eventually, gateway, is_retryable

REQUESTS = 200
CANCELLED_SHARE = 0.2
AT_ONCE = 60


def open_files() -> int:
    """File descriptors of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def one(stand: Stand, chance: random.Random, number: int) -> str:
    """One request of random size; its ending in a word."""
    streamed = chance.random() < 0.5
    body = {
        "model": "m",
        "prompt": [number % 1000] * chance.randint(1, 200),
        "max_tokens": chance.randint(1, 200),
        "n": chance.choice((1, 1, 1, 2)),
        "ignore_eos": chance.random() < 0.3,
        "stream": streamed,
    }
    leaves_after_s = 0.01 + chance.random() * 0.3 if chance.random() < CANCELLED_SHARE else None
    try:
        async with asyncio.timeout(leaves_after_s):
            answer = await stand.post("/v1/completions", body)
    except TimeoutError:
        return "left"
    if answer.status == 200:
        assert not streamed or answer.body.endswith(b"data: [DONE]\n\n")
        assert answer.headers["x-kvgate-decision"] in ("admitted", "admitted_after_wait")
        return "answered"
    assert answer.status == 429, answer
    assert is_retryable(answer)
    return answer.error.code


async def test_a_crowd() -> None:
    """No answer is cut, none is a 5xx, no engine preempts more than one in a hundred, and the books are empty."""
    chance = random.Random(7)
    options = EngineOptions(model="m", kv_tokens=2048, speed=20.0, output_tokens_mean=40)
    gate = asyncio.Semaphore(AT_ONCE)

    async def in_turn(stand: Stand, number: int) -> str:
        async with gate:
            return await one(stand, chance, number)

    async with start_engine(options) as one_engine, start_engine(options) as other_engine:
        files = open_files()
        async with gateway(one_engine.url, other_engine.url) as stand:
            await stand.until(lambda state: all(backend.state == "ready" for backend in state.backends))
            ends = Counter(await asyncio.gather(*(in_turn(stand, number) for number in range(REQUESTS))))
            assert ends.total() == REQUESTS
            assert ends["left"] >= 10
            assert ends["answered"] >= 0.6 * REQUESTS, ends
            await stand.ledger_is_zero()
            # Whoever left before all of its request was sent has made none.
            stayed = REQUESTS - ends["left"]
            await eventually(lambda: sum(line["code"] != 499 for line in stand.log_lines()) >= stayed)
            lines = stand.log_lines()
            assert len(lines) <= REQUESTS
            assert {line["code"] for line in lines} <= {200, 429, 499}
            backends = Counter(line["backend"] for line in lines if line["code"] == 200)
            assert min(backends["b0"], backends["b1"]) > 20
            await asyncio.wait_for(asyncio.gather(one_engine.idle(), other_engine.idle()), 5)
        assert one_engine.engine.preemptions + other_engine.engine.preemptions <= 0.01 * REQUESTS
        assert one_engine.engine.used_blocks == other_engine.engine.used_blocks == 0
        gc.collect()
        await asyncio.sleep(0.1)  # The engines' side of the connections.
        assert open_files() <= files + 2


async def test_engines_that_die_and_return_under_load() -> None:
    """One of two engines is killed in the middle: its streams break openly, the other carries on, nobody hangs."""
    options = EngineOptions(model="m", kv_tokens=2048, speed=5.0, output_tokens_mean=40)
    ends: Counter[str] = Counter()

    async def ask(stand: Stand, number: int) -> None:
        body = {"model": "m", "prompt": [number] * 50, "max_tokens": 60, "ignore_eos": True, "stream": True}
        try:
            answer = await stand.post("/v1/completions", body)
        except aiohttp.ClientPayloadError:
            ends["cut"] += 1
            return
        assert answer.status in (200, 429, 502, 503)
        assert answer.status != 200 or answer.body.endswith(b"data: [DONE]\n\n")
        ends[str(answer.status)] += 1

    async with (
        start_engine(options) as doomed,
        start_engine(options) as other,
        gateway(doomed.url, other.url, settles=False) as stand,
    ):
        await stand.until(lambda state: all(backend.state == "ready" for backend in state.backends))
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(ask(stand, number))
            await stand.until(lambda state: state.backend("b0").requests > 3)
            await doomed.die()
        assert ends.total() == 40
        assert ends["cut"] + ends["502"] >= 1
        assert ends["200"] >= 20
        state = await stand.state()
        assert (state.live, state.waiting, state.double_releases) == (0, 0, 0)
        assert other.engine.preemptions == 0
