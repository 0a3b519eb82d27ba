"""What a gateway knows that starts while its engines are at work: nothing, so it looks before it lets anybody in."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest

from gateway.app import run
from gateway.backends.backend import Backend
from gateway.config import load_config
from gateway.domain import Reading
from gateway.simulation.server import EngineOptions, start_engine
from tests.e2e.stand import SMALL, gateway, logs_into

BUSY = EngineOptions(model="m", kv_tokens=1024, speed=0.25)
"""48 ms for a step: who runs in it stays for the whole test."""
LEFT = {"prompt": [7] * 400, "max_tokens": 200, "ignore_eos": True, "stream": True}
"""25 blocks of 64, and 12 more at its end."""


async def test_nobody_is_let_in_before_the_first_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes meanwhile waits for it, and no engine hears of him before. Health is told at once."""
    asked, told = asyncio.Event(), asyncio.Event()
    read = Backend.read

    async def read_late(backend: Backend, now: float) -> Reading:
        asked.set()
        await told.wait()
        return await read(backend, now)

    monkeypatch.setattr(Backend, "read", read_late)
    async with start_engine(SMALL) as engine:
        tree = {"listen": {"port": 0, "admin_port": 0}, "backends": [{"url": engine.url}]}
        body = {"model": "m", "prompt": "x", "max_tokens": 2}
        async with (
            run(load_config(overrides=tree, environ={}), logs_into(io.StringIO())) as running,
            aiohttp.ClientSession(running.api_url) as http,
            asyncio.TaskGroup() as group,
        ):
            await asyncio.wait_for(asked.wait(), 8)
            early = group.create_task(http.post("/v1/completions", json=body))
            for path in ("/health", "/ready"):
                assert (await http.get(path)).status == 200
            assert (early.done(), engine.engine.generated_tokens) == (False, 0)
            told.set()
            assert (await early).status == 200


async def test_a_backend_that_never_answered_may_serve_any_model() -> None:
    """A model that nobody is known to serve is not said to be unknown, or its clients would not come again."""
    async with start_engine(SMALL) as engine, gateway("http://127.0.0.1:9", engine.url) as stand:
        answer = await stand.post("/v1/completions", {"model": "other", "prompt": "x"})
        assert (answer.status, answer.error.code, answer.headers["x-should-retry"]) == (503, "no_backend", "true")
        assert (await stand.complete(max_tokens=2)).status == 200


async def test_what_the_last_gateway_left_running_is_not_given_out_again() -> None:
    """It was killed, and the engine works on. The next one finds that, and lets in only what fits beside it."""
    async with start_engine(BUSY) as engine:
        engine.ignore_aborts()
        async with gateway(engine.url, settles=False) as first:
            await _until_first_token(first.running.api_url)
        used = engine.engine.used_blocks * 16
        assert used >= 400
        async with gateway(engine.url, admission={"queue": {"requests_max": 0}}) as second:
            backend = (await second.state()).backends[0]
            assert backend.foreign_tokens >= used
            assert backend.headroom_tokens <= 1024 - used
            large = await second.complete(prompt=[7] * 800, max_tokens=16)
            assert (large.status, large.error.code) == (429, "kv_capacity_exhausted")
            assert (await second.complete(prompt=[7] * 64, max_tokens=4)).status == 200
            assert engine.engine.preemptions == 0


async def _until_first_token(url: str) -> None:
    """Ask for a stream, and be gone after its beginning."""
    async with aiohttp.ClientSession(url) as http, http.post("/v1/completions", json={"model": "m", **LEFT}) as stream:
        assert (stream.status, (await stream.content.readline())[:5]) == (200, b"data:")
