"""What a key allows, as its holder and the others see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.simulation.server import RunningEngine, start_engine
from tests.e2e.stand import SLOW, gateway, is_retryable

KEYS = {"KEY_A": "sk-a", "KEY_B": "sk-b"}
A, B = ({"authorization": f"Bearer {key}"} for key in KEYS.values())


def tenants(**limits: int) -> list[dict[str, object]]:
    """One with limits, and one without."""
    return [{"name": "a", "keys": ["env:KEY_A"], **limits}, {"name": "b", "keys": ["env:KEY_B"]}]


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SLOW) as running:
        yield running


async def test_requests_per_minute(engine: RunningEngine) -> None:
    """One too many is refused at once: which limit, and when the next is allowed. Others do not notice."""
    async with gateway(engine.url, tenants=tenants(requests_per_minute=2), environ=KEYS) as stand:
        assert [(await stand.complete(A, max_tokens=1)).status for _ in range(2)] == [200, 200]
        refused = await stand.complete(A, max_tokens=1)
        assert (refused.status, refused.error.code, refused.error.type) == (429, "tenant_limit", "rate_limit_error")
        assert "Your key allows 2 requests per minute" in refused.error.message
        assert is_retryable(refused)
        assert int(refused.headers["retry-after"]) <= 30
        assert (await stand.complete(B, max_tokens=1)).status == 200
        question = {"endpoint": "/v1/completions", "body": {"model": "m", "prompt": "x", "max_tokens": 1}}
        told = await stand.post("/v1/estimate", question, A)
        assert b'"tenant_limit"' in told.body
        (line,) = [line for line in await stand.settled_log(4) if line["code"] == 429]
        assert (line["tenant"], line["reason"]) == ("a", "tenant_limit")


async def test_tokens_per_minute(engine: RunningEngine) -> None:
    """Counted as used: an answer that came out shorter than expected leaves more for the next."""
    async with gateway(engine.url, tenants=tenants(tokens_per_minute=40), environ=KEYS) as stand:
        assert (await stand.complete(A, max_tokens=30, ignore_eos=True)).status == 200
        refused = await stand.complete(A, max_tokens=30, ignore_eos=True)
        assert (refused.status, refused.error.code) == (429, "tenant_limit")
        assert "40 tokens per minute" in refused.error.message


async def test_requests_at_once(engine: RunningEngine) -> None:
    """The second waits for the end of the first, a third is refused; who leaves makes room."""
    async with gateway(engine.url, tenants=tenants(requests_max=1), environ=KEYS) as stand:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(stand.complete(A, max_tokens=1000, ignore_eos=True, stream=True))
            await stand.until(lambda state: state.live == 1)
            second = group.create_task(stand.complete(A, max_tokens=1))
            await stand.until(lambda state: state.waiting == 1)
            third = await stand.complete(A, max_tokens=1)
            assert (third.status, third.error.code) == (429, "tenant_limit")
            assert "Your key allows 1 request at once" in third.error.message
            assert is_retryable(third)
            assert (await stand.complete(B, max_tokens=1)).status == 200
            first.cancel()
        assert second.result().status == 200
        assert second.result().headers["x-kvgate-backend"] == "b0"
