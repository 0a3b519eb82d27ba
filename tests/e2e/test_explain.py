"""Explanations before and after the fact: a dry run agrees with the request, and the journal knows what came of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openai import APIStatusError, RateLimitError

from gateway.simulation.server import RunningEngine, start_engine
from tests.cli.command import kvgate
from tests.e2e.stand import SLOW, Stand, gateway
from tests.e2e.test_refusals import ASK, KEYS, full
from tests.hostile_bodies import HOSTILE

HEADERS = ("x-kvgate-decision", "x-kvgate-queue-ms", "x-request-id")
NO_QUEUE = {"queue": {"requests_max": 0}}


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SLOW) as running:
        yield running


async def estimate(stand: Stand, **fields: object) -> dict[str, object]:
    """The dry run of `ASK`."""
    question = {"endpoint": "/v1/completions", "body": ASK | fields}
    answer = await stand.post("/v1/estimate", question)
    assert answer.status == 200, answer.body
    told = json.loads(answer.body)
    assert isinstance(told, dict)
    return told


async def decision(stand: Stand, request_id: str) -> dict[str, object]:
    """The journal's entry."""
    answer = await stand.admin(f"/api/v1/decisions/{request_id}")
    assert answer.status == 200, answer.body
    entry = json.loads(answer.body)
    assert isinstance(entry, dict)
    return entry


async def test_what_is_predicted_comes_true(engine: RunningEngine) -> None:
    """Room, then none: the dry run has the numbers of the request that follows, and the engine never hears of it."""
    async with gateway(engine.url, admission=NO_QUEUE) as stand:
        free = await estimate(stand, max_tokens=5)
        assert (free["decision"], free["reason"], free["backend"], free["wait_s"]) == ("admit", "ok", "b0", 0.0)
        assert (free["prompt_tokens"], free["output_tokens"]) == (100, {"p50": 5, "p90": 5, "max": 5})
        assert (free["kv_tokens"], free["headroom_tokens"]) == ({"now": 112, "expected": 112, "max": 112}, 1024)
        served = await stand.post("/v1/completions", ASK | {"max_tokens": 5})
        assert served.headers["x-kvgate-backend"] == "b0"
        assert served.headers["x-kvgate-kv-tokens"] == "112"
        async with full(stand):
            told = await estimate(stand)
            refused = await stand.post("/v1/completions", ASK)
        assert (told["decision"], told["reason"], told["backend"]) == ("refuse", "headroom", None)
        assert isinstance(told["retry_after_s"], float)
        assert f"needs {told['kv_tokens']['expected']:,} KV-cache tokens" in refused.error.message  # type: ignore[index]
        never = await estimate(stand, max_tokens=5_000)
        assert (never["decision"], never["largest_max_tokens"]) == ("never_fits", 924)
        assert (await stand.state()).live == 0


async def test_hostile_questions(engine: RunningEngine) -> None:
    """A few of each kind, over the wire; the rest is the parser's."""
    async with gateway(engine.url) as stand:
        for row in HOSTILE[::25]:
            question = b'{"endpoint":"%b","body":%b}' % (row.endpoint.encode(), row.body)
            answer = await stand.post("/v1/estimate", question)
            assert (answer.status, answer.error.type) in [(code, "invalid_request_error") for code in (400, 404, 413)]
        unknown = {"endpoint": "/v1/embeddings", "body": {"model": "x", "input": "a"}}
        assert (await stand.post("/v1/estimate", unknown)).error.code == "model_not_found"


async def test_keys_are_asked_for(engine: RunningEngine) -> None:
    """And the tenant's own view is told: who has no key learns nothing."""
    tenants = [{"name": "a", "keys": ["env:KEY_A"]}]
    async with gateway(engine.url, tenants=tenants, environ=KEYS) as stand:
        question = {"endpoint": "/v1/completions", "body": ASK}
        assert (await stand.post("/v1/estimate", question)).error.code == "invalid_api_key"
        answer = await stand.post("/v1/estimate", question, {"Authorization": f"Bearer {KEYS['KEY_A']}"})
        assert json.loads(answer.body)["decision"] == "admit"


async def test_the_journal_knows_running_ended_and_refused_ones(engine: RunningEngine, tmp_path: Path) -> None:
    """By the id that the answer has; and the file has them too, once the gateway has ended."""
    path = tmp_path / "journal.jsonl"
    async with gateway(engine.url, admission=NO_QUEUE, journal={"path": str(path)}) as stand:
        async with full(stand, {"x-request-id": "hog"}):
            running = await decision(stand, "hog")
            assert (running["decision"], running["outcome"], running["backend"]) == ("admitted", "running", "b0")
            refused = await stand.post("/v1/completions", ASK)
        await stand.ledger_is_zero()
        served = await stand.post("/v1/completions", ASK | {"max_tokens": 5})
        assert (await decision(stand, "hog"))["outcome"] == "client_left"
        told = await decision(stand, refused.headers["x-request-id"])
        assert (told["decision"], told["reason"], told["need_tokens"]) == ("refused", "headroom", 512)
        assert isinstance(told["retry_after_s"], float)
        said_ms = int(refused.headers["retry-after-ms"])
        assert said_ms - 2 <= told["retry_after_s"] * 1000 <= said_ms + 1
        ended = await decision(stand, served.headers["x-request-id"])
        assert (ended["outcome"], ended["output_tokens"], ended["prompt_tokens"]) == ("finished", 5, 100)
        assert (ended["kv_tokens"], ended["max_tokens"], ended["model"]) == (112, 5, "m")
        newest = json.loads((await stand.admin("/api/v1/decisions?limit=2")).body)["decisions"]
        assert [entry["outcome"] for entry in newest] == ["finished", "kv_capacity_exhausted"]
        assert (await stand.admin("/api/v1/decisions/unknown")).status == 404
        assert (await stand.admin("/api/v1/decisions?limit=none")).status == 400
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["decision"] for line in lines] == ["refused", "admitted", "admitted"]
    assert "Hello" not in path.read_text()


async def test_a_disk_that_is_not_there_is_said_and_nothing_else(engine: RunningEngine, tmp_path: Path) -> None:
    async with gateway(engine.url, journal={"path": str(tmp_path / "missing" / "j.jsonl")}) as stand:
        answers = [await stand.post("/v1/completions", ASK | {"max_tokens": 2}) for _ in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        assert len(json.loads((await stand.admin("/api/v1/decisions")).body)["decisions"]) == 3


async def test_the_openai_client_sees_the_decision_in_errors_too(engine: RunningEngine) -> None:
    """Refused by us, or failed at an engine: headers tell which, and how long it had waited."""
    async with gateway(engine.url, admission=NO_QUEUE) as stand:
        client = stand.openai()
        async with full(stand):
            with pytest.raises(RateLimitError) as refused:
                await client.completions.create(model="m", prompt=[7] * 100, max_tokens=400)
        assert {name: refused.value.response.headers[name] for name in HEADERS[:2]} == {
            "x-kvgate-decision": "refused",
            "x-kvgate-queue-ms": "0",
        }
        assert "x-kvgate-backend" not in refused.value.response.headers
        assert refused.value.request_id
        assert refused.value.response.headers["x-should-retry"] == "true"
        await stand.ledger_is_zero()
    async with gateway(engine.url, mode="observe") as stand:
        with pytest.raises(APIStatusError) as failed:
            await stand.openai().completions.create(model="m", prompt=[7] * 100, max_tokens=5_000)
        headers = failed.value.response.headers
        assert (headers["x-kvgate-backend"], headers["x-kvgate-decision"]) == ("b0", "admitted")


async def test_headers_that_are_switched_off_are_off_everywhere(engine: RunningEngine) -> None:
    async with gateway(engine.url, admission=NO_QUEUE, response_headers=False) as stand:
        async with full(stand):
            refused = await stand.post("/v1/completions", ASK)
        assert refused.status == 429
        assert [name for name in refused.headers if name.lower().startswith("x-kvgate")] == []


async def test_the_command_asks_a_real_gateway(
    engine: RunningEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(ASK | {"max_tokens": 5}))
    async with gateway(engine.url) as stand:
        url, admin = stand.running.api_url, stand.running.admin_url
        asked = await asyncio.to_thread(kvgate, capsys, "explain", path, "--url", url)
        assert "It would be admitted now, to b0.\n" in asked.out
        served = await stand.post("/v1/completions", path.read_bytes())
        id_ = served.headers["x-request-id"]
        told = await asyncio.to_thread(kvgate, capsys, "explain", "--id", id_, "--admin", admin)
        assert f"{id_} was admitted at once, to b0.\n" in told.out
        gone = await asyncio.to_thread(kvgate, capsys, "explain", "--id", "gone", "--admin", admin)
        assert (gone.code, "no decision on this request is known" in gone.err) == (1, True)
