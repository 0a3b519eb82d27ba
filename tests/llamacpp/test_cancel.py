"""Clients that leave a real llama.cpp, by way of the gateway: it stops, its slots are free, and so are the books."""

from __future__ import annotations

import asyncio

import aiohttp
import openai
import pytest

from tests.engines.gateway_page import look_until
from tests.engines.leaving import leave_everywhere
from tests.engines.servers import MODEL_NAME, GatewayUrls

pytestmark = pytest.mark.timeout(90)

STOPS_MAX_S = 20.0
CROWD = 6


async def until_idle(engine: str) -> None:
    """Wait until none of the engine's slots is at work."""
    async with asyncio.timeout(STOPS_MAX_S), aiohttp.ClientSession(engine) as session:
        while True:
            async with session.get("/slots") as page:
                if not any(slot["is_processing"] for slot in await page.json()):
                    return
            await asyncio.sleep(0.05)


async def test_whoever_leaves_leaves_nothing_behind(gateway: GatewayUrls, llamacpp: str) -> None:
    """No slot works on, the ledger is at zero, and who comes next is served."""
    await leave_everywhere(gateway.api, CROWD)
    await until_idle(llamacpp)
    page = await look_until(gateway.admin, lambda page: page.reserved_tokens == 0)
    assert page.reserved_tokens == 0
    async with openai.AsyncOpenAI(base_url=f"{gateway.api}/v1", api_key="none", max_retries=0) as client:
        answer = await client.completions.create(model=MODEL_NAME, prompt=[7, 8, 9], max_tokens=4)
    assert answer.choices[0].finish_reason in {"length", "stop"}
