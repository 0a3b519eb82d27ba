"""Clients that leave a real vLLM, by way of the gateway: its KV cache is at zero again, and so are the books."""

from __future__ import annotations

import asyncio

import aiohttp
import openai
import pytest

from tests.engines.gateway_page import look_until
from tests.engines.leaving import leave_everywhere
from tests.engines.load import KV_USED, read_metrics
from tests.engines.servers import MODEL_NAME, GatewayUrls

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

STOPS_MAX_S = 60.0
CROWD = 24
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting", KV_USED)


async def until_idle(engine: str) -> None:
    """Wait until the engine shows nothing at work, nothing waiting, and no block in use."""
    async with asyncio.timeout(STOPS_MAX_S), aiohttp.ClientSession() as session:
        while True:
            metrics = await read_metrics(session, f"{engine}/metrics")
            if not any(metrics[name] for name in BUSY):
                return
            await asyncio.sleep(0.05)


async def test_whoever_leaves_leaves_nothing_behind(gateway: GatewayUrls, vllm: str) -> None:
    """No request runs on, no block is held, the ledger is at zero, and who comes next is served."""
    await leave_everywhere(gateway.api, CROWD)
    await until_idle(vllm)
    page = await look_until(gateway.admin, lambda page: page.reserved_tokens == 0)
    assert page.reserved_tokens == 0
    async with openai.AsyncOpenAI(base_url=f"{gateway.api}/v1", api_key="none", max_retries=0) as client:
        answer = await client.completions.create(model=MODEL_NAME, prompt=[7, 8, 9], max_tokens=4)
    assert answer.choices[0].finish_reason in {"length", "stop"}
