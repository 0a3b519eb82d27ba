"""The composition root: what a running gateway shows, and how it starts and stops."""

from __future__ import annotations

import asyncio
import io
import json
import math
import socket
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from gateway.app import run
from gateway.config import load_config
from gateway.reporting.families import GATEWAY, PREFIX
from gateway.simulation.server import RunningEngine, start_engine
from tests.cli.fake_engine import hybrid, serving
from tests.e2e.stand import SMALL, Stand, gateway, logs_into

CANARY = "the-canary-sings-at-dawn"


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as running:
        yield running


async def metrics(stand: Stand) -> dict[str, float]:
    """All samples, once the page is newer than everything that happened before."""
    await asyncio.sleep(1.1)  # Pages are made once a second at most.
    lines = (await stand.admin("/metrics")).body.decode().splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name and name[0] != "#"
    }


async def test_metrics_move(engine: RunningEngine) -> None:
    """Every family of the contract is on the page, and each request moves its counters once."""
    async with gateway(engine.url) as stand:
        for _ in range(3):
            assert (await stand.complete(max_tokens=5, ignore_eos=True)).status == 200
        assert (await stand.complete(max_tokens=5000)).status == 400
        assert (await stand.post("/v1/completions", b"{")).status == 400
        page = (await stand.admin("/metrics")).body.decode()
        assert [f.name for f in GATEWAY if f"# TYPE {PREFIX}{f.name}" not in page] == []
        seen = await metrics(stand)
        decision = PREFIX + 'admission_decisions_total{model_name="m",outcome="%s",priority="interactive",reason="%s"}'
        assert seen[decision % ("admitted", "ok")] == 3
        assert seen[decision % ("rejected", "too_large")] == 1
        assert seen[decision % ("rejected", "headroom")] == 0
        request = PREFIX + 'requests_total{backend="%s",code="%s",endpoint="/v1/completions",model_name="%s"}'
        assert seen[request % ("b0", 200, "m")] == 3
        assert seen[f'{PREFIX}generation_tokens_total{{backend="b0",model_name="m"}}'] == 15
        assert seen[f'{PREFIX}backend_kv_capacity_tokens{{backend="b0"}}'] == 1024
        assert seen[f'{PREFIX}backend_kv_headroom_tokens{{backend="b0"}}'] == 1024
        assert seen[f'{PREFIX}backend_up{{backend="b0"}}'] == 1


async def test_one_line_per_request_and_never_a_prompt(engine: RunningEngine) -> None:
    """Whatever became of it, a request has one line, and what it said is nowhere: not in logs, state or metrics."""
    async with gateway(engine.url) as stand:
        ids = [f"r-{number}" for number in range(5)]
        await stand.complete({"x-request-id": ids[0]}, prompt=CANARY, max_tokens=3)
        await stand.complete({"x-request-id": ids[1]}, prompt=CANARY, max_tokens=3, stream=True, user=CANARY)
        await stand.complete({"x-request-id": ids[2]}, prompt=CANARY, max_tokens=30_000)
        await stand.complete({"x-request-id": ids[3]}, prompt=CANARY, zzz=CANARY)
        await stand.post("/v1/completions", f'{{"model":"m","prompt":"{CANARY}'.encode(), {"x-request-id": ids[4]})
        lines = await stand.settled_log(5)
        assert [line["request_id"] for line in lines] == ids
        assert [line["code"] for line in lines] == [200, 200, 400, 400, 400]
        assert {"ts", "level", "event", "endpoint", "model", "backend", "outcome", "kv_tokens"} <= lines[0].keys()
        for path in ("/metrics", "/api/v1/state"):
            assert CANARY not in (await stand.admin(path)).body.decode()
        assert CANARY not in stand.log.getvalue()


async def test_headers_can_be_switched_off(engine: RunningEngine) -> None:
    """With `response_headers: false` nothing tells of the gateway's decisions; the request id stays."""
    async with gateway(engine.url, response_headers=False) as stand:
        for streamed in (True, False):
            answer = await stand.complete(max_tokens=2, stream=streamed)
            assert answer.status == 200
            assert [name for name in answer.headers if name.lower().startswith("x-kvgate")] == []
            assert answer.headers["x-request-id"]


async def test_the_state_shows_every_backend(engine: RunningEngine) -> None:
    """Kind, model and pool of each, as found out by asking; one that was never reached is cold."""
    async with gateway(engine.url, {"name": "gone", "url": "http://127.0.0.1:9"}) as stand:
        state = await stand.state()
        b0, gone = state.backend("b0"), state.backend("gone")
        assert (b0.kind, b0.state, b0.models, b0.capacity_tokens) == ("vllm", "ready", ["m"], 1024)
        assert (gone.kind, gone.state, gone.models, gone.capacity_tokens) == ("auto", "cold", [], 0)
        assert (await stand.admin("/health")).status == 200
        assert (await stand.admin("/nothing")).status == 404


async def test_formula_and_engine_are_compared() -> None:
    """State, metric and log tell which layout counts; a hybrid that nobody knows is a warning."""
    gemma, house = hybrid("google/gemma-3-27b-it"), hybrid("/models/house")
    with serving(gemma) as known, serving(house) as unknown, capture_logs() as lines:
        async with gateway(known, {"name": "house", "url": unknown}) as stand:
            backends = json.loads((await stand.admin("/api/v1/state")).body)["backends"]
            seen = await metrics(stand)
    layouts = {backend["name"]: backend["kv_layout"] for backend in backends}
    assert layouts["b0"]["described"] == "from catalogue google/gemma-3-27b-it"
    assert (layouts["b0"]["ratio"], layouts["b0"]["warning"]) == (1.0, None)
    assert layouts["house"]["described"] == "uniform"
    assert "over-admitted" in layouts["house"]["warning"]
    assert seen[f'{PREFIX}backend_kv_formula_ratio{{backend="b0"}}'] == 1
    assert math.isnan(seen[f'{PREFIX}backend_kv_formula_ratio{{backend="house"}}'])
    told = sorted((line["backend"], line["log_level"]) for line in lines if line["event"] == "kv_layout")
    assert told == [("b0", "info"), ("house", "warning")]


async def test_a_port_that_is_taken() -> None:
    """The start fails with an OSError, and what had been opened is closed again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = {"port": 0, "admin_port": taken.getsockname()[1]}
        tree = {"listen": listen, "backends": [{"url": "http://127.0.0.1:9"}]}
        with pytest.raises(OSError, match="address already in use"):
            async with run(load_config(overrides=tree, environ={}), logs_into(io.StringIO())):
                pytest.fail("it has started")


async def test_leaving_stops_at_once(engine: RunningEngine) -> None:
    """Who leaves without a drain cuts what runs: clients see a break, the engine is told, all within moments."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        async with gateway(engine.url, settles=False) as stand:
            engine.ignore_aborts(ignored=False)
            running = group.create_task(stand.http.post("/v1/completions", json={"model": "m", "prompt": "x"}))
            assert (await running).status == 200
            began = loop.time()
        assert loop.time() - began < 2
    await asyncio.wait_for(engine.idle(), 2)


async def test_mistakes_of_our_own_are_answered_too(engine: RunningEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody expected becomes a 500 in OpenAI's form, without a word about its cause."""

    def fail(*_args: object) -> None:
        raise ZeroDivisionError(CANARY)

    async with gateway(engine.url) as stand:
        monkeypatch.setattr("gateway.api.endpoints.parse_inference", fail)
        answer = await stand.complete()
        assert (answer.status, answer.error.code, answer.error.type) == (500, "internal_error", "server_error")
        assert CANARY not in answer.body.decode()
        assert answer.headers["x-request-id"]
        assert json.loads((await stand.get("/health")).body) == {"status": "ok"}
