"""The picker behind a real Envoy, by the example configuration: what clients see, and what is held for them."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from gateway.app import Running, run
from gateway.config import load_config
from gateway.epp.front import GrpcAddress, grpc_front
from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.stand import eventually, logs_into
from tests.live_ops.envoy import envoy

pytestmark = [pytest.mark.ops, pytest.mark.timeout(90)]

QUICK = EngineOptions(model="m", kv_tokens=4096, speed=50.0, output_tokens_mean=20)
SLOW = EngineOptions(model="m", kv_tokens=1024)
"""100 tokens take it 1.2 s."""
LONG = {"max_tokens": 900, "ignore_eos": True, "stream": True}
START_MAX_S = 15.0


@dataclass(frozen=True)
class Site:
    """Envoy, the picker and the engines."""

    running: Running
    http: aiohttp.ClientSession
    engines: tuple[RunningEngine, ...]
    log: io.StringIO

    def ask(self, **fields: object) -> aiohttp.client._RequestContextManager:
        """A completion, through Envoy."""
        body = json.dumps({"model": "m", "prompt": "Hello.", **fields}).encode()
        return self.http.post("/v1/completions", data=io.BytesIO(body))

    @property
    def live(self) -> int:
        """Requests that hold memory."""
        return sum(backend.requests for backend in self.running.gate.snapshot().backends)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(queue.depth for queue in self.running.gate.snapshot().queues)

    async def nothing_is_held(self) -> None:
        """Everything was given back, once."""
        await eventually(lambda: self.live + self.waiting == 0)
        snapshot = self.running.gate.snapshot()
        assert snapshot.double_releases == 0


@asynccontextmanager
async def site(folder: Path, *options: EngineOptions, **config: object) -> AsyncIterator[Site]:
    """Everything, in this process but for Envoy."""
    async with _engines(*options) as engines:
        backends = [{"name": f"b{number}", "url": engine.url} for number, engine in enumerate(engines)]
        tree = {"listen": {"admin_port": 0}, "telemetry": {"interval_s": 0.05}, "backends": backends, **config}
        parsed = load_config(overrides=tree, environ={})
        log = io.StringIO()
        async with run(parsed, logs_into(log), front=grpc_front(GrpcAddress(port=0))) as running:
            for looked in running.first_looks.values():
                await asyncio.wait_for(looked.wait(), START_MAX_S)
            async with envoy(running.api_url, folder) as url, aiohttp.ClientSession(url) as http:
                here = Site(running, http, engines, log)
                yield here
                await here.nothing_is_held()


@asynccontextmanager
async def _engines(*options: EngineOptions) -> AsyncIterator[tuple[RunningEngine, ...]]:
    if not options:
        yield ()
        return
    async with start_engine(options[0]) as first, _engines(*options[1:]) as others:
        yield (first, *others)


def error_of(body: bytes) -> Mapping[str, str]:
    """The error object of an answer."""
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error  # type: ignore[no-any-return]


def events_of(body: bytes) -> list[dict[str, object]]:
    """Events of a stream that is complete."""
    assert body.endswith(b"data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]


async def test_answers_whole_and_streamed(tmp_path: Path) -> None:
    """JSON and SSE pass, usage is learned, and both engines are used."""
    async with site(tmp_path, QUICK, QUICK) as here:
        seen = set()

        async def one(number: int) -> None:
            stream = number % 2 == 0
            options = {"stream_options": {"include_usage": True}} if number % 4 == 0 else {}
            async with here.ask(max_tokens=5, ignore_eos=True, stream=stream, **options) as answer:
                body = await answer.read()
                assert answer.status == 200, body
                seen.add(answer.headers["x-kvgate-backend"])
            if stream:
                events = events_of(body)
                assert [event for event in events if event.get("usage")] == events[5:]
                assert len(events) == 5 + (number % 4 == 0)
            else:
                assert json.loads(body)["usage"]["completion_tokens"] == 5

        async with asyncio.TaskGroup() as group:
            for number in range(24):
                group.create_task(one(number))
        assert seen == {"b0", "b1"}
        async with here.ask(max_tokens=200) as answer:
            assert answer.status == 200
        assert here.running.pricing.snapshot()[0].learnt >= 1


async def test_a_body_of_three_megabytes(tmp_path: Path) -> None:
    """It reaches the engine whole."""
    huge = EngineOptions(model="m", kv_tokens=4_000_000, sequence_tokens_max=4_000_000, speed=100_000.0)
    async with site(tmp_path, huge) as here:
        prompt = "four " * 600_000
        async with here.ask(prompt=prompt, max_tokens=3) as answer:
            body = await answer.read()
            assert answer.status == 200, body
        assert json.loads(body)["usage"]["prompt_tokens"] > 100_000
        async with here.ask(prompt="x" * (4 << 20)) as answer:
            assert answer.status == 413
            assert error_of(await answer.read())["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/completions", b"{", 400, "invalid_json"),
        ("/v1/completions", b'{"model":"other","prompt":"x"}', 404, "model_not_found"),
        ("/v1/completions", b'{"model":"m","prompt":"x","max_tokens":9000}', 400, "context_length_exceeded"),
        ("/v1/completions?x", b'{"model":"m","prompt":"x","nope":1}', 400, "unsupported_parameter"),
        ("/metrics", b"", 404, "unknown_url"),
    ],
)
async def test_what_is_wrong_with_a_request(tmp_path: Path, path: str, body: bytes, status: int, code: str) -> None:
    """Clients see the errors of the proxy."""
    async with site(tmp_path, QUICK) as here, here.http.post(path, data=body) as answer:
        assert answer.status == status
        assert error_of(await answer.read())["code"] == code


async def test_a_full_pool_means_429(tmp_path: Path) -> None:
    """With Retry-After; an abort frees the memory at once, and the next request gets it."""
    async with site(tmp_path, SLOW, admission={"queue": {"requests_max": 0}}) as here:
        async with here.ask(**LONG) as running:
            await running.content.readline()
            assert here.live == 1
            async with here.ask(**LONG) as refused:
                assert refused.status == 429
                assert 1 <= int(refused.headers["retry-after"]) <= 60
                assert int(refused.headers["retry-after-ms"]) <= 60_000
                assert refused.headers["x-should-retry"] == "true"
                assert error_of(await refused.read())["type"] == "rate_limit_error"
            running.close()
        await eventually(lambda: here.live == 0)
        await eventually(lambda: here.engines[0].engine.running == 0)
        async with here.ask(max_tokens=5) as again:
            assert again.status == 200


async def test_waiting_and_leaving_the_queue(tmp_path: Path) -> None:
    """Who waits is let in when there is room; who leaves while waiting is gone at once."""
    async with site(tmp_path, SLOW) as here:
        async with here.ask(**LONG | {"max_tokens": 700}) as running:
            await running.content.readline()

            async def ask() -> tuple[int, str]:
                async with here.ask(**LONG | {"max_tokens": 600}) as answer:
                    return answer.status, answer.headers["x-kvgate-decision"]

            loop = asyncio.get_running_loop()
            leaves, stays = loop.create_task(ask()), loop.create_task(ask())
            await eventually(lambda: here.waiting == 2)
            leaves.cancel()
            await eventually(lambda: here.waiting == 1)
            running.close()
        assert await stays == (200, "admitted_after_wait")


async def test_an_engine_that_died(tmp_path: Path) -> None:
    """Envoy cannot connect: its client gets a 503, and the place is left."""
    async with site(tmp_path, QUICK, telemetry={"interval_s": 60}) as here:
        await here.engines[0].die()
        async with here.ask(max_tokens=5) as answer:
            assert answer.status == 503
        await eventually(lambda: here.log.getvalue() != "")
        (line,) = map(json.loads, here.log.getvalue().splitlines())
        # Envoy may give up its stream while the body is still on its way to it: then it tells no reason.
        assert (line["code"], line.get("upstream_failures", [])) in ((503, ["b0:connect"]), (499, []))


async def test_without_the_picker_nothing_passes(tmp_path: Path) -> None:
    """It is killed: those on their way are cut, those that come get 503, until there is a picker again."""
    async with start_engine(SLOW) as engine, _picker(engine.url) as (picker, address):
        async with envoy(address, tmp_path) as url, aiohttp.ClientSession(url) as http:
            body = {"model": "m", "prompt": "x", **LONG}
            async with http.post("/v1/completions", json=body) as running:
                assert running.status == 200
                await running.content.readline()
                picker.kill()
                await picker.wait()
                with pytest.raises(aiohttp.ClientError):
                    await running.read()
                for _ in range(5):
                    async with http.post("/v1/completions", json=body) as refused:
                        assert refused.status == 503
                        assert b"[DONE]" not in await refused.read()
        await eventually(lambda: engine.engine.running == 0)


@asynccontextmanager
async def _picker(url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The command as a process, and its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "epp", url, "--grpc-port", "0", "--admin-port", "0", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        text = b""
        async with asyncio.timeout(START_MAX_S):
            while not text.endswith(b"\n}\n"):
                text += await process.stdout.readline()
        yield process, json.loads(text)["grpc"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
