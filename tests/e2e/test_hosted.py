"""A hosted provider behind the gateway: alone, with limits, and as the place where overflow goes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from openai import RateLimitError
from openai.types.chat import ChatCompletionMessageParam

from gateway.simulation.server import EngineOptions, start_engine
from tests.e2e.provider import WORDS, Provider, hosting
from tests.e2e.stand import Answer, Stand, gateway, is_retryable

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count to ten."}]
BODY: dict[str, object] = {"model": "m", "messages": ASK, "max_tokens": 50}
KEY = "sk_provider-secret"
ENVIRON = {"NOVITA_API_KEY": KEY, "TEAM": "sk-team"}


def entry(provider: Provider, **more: object) -> dict[str, object]:
    """The documented example."""
    return {"name": "novita", "kind": "openai", "url": provider.url, "api_key": "env:NOVITA_API_KEY", **more}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with hosting(Provider(KEY)) as provider:
        provider.release.set()
        yield provider


async def chat(stand: Stand, **more: object) -> Answer:
    """One chat."""
    return await stand.post("/v1/chat/completions", BODY | more)


async def test_as_the_only_backend(provider: Provider) -> None:
    """Chat, streamed and not; usage untouched; the provider's key is sent, and never what the client sent."""
    tenants = [{"name": "team", "keys": ["env:TEAM"]}]
    async with gateway(entry(provider), environ=ENVIRON, tenants=tenants) as stand:
        client = stand.openai(api_key="sk-team")
        raw = await client.chat.completions.with_raw_response.create(model="m", messages=ASK, max_tokens=50)
        whole = raw.parse()
        stream = await client.chat.completions.create(model="m", messages=ASK, max_tokens=50, stream=True)
        words = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(words) == whole.choices[0].message.content == " ".join(WORDS)
        assert whole.usage is not None
        assert whole.usage.completion_tokens == len(WORDS)
        assert raw.headers["x-kvgate-backend"] == "novita"
        assert raw.headers["x-kvgate-decision"] == "admitted"
        assert [model.id async for model in client.models.list()] == ["m"]
        assert set(provider.authorizations) == {f"Bearer {KEY}"}
        state = await stand.admin("/api/v1/state")
        metrics = await stand.admin("/metrics")
        for page in (state.body.decode(), metrics.body.decode(), stand.log.getvalue()):
            assert KEY not in page
            assert "sk-team" not in page


async def test_its_429_is_passed_on_with_a_retry_after(provider: Provider) -> None:
    """It says that it is full, not for how long: the client gets a Retry-After all the same, and it is left alone."""
    provider.requests_max = 2
    async with gateway(entry(provider), environ=ENVIRON, admission={"queue": {"requests_max": 0}}) as stand:
        assert [(await chat(stand)).status for _ in range(2)] == [200, 200]
        limited = await chat(stand)
        assert (limited.status, limited.error.code, limited.error.type) == (429, "upstream_busy", "rate_limit_error")
        assert is_retryable(limited)
        assert (await stand.state()).backends[0].state == "busy"
        refused = [await chat(stand) for _ in range(5)]
        assert {(answer.status, answer.error.code) for answer in refused} == {(429, "kv_capacity_exhausted")}
        assert all(is_retryable(answer) for answer in refused)
        assert provider.limited == 1
        with pytest.raises(RateLimitError):
            await stand.openai().chat.completions.create(model="m", messages=ASK)
        await stand.until(lambda state: state.backends[0].state == "ready")
        provider.requests_max = 100
        assert (await chat(stand)).status == 200


async def test_its_limit_of_requests_is_respected(provider: Provider) -> None:
    """With the limit configured, the provider never has to say 429: the gateway says it, and when to come back."""
    limits = {"requests_per_minute": 5}
    config = {"queue": {"requests_max": 0}}
    async with gateway(entry(provider, limits=limits), environ=ENVIRON, admission=config) as stand:
        answers = await asyncio.gather(*(chat(stand) for _ in range(12)))
        statuses = Counter(answer.status for answer in answers)
        assert statuses == {200: 5, 429: 7}
        assert provider.served == 5
        for answer in answers:
            if answer.status == 429:
                assert is_retryable(answer)
                assert 1 <= int(answer.headers["retry-after"]) <= 15  # 60 s / 5, and a fifth of jitter.


async def test_a_wrong_key_is_told_to_the_operator(provider: Provider) -> None:
    """The provider refuses the gateway's key: what it serves is not known, and the reason is in the metrics."""
    environ = ENVIRON | {"NOVITA_API_KEY": "sk_wrong"}
    async with gateway(entry(provider), environ=environ) as stand:
        answer = await chat(stand)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "no_backend")
        page = (await stand.admin("/metrics")).body.decode()
        line = 'kvgate_telemetry_errors_total{backend="novita",reason="missing_metric",source="metrics"} 1.0'
        assert line in page


async def test_overflow_goes_there_and_comes_back(provider: Provider) -> None:
    """`spill_only`: used while the own engine has no room for a request that cannot wait, and no longer."""
    nobody_waits = {"queue": {"requests_max": 0}}
    small = EngineOptions(model="m", kv_tokens=1024, speed=2.0, output_tokens_mean=20)
    async with (
        start_engine(small) as engine,
        gateway(
            {"name": "own", "url": engine.url},
            entry(provider, spill_only=True),
            environ=ENVIRON,
            admission=nobody_waits,
        ) as stand,
    ):
        await stand.until(lambda state: all(backend.state == "ready" for backend in state.backends))
        calm = [await chat(stand) for _ in range(3)]
        assert {answer.headers["x-kvgate-backend"] for answer in calm} == {"own"}
        assert provider.served == 0
        hog = {"model": "m", "prompt": [7] * 900, "max_tokens": 110, "ignore_eos": True, "stream": True}
        async with stand.http.post("/v1/completions", json=hog) as busy:
            await busy.content.readany()
            crowd = await asyncio.gather(*(chat(stand, max_tokens=150, ignore_eos=True) for _ in range(5)))
        spilled = [answer for answer in crowd if answer.headers["x-kvgate-decision"] == "spilled"]
        assert [answer.status for answer in crowd] == [200] * 5
        assert len(spilled) == provider.served >= 3
        assert {answer.headers["x-kvgate-backend"] for answer in spilled} == {"novita"}
        await stand.ledger_is_zero()
        again = [await chat(stand) for _ in range(3)]
        assert {answer.headers["x-kvgate-decision"] for answer in again} == {"admitted"}
        assert len(spilled) == provider.served
        assert engine.engine.preemptions == 0


async def test_when_it_is_full_too_the_own_engine_serves(provider: Provider) -> None:
    """The provider answers 429 to one request; the others wait for the engine instead."""
    provider.requests_max = 0
    small = EngineOptions(model="m", kv_tokens=1024, speed=5, output_tokens_mean=20)
    async with (
        start_engine(small) as engine,
        gateway({"name": "own", "url": engine.url}, entry(provider, spill_only=True), environ=ENVIRON) as stand,
    ):
        await stand.until(lambda state: all(backend.state == "ready" for backend in state.backends))
        crowd = await asyncio.gather(*(chat(stand, max_tokens=300, ignore_eos=True) for _ in range(8)))
        statuses = Counter(answer.status for answer in crowd)
        assert statuses[200] + statuses[429] == 8
        assert statuses[200] >= 2
        assert all(is_retryable(answer) for answer in crowd if answer.status == 429)
        assert provider.limited <= statuses[429]


async def test_a_client_that_leaves_a_hosted_stream(provider: Provider) -> None:
    """Its place is given back."""
    provider.release.clear()
    async with gateway(entry(provider), environ=ENVIRON) as stand:
        stream = await stand.openai().chat.completions.create(model="m", messages=ASK, stream=True)
        assert (await stand.state()).live == 1
        await stream.close()
        await stand.ledger_is_zero()
