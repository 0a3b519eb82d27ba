import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from gateway.backends.backend import Backend
from gateway.backends.engine import Fault, TelemetryError
from gateway.backends.failures import BUSY_DEFAULT_S, refusal
from gateway.backends.openai_provider import OpenAiProvider
from gateway.backends.pool import StatedPool
from gateway.backends.settings import BackendSettings
from tests.backends.pages import UNSTATED, Page, Pages

KEY = "sk_secret"
MODEL = "deepseek/deepseek-v3.2"
LISTING = {
    "data": [
        {
            "created": 1764000000,
            "id": MODEL,
            "object": "model",
            "title": "DeepSeek V3.2",
            "description": "…",
            "context_size": 163840,
            "input_token_price_per_m": 2690,
            "output_token_price_per_m": 4000,
        }
    ]
}


def provider(models: dict[str, str] | None = None, stated: StatedPool = UNSTATED) -> OpenAiProvider:
    """A driver under test."""
    return OpenAiProvider("hosted", models or {}, stated)


@asynccontextmanager
async def novita() -> AsyncIterator[str]:
    """Novita as documented: its paths, fields, 401 without the key, and a 429 without Retry-After."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response(LISTING) if _authorised(request) else _error(401, "INVALID_API_KEY")

    async def chat(request: web.Request) -> web.Response:
        return _error(429, "RATE_LIMIT_EXCEEDED") if _authorised(request) else _error(401, "INVALID_API_KEY")

    app = web.Application()
    app.router.add_get("/openai/v1/models", models)
    app.router.add_post("/openai/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/openai"
    finally:
        await runner.cleanup()


def _authorised(request: web.Request) -> bool:
    return request.headers.get("Authorization") == f"Bearer {KEY}"


def _error(status: int, reason: str) -> web.Response:
    return web.json_response({"code": status, "reason": reason, "message": reason, "metadata": {}}, status=status)


@pytest.mark.parametrize("suffix", ["", "/v1"])
async def test_novita_over_http(suffix: str) -> None:
    """The key is taken, the base URL may end in /v1 or not, and contexts and prices are known."""
    async with novita() as url:
        backend = Backend(BackendSettings("novita", url + suffix, "openai", models={"deepseek": MODEL}, api_key=KEY))
        reading = await backend.read(1.0)
        await backend.aclose()
    assert reading.models == {"deepseek"}
    assert (reading.capacity, backend.hosted) == (None, True)
    assert backend.engine_model("deepseek") == MODEL
    model = backend.listed[0]
    assert (model.context_tokens, model.input_price_per_million, model.output_price_per_million) == (163840, 2690, 4000)


async def test_novita_refuses_a_wrong_key() -> None:
    """The operator is told where to look; the key is in no message."""
    async with novita() as url:
        backend = Backend(BackendSettings("novita", url, "openai", api_key="sk_wrong"))
        with pytest.raises(TelemetryError, match="api_key") as error:
            await backend.read(1.0)
        await backend.aclose()
    assert "sk_wrong" not in str(error.value)


async def test_novitas_429_makes_it_busy() -> None:
    """Without a Retry-After it is left alone for the default time, and the client is told the same."""
    async with novita() as url:
        backend = Backend(BackendSettings("novita", url, "openai", api_key=KEY))
        body = json.dumps({"model": MODEL, "messages": []}).encode()
        headers = backend.headers("r-1", stream=False)
        async with asyncio.timeout(5), backend.exchange("/v1/chat/completions", headers, body) as exchange:
            head = await exchange.head()
            answer = refusal(head.status, await exchange.read(4096))
        await backend.aclose()
    assert (answer.error.status, answer.busy_for_s, answer.error.retry_after_s) == (429, BUSY_DEFAULT_S, BUSY_DEFAULT_S)


async def test_models_as_listed_or_as_configured() -> None:
    """Without a mapping all that is listed is served; with one, that alone, listed or not."""
    pages = Pages({"/v1/models": json.dumps(LISTING).encode()})
    assert (await provider().read(pages, 0.0)).models == {MODEL}
    assert (await provider({"alias": "not-listed"}).read(pages, 0.0)).models == {"alias"}


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_provider_without_a_list(status: int) -> None:
    """What the operator configured stands; without that there is nothing to serve."""
    pages = Pages({"/v1/models": (status, b"")})
    assert (await provider({"a": "b"}).read(pages, 0.0)).models == {"a"}
    with pytest.raises(TelemetryError):
        await provider().read(pages, 0.0)


@pytest.mark.parametrize("page", [(429, b""), (500, b""), b"{}", b"x"])
async def test_other_answers_are_of_no_use(page: Page) -> None:
    """A provider in trouble is not taken for a healthy one."""
    with pytest.raises(TelemetryError) as error:
        await provider({"a": "b"}).read(Pages({"/v1/models": page}), 0.0)
    assert error.value.reason in (Fault.MISSING_METRIC, Fault.PARSE)


async def test_an_engine_of_unknown_kind_with_a_stated_pool() -> None:
    """It is not hosted: the ledger keeps its books, without telemetry to correct them."""
    driver = provider({"a": "b"}, StatedPool(capacity_tokens=4096, block_size=16))
    reading = await driver.read(Pages({"/v1/models": json.dumps(LISTING).encode()}), 0.0)
    assert driver.hosted is False
    assert reading.capacity is not None
    assert (reading.capacity.tokens, reading.used_blocks) == (4096, None)
