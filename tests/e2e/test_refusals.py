"""Refusals for want of room: the answer with its numbers, when to come back, and the books afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import SLOW, Answer, Stand, gateway, is_retryable
from tests.faults import refusing_url

KEYS = {"KEY_A": "sk-team-a", "KEY_B": "sk-team-b"}
HOG: dict[str, object] = {"model": "m", "prompt": [7] * 100, "max_tokens": 900, "ignore_eos": True, "stream": True}
"""Alone it fills the pool of `SLOW` for 11 s, or until its client leaves."""
ASK: dict[str, object] = {"model": "m", "prompt": [7] * 100, "max_tokens": 400, "ignore_eos": True}

WAITER = ASK | {"max_tokens": 20, "prompt": [7] * 920}
"""Does not fit beside it, and does not take long."""


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SLOW) as running:
        yield running


@asynccontextmanager
async def full(stand: Stand, headers: Mapping[str, str] | None = None) -> AsyncIterator[None]:
    """While the block lasts, somebody uses the whole pool."""
    async with stand.http.post("/v1/completions", json=dict(HOG), headers=headers) as hog:
        assert hog.status == 200
        await hog.content.readany()
        yield


def refused_for_room(answer: Answer, code: str) -> None:
    """The form that all of these refusals have."""
    assert (answer.status, answer.error.code, answer.error.type) == (429, code, "rate_limit_error")
    assert answer.error.param is None
    assert is_retryable(answer)
    assert answer.headers["x-kvgate-decision"] == "refused"
    assert answer.headers["x-request-id"]


async def test_no_room_and_no_queue(engine: RunningEngine) -> None:
    """429 at once: need and headroom are in the message, Retry-After tells when the pool will be free."""
    async with gateway(engine.url, admission={"queue": {"requests_max": 0}}) as stand:
        async with full(stand):
            refused = await stand.post("/v1/completions", ASK)
            refused_for_room(refused, "kv_capacity_exhausted")
            assert "needs 512 KV-cache tokens" in refused.error.message
            assert "of 1,024 are free" in refused.error.message
        await stand.ledger_is_zero()
        assert (await stand.post("/v1/completions", ASK | {"max_tokens": 5})).status == 200


async def test_a_hopeless_wait_is_not_begun(engine: RunningEngine) -> None:
    """Whoever would wait far longer than it may is told so at once; its own read timeout counts as such a bound."""
    async with gateway(engine.url) as stand, full(stand):
        loop = asyncio.get_running_loop()
        began = loop.time()
        refused = await stand.post("/v1/completions", ASK, {"x-stainless-read-timeout": "1"})
        refused_for_room(refused, "kv_capacity_exhausted")
        assert loop.time() - began < 0.9


async def test_the_queue_is_full(engine: RunningEngine) -> None:
    """One waits and is served in the end; for the next there is no place."""
    async with gateway(engine.url, admission={"queue": {"requests_max": 1, "wait_max_s": 60}}) as stand:
        async with asyncio.TaskGroup() as group, full(stand):
            waiter = group.create_task(stand.post("/v1/completions", WAITER))
            await stand.until(lambda state: state.waiting == 1)
            refused_for_room(await stand.post("/v1/completions", ASK), "queue_full")
        served = waiter.result()
        assert served.status == 200
        assert served.headers["x-kvgate-decision"] == "admitted_after_wait"
        assert int(served.headers["x-kvgate-queue-ms"]) > 0


CRAWLING = EngineOptions(model="m", kv_tokens=128, speed=0.1)
"""Far slower than what is predicted as long as its speed is not known."""
HALF: dict[str, object] = {"model": "m", "prompt": [7] * 16, "max_tokens": 60, "ignore_eos": True}
"""A little more than half of that pool."""


async def test_the_wait_takes_too_long() -> None:
    """The prediction said that it would do, the engine is slower than that: refused at the deadline."""
    queue = {"queue": {"wait_max_s": 1.2}}
    async with (
        start_engine(CRAWLING) as engine,
        gateway(engine.url, admission=queue) as stand,
        stand.http.post("/v1/completions", json=HALF | {"stream": True}),
    ):
        refused = await stand.post("/v1/completions", HALF)
        refused_for_room(refused, "queue_timeout")
        assert refused.error.message.startswith("No room within 1.2 s:")


async def test_a_tenant_over_its_share() -> None:
    """While others wait too, a tenant that has its share already is told that it is its share that is used up."""
    tenants = [{"name": "a", "keys": ["env:KEY_A"], "kv_share": 0.25}, {"name": "b", "keys": ["env:KEY_B"]}]
    a, b = ({"Authorization": f"Bearer {KEYS[name]}"} for name in ("KEY_A", "KEY_B"))
    async with (
        start_engine(CRAWLING) as engine,
        gateway(engine.url, tenants=tenants, environ=KEYS) as stand,
        stand.http.post("/v1/completions", json=HALF | {"stream": True}, headers=a),
    ):
        async with asyncio.TaskGroup() as group:
            limited = group.create_task(stand.post("/v1/completions", HALF, a | {"x-stainless-read-timeout": "1.2"}))
            await stand.until(lambda state: state.waiting == 1)
            other = group.create_task(stand.post("/v1/completions", HALF, b | {"x-stainless-read-timeout": "1.9"}))
        refused_for_room(limited.result(), "tenant_limit")
        assert "Your share" in limited.result().error.message
        refused_for_room(other.result(), "queue_timeout")


async def test_no_backend_left(engine: RunningEngine) -> None:
    """The only engine dies: 503 with a Retry-After once that is known, 502 at worst before."""
    async with gateway(engine.url) as stand:
        assert (await stand.post("/v1/completions", ASK | {"max_tokens": 5})).status == 200
        await engine.die()
        early = await stand.post("/v1/completions", ASK)
        assert early.status in (502, 503)
        await stand.until(lambda state: state.backends[0].state == "down")
        refused = await stand.post("/v1/completions", ASK)
        assert (refused.status, refused.error.code, refused.error.type) == (503, "no_backend", "server_error")
        assert is_retryable(refused)
        assert (await stand.get("/ready")).status == 200


async def test_whoever_waits_for_an_engine_that_dies_is_told(engine: RunningEngine) -> None:
    """Nobody waits for its deadline where there is nothing to wait for."""
    async with gateway(engine.url, settles=False) as stand:
        async with asyncio.TaskGroup() as group, full(stand):
            waiter = group.create_task(stand.post("/v1/completions", ASK))
            await stand.until(lambda state: state.waiting == 1)
            await engine.die()
        refused = waiter.result()
        assert (refused.status, refused.error.code) == (503, "no_backend")
        assert is_retryable(refused)
        state = await stand.state()
        assert (state.waiting, state.live, state.double_releases) == (0, 0, 0)


async def test_the_other_backend_takes_over(engine: RunningEngine) -> None:
    """A request that could not be delivered goes on to the next backend; its client notices nothing."""
    async with start_engine(SLOW) as doomed, gateway(doomed.url, engine.url) as stand:
        await stand.until(lambda state: all(backend.state == "ready" for backend in state.backends))
        await doomed.die()
        answers = [await stand.post("/v1/completions", ASK | {"max_tokens": 2}) for _ in range(4)]
        assert [answer.status for answer in answers] == [200] * 4
        assert {answer.headers["x-kvgate-backend"] for answer in answers} == {"b1"}


async def test_draining(engine: RunningEngine) -> None:
    """Whoever waits or comes is turned away with 503, what runs comes to its end; both `ready` pages say so."""
    async with gateway(engine.url) as stand:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(stand.post("/v1/completions", HOG | {"max_tokens": 120}))
            await stand.until(lambda state: state.live == 1)
            waiter = group.create_task(stand.post("/v1/completions", ASK | {"prompt": [7] * 850, "max_tokens": 100}))
            await stand.until(lambda state: state.waiting == 1)
            async with stand.http.post(f"{stand.running.admin_url}/-/drain") as accepted:
                assert accepted.status == 202
            refused = await stand.post("/v1/completions", ASK)
            assert (refused.status, refused.error.code, refused.error.type) == (503, "draining", "server_error")
            assert is_retryable(refused)
            assert (await stand.get("/ready")).status == 503
            assert (await stand.admin("/ready")).status == 503
            assert (await stand.get("/health")).status == 200
        assert waiter.result().error.code == "draining"
        assert running.result().body.endswith(b"data: [DONE]\n\n")
        assert (await stand.state()).draining


async def test_observe_mode_refuses_nothing(engine: RunningEngine) -> None:
    """What would have been refused goes through, and is counted under the reason that would have refused it."""
    async with gateway(engine.url, mode="observe", admission={"queue": {"requests_max": 0}}) as stand:
        async with full(stand):
            body = ASK | {"prompt": [7] * 480, "max_tokens": 30}
            crowd = await asyncio.gather(*(stand.post("/v1/completions", body) for _ in range(2)))
            large = await stand.post("/v1/completions", ASK | {"max_tokens": 1500})
        assert [answer.status for answer in crowd] == [200, 200]
        assert (large.status, large.error.type) == (400, "BadRequestError")  # The engine's own answer.
        page = (await stand.admin("/metrics")).body.decode().splitlines()
        decided = [line for line in page if "admission_decisions_total{" in line and not line.endswith(" 0.0")]
        assert any('outcome="admitted",priority="interactive",reason="headroom"' in line for line in decided)
        assert any('outcome="admitted",priority="interactive",reason="too_large"' in line for line in decided)
        assert not any('outcome="rejected"' in line for line in decided)


async def test_a_backend_that_is_down_at_the_start() -> None:
    """It does not stop the start, and it is used as soon as it is there."""
    url = refusing_url()
    async with gateway(url) as stand:
        answer = await stand.post("/v1/completions", ASK)
        assert (answer.status, answer.error.code, is_retryable(answer)) == (503, "no_backend", True)
        assert (await stand.state()).backends[0].state == "cold"
        async with start_engine(SLOW, port=int(url.rpartition(":")[2])):
            await stand.until(lambda state: state.backends[0].state == "ready")
            answer = await stand.post("/v1/completions", ASK | {"max_tokens": 2})
            assert json.loads(answer.body)["usage"]["completion_tokens"] == 2
            await stand.ledger_is_zero()
