"""Every error that a request causes by itself: its answer, that no engine heard of it, that nothing is kept for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import SMALL, Stand, gateway

CHAT = "/v1/chat/completions"
GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
KEYS = {"KEY_A": "sk-test-team-a"}
BODY_MAX_BYTES = 4 * 2**20


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as running:
        yield running


@pytest.fixture
async def stand(engine: RunningEngine) -> AsyncIterator[Stand]:
    async with gateway(engine.url) as stand:
        yield stand


async def test_a_request_that_can_never_fit(stand: Stand) -> None:
    """The message has the need, the capacity and the largest `max_tokens` that fits; with that it does."""
    body = {"model": "m", "prompt": [7] * 100, "max_tokens": 2000, "ignore_eos": True}
    refused = await stand.post("/v1/completions", body)
    assert (refused.status, refused.error.code) == (400, "context_length_exceeded")
    assert (refused.error.type, refused.error.param) == ("invalid_request_error", "max_tokens")
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    need, capacity, largest = (int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", refused.error.message))
    assert (need, capacity, largest) == (2112, 1024, 924)
    await stand.ledger_is_zero()
    fits = await stand.post("/v1/completions", body | {"max_tokens": largest})
    assert fits.status == 200
    assert json.loads(fits.body)["usage"]["completion_tokens"] == largest
    over = await stand.post("/v1/completions", body | {"max_tokens": largest + 1})
    assert over.status == 400
    no_use = await stand.post("/v1/completions", body | {"prompt": [7] * 1100})
    assert no_use.error.message.endswith("The prompt alone does not fit.")


async def test_n_answers_count_n_times(stand: Stand) -> None:
    """What fits once need not fit eight times; the largest `max_tokens` is for each of them."""
    body = {"model": "m", "prompt": [7] * 16, "max_tokens": 200, "ignore_eos": True}
    assert (await stand.post("/v1/completions", body)).status == 200
    eight = await stand.post("/v1/completions", body | {"n": 8})
    assert eight.error.code == "context_length_exceeded"
    largest = int(re.findall(r"<= ([\d,]+)", eight.error.message)[0])
    assert largest == 1024 // 8 - 16
    assert (await stand.post("/v1/completions", body | {"n": 8, "max_tokens": largest})).status == 200


async def test_clamp_cuts_the_answer_instead(engine: RunningEngine) -> None:
    """`never_fits: clamp` asks the engine for as much as fits; a prompt that does not fit is still refused."""
    async with gateway(engine.url, admission={"never_fits": "clamp"}) as stand:
        body = {"model": "m", "prompt": [7] * 100, "max_tokens": 2000, "ignore_eos": True}
        cut = await stand.post("/v1/completions", body)
        assert cut.status == 200
        assert json.loads(cut.body)["usage"]["completion_tokens"] == 924
        refused = await stand.post("/v1/completions", body | {"prompt": [7] * 1100})
        assert (refused.status, refused.error.code) == (400, "context_length_exceeded")


async def test_keys(engine: RunningEngine) -> None:
    """A missing, malformed and wrong key get one and the same 401; the right one opens. Health needs none."""
    tenants = [{"name": "team-a", "keys": ["env:KEY_A"]}]
    async with gateway(engine.url, tenants=tenants, environ=KEYS) as stand:
        bodies = set()
        for header in (None, "Bearer wrong", "Basic c2stdGVzdA==", "Bearer ", KEYS["KEY_A"]):
            headers = {} if header is None else {"Authorization": header}
            refused = await stand.post(CHAT, GOOD, headers)
            assert (refused.status, refused.error.code) == (401, "invalid_api_key")
            bodies.add(refused.body)
        assert len(bodies) == 1
        assert (await stand.get("/v1/models")).status == 401
        assert (await stand.get("/v1/models/m")).status == 401
        assert (await stand.get("/health")).status == 200
        good = {"Authorization": f"Bearer {KEYS['KEY_A']}"}
        assert (await stand.post(CHAT, GOOD, good)).status == 200
        assert (await stand.get("/v1/models", good)).status == 200
        high = await stand.post(CHAT, GOOD, good | {"x-kvgate-priority": "urgent"})
        assert (high.status, high.error.param) == (400, "x-kvgate-priority")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "unknown_url"),
        ("GET", "/metrics", 404, "unknown_url"),
        ("GET", "/api/v1/state", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),
        ("POST", "/v1//chat/completions", 404, "unknown_url"),
        ("POST", "/V1/chat/completions", 404, "unknown_url"),
        ("POST", "/v1/audio/speech", 404, "unknown_url"),
        ("POST", "/tokenize", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("PUT", CHAT, 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/m", 405, "method_not_allowed"),
        ("GET", "/v1/models/none", 404, "model_not_found"),
    ],
)
async def test_only_listed_paths_exist(stand: Stand, method: str, path: str, status: int, code: str) -> None:
    """Anything else is 404 or 405, with an OpenAI error."""
    async with stand.http.request(method, path, data=b"{}") as got:
        body = json.loads(await got.read())
        assert (got.status, body["error"]["code"]) == (status, code)
        assert got.headers["x-request-id"]


async def test_an_unknown_model(stand: Stand) -> None:
    """404, whatever else the request says."""
    refused = await stand.post(CHAT, GOOD | {"model": "gpt-none"})
    assert (refused.status, refused.error.code, refused.error.param) == (404, "model_not_found", "model")


async def test_too_large(stand: Stand) -> None:
    """By its declared length before it is read, and by what comes where none is declared."""
    declared = await stand.post(CHAT, b" " * (BODY_MAX_BYTES + 1))

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(BODY_MAX_BYTES // 2**18 + 1):
            yield b" " * 2**18

    async with stand.http.post(CHAT, data=endless()) as chunked:
        assert chunked.status == 413
        assert json.loads(await chunked.read())["error"]["code"] == "request_too_large"
    assert (declared.status, declared.error.code) == (413, "request_too_large")


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "x, gzip"])
async def test_an_encoded_body(stand: Stand, encoding: str) -> None:
    """415; it is never unpacked."""
    refused = await stand.post(CHAT, b"\x1f\x8b\x08", {"Content-Encoding": encoding})
    assert (refused.status, refused.error.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_what_is_no_good_http(stand: Stand, raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """400 as an OpenAI error that repeats nothing, then the connection is closed; no stack trace in the log."""
    host, port = stand.running.api_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert (await stand.get("/health")).status == 200
    assert caplog.records == []


async def test_a_fresh_gateway_knows_no_model() -> None:
    """With a backend that has never answered, its models are unknown; the gateway is healthy and ready all the same."""
    async with gateway("http://127.0.0.1:9") as stand:
        assert (await stand.post(CHAT, GOOD)).error.code == "no_backend"
        assert (await stand.get("/health")).status == 200
        assert (await stand.get("/ready")).status == 200
        assert json.loads((await stand.get("/v1/models")).body)["data"] == []


async def test_the_engines_context_is_a_limit_too() -> None:
    """A sequence longer than the engine takes is refused though the pool would hold it."""
    options = EngineOptions(model="m", kv_tokens=4096, sequence_tokens_max=256, speed=100)
    async with start_engine(options) as engine, gateway(engine.url) as stand:
        body = {"model": "m", "prompt": [7] * 100, "max_tokens": 200, "ignore_eos": True}
        refused = await stand.post("/v1/completions", body)
        assert refused.error.code == "context_length_exceeded"
        assert [int(n) for n in re.findall(r"\d+", refused.error.message)] == [300, 256, 156]
        assert (await stand.post("/v1/completions", body | {"max_tokens": 156})).status == 200
