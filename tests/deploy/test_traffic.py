"""The traffic of the demo: it reaches a gateway, reads every answer, and survives that nobody answers."""

from __future__ import annotations

import random
from collections import Counter

import aiohttp
import pytest

from deploy.compose import traffic
from gateway.simulation.server import EngineOptions, start_engine
from tests.e2e.stand import gateway


async def test_it_asks_for_what_the_gateway_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are answered: served, or told when to come back."""
    monkeypatch.setattr(traffic, "CALM_PER_S", 1000.0)
    options = EngineOptions(model="m", kv_tokens=16_384, speed=100.0)
    async with start_engine(options) as engine, gateway(engine.url) as stand:
        seen = await traffic.run(stand.running.api_url, 8, 1)
    assert seen.total() == 8
    assert seen["200"] > 0
    assert set(seen) <= {"200", "429"}


async def test_nobody_there_is_counted_and_no_end() -> None:
    """The gateway of a demo may be restarted while traffic comes."""
    seen: Counter[str] = Counter()
    async with aiohttp.ClientSession("http://127.0.0.1:9") as http:
        await traffic.ask(http, traffic.body("m", random.Random(1)), seen)
    assert seen == {"ClientConnectorError": 1}


def test_each_round_ends_with_a_rush() -> None:
    """So that the dashboards show both what fits and what does not."""
    dice = random.Random(1)
    calm, rush = (sum(traffic.pause_s(now, dice) for _ in range(500)) / 500 for now in (0.0, traffic.ROUND_S - 1))
    assert calm > 2 * rush
