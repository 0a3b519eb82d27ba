"""The simulated engine behind vLLM's HTTP: what clients and the gateway's real vLLM driver see of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from gateway.simulation import answers, requests, wire
from gateway.simulation.engine import Engine, EngineConfig
from gateway.simulation.exposition import Exposition, MetricsFault
from gateway.simulation.live import EngineDeadError, Generation, LiveEngine
from gateway.simulation.profiles import DEMO, Profile
from gateway.simulation.requests import Endpoint, VllmError

BODY_MAX_BYTES = 64 * 2**20
QUEUE_MAX = 65_536
"""Waiting sequences from which on new requests are turned away, as vLLM's `--max-num-queued-reqs` does."""
CONTEXT_DEFAULT = 8_192
SHUTDOWN_MAX_S = 0.5
VERSION: Final = "0.32.0"
DEAD: Final = (500, "InternalServerError", "EngineCore encountered an issue. See stack trace above for the root cause.")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


ACCEPT_TURNS = 5
"""A connection that was accepted just now becomes known a few turns of the event loop later."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What `kvgate engine` can be told. None means the profile's value."""

    model: str = "simulated"
    profile: Profile = DEMO
    kv_tokens: int | None = None
    """Usable pool; rounded down to whole blocks."""
    block_tokens: int = 16
    sequences_max: int | None = None
    step_tokens_max: int | None = None
    sequence_tokens_max: int | None = None
    """None: 8,192, or the pool if that is smaller."""
    speed: float = 1.0
    """Times faster than the profile."""
    output_tokens_mean: float = 200.0
    """Of answers that are not cut by `max_tokens`."""
    seed: int = 0

    def config(self) -> EngineConfig:
        """The engine that these options describe.

        Raises:
            ValueError: if it cannot exist.
        """
        if not self.speed > 0 or not self.output_tokens_mean >= 1 or self.block_tokens < 1:
            raise ValueError("speed must be above 0, the mean output and the block size at least 1 token")
        blocks = _given(self.kv_tokens, self.profile.kv_tokens) // self.block_tokens
        context = min(CONTEXT_DEFAULT, blocks * self.block_tokens)
        return EngineConfig(
            profile=self.profile,
            blocks=blocks,
            block_tokens=self.block_tokens,
            sequences_max=_given(self.sequences_max, self.profile.sequences_max),
            step_tokens_max=_given(self.step_tokens_max, self.profile.step_tokens_max),
            sequence_tokens_max=_given(self.sequence_tokens_max, context),
        )


class RunningEngine:
    """A serving engine, open to inspection. The faults are for tests; HTTP does not reach them."""

    def __init__(
        self,
        options: EngineOptions,
        live: LiveEngine,
        exposition: Exposition,
        runner: web.AppRunner,
        listening: socket.socket,
    ) -> None:
        self.options = options
        self._listening = listening
        self._live = live
        self._exposition = exposition
        self._runner = runner

    @property
    def engine(self) -> Engine:
        """The scheduler: its memory, queue and counters."""
        return self._live.engine

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        host, port, *_ = self._runner.addresses[0]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def busy(self) -> None:
        """Wait until the engine has work."""
        await self._live.busy()

    async def idle(self) -> None:
        """Wait until nothing runs, waits or holds memory. Aborted work counts as gone when its step has ended."""
        await self._live.idle()

    def break_metrics(self, fault: MetricsFault = MetricsFault.NONE, *, usage: float | None = None) -> None:
        """Fault: `/metrics` misleads in this way, or claims this usage. Without arguments it tells the truth again."""
        self._exposition.fault = fault
        self._exposition.reported_usage = usage

    def ignore_aborts(self, *, ignored: bool = True) -> None:
        """Fault: what a client that left had asked for runs on to its end and keeps its memory until then."""
        self._live.ignores_aborts = ignored

    def die_inside(self) -> None:
        """Fault: the engine dies under a server that lives on: error events in open streams, 500, unhealthy."""
        self._live.die()

    async def die(self) -> None:
        """Fault: as if the process were killed: no new connections, and the open ones are cut."""
        # Before the end nobody new: Python 3.11 leaks a connection that is accepted in that very moment.
        asyncio.get_running_loop().remove_reader(self._listening)
        await asyncio.sleep(0)
        for site in list(self._runner.sites):
            await site.stop()
        self._live.die()
        for _ in range(ACCEPT_TURNS):
            for connection in self._runner.server.connections if self._runner.server is not None else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await asyncio.sleep(0)


@asynccontextmanager
async def start_engine(
    options: EngineOptions | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningEngine]:
    """Serve a simulated engine for as long as the block lasts; port 0 takes a free one.

    Raises:
        ValueError: for options that describe no possible engine.
        OSError: if the port is taken.
    """
    options = options or EngineOptions()
    live = LiveEngine(Engine(options.config()), speed=options.speed)
    exposition = Exposition(live, model=options.model, started_unix_s=_unix_s())
    app = _Api(options, live, exposition).app()
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_MAX_S)
    await runner.setup()
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.settimeout(0)
        await web.SockSite(runner, listening).start()
        async with live.running():
            yield RunningEngine(options, live, exposition, runner, listening)
    finally:
        await runner.cleanup()


class _Api:
    """The routes."""

    def __init__(self, options: EngineOptions, live: LiveEngine, exposition: Exposition) -> None:
        self._options = options
        self._live = live
        self._exposition = exposition
        self._started = int(_unix_s())

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[_vllm_errors])
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completions),
                web.get("/v1/models", self._models),
                web.post("/tokenize", self._tokenize),
                web.get("/metrics", self._metrics),
                web.get("/health", self._health),
                web.get("/version", self._version),
            ]
        )
        return app

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, Endpoint.CHAT)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, Endpoint.COMPLETIONS)

    async def _generate(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        body = await _json_body(request)
        options, engine = self._options, self._live.engine
        limit = engine.config.sequence_tokens_max
        job = requests.parse(endpoint, body, model=options.model, sequence_tokens_max=limit)
        if engine.waiting >= QUEUE_MAX:
            raise VllmError(503, "Service Unavailable", "The engine's queue is full.")
        choices = answers.choose(job, body, seed=options.seed, output_tokens_mean=options.output_tokens_mean)
        reply = wire.Reply(
            id=f"{endpoint.value}-{request.headers.get('X-Request-Id') or uuid.uuid4().hex}",
            created=int(_unix_s()),
            model=options.model,
            job=job,
            choices=choices,
        )
        with self._live.generation(choices) as generation:
            if job.stream:
                return await _stream(request, reply, generation)
            while not generation.is_done:
                await generation.progress()
        return web.Response(body=reply.whole(), content_type="application/json")

    async def _models(self, _request: web.Request) -> web.Response:
        model = {
            "id": self._options.model,
            "object": "model",
            "created": self._started,
            "owned_by": "vllm",
            "root": self._options.model,
            "parent": None,
            "max_model_len": self._live.engine.config.sequence_tokens_max,
            "permission": [],
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        tokens = requests.tokenize(await _json_body(request), model=self._options.model)
        limit = self._live.engine.config.sequence_tokens_max
        return web.json_response({"count": len(tokens), "max_model_len": limit, "tokens": tokens, "token_strs": None})

    async def _metrics(self, _request: web.Request) -> web.Response:
        if self._exposition.fault is MetricsFault.ERROR:
            return web.Response(status=500, text="Internal Server Error")
        return web.Response(
            body=self._exposition.render(), headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"}
        )

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(status=503 if self._live.is_dead else 200)

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})


async def _stream(request: web.Request, reply: wire.Reply, generation: Generation) -> web.StreamResponse:
    """Write tokens as they come. A client that reads slowly gets several in one chunk; nothing is queued for it."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    sent = [0] * len(reply.choices)
    start = reply.stream_start()
    try:
        while not generation.is_done:
            await generation.progress()
            generated = list(generation.generated)
            await response.write(start + reply.stream_more(sent, generated))
            sent, start = generated, b""
        await response.write(reply.stream_end())
    except EngineDeadError:
        with contextlib.suppress(ConnectionError):  # Killed outright, it has no connection left to say so on.
            await response.write(wire.event(wire.error_body(*DEAD)) + wire.DONE)
            await response.write_eof()
        return response
    await response.write_eof()
    return response


async def _json_body(request: web.Request) -> bytes:
    if request.content_type != "application/json":
        raise VllmError(400, "Bad Request", "Unsupported Media Type: Only 'application/json' is allowed")
    return await request.read()


@web.middleware
async def _vllm_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in the shapes that vLLM gives them: its own as objects, those of its web framework as `detail`."""
    try:
        return await handler(request)
    except VllmError as error:
        body = wire.error_body(error.status, error.type, error.message, error.param)
        return web.json_response(body, status=error.status)
    except EngineDeadError:
        return web.json_response(wire.error_body(*DEAD), status=DEAD[0])
    except web.HTTPClientError as error:
        headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return web.json_response({"detail": error.reason}, status=error.status, headers=headers)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _unix_s() -> float:
    """Wall clock, for the fields and metrics of vLLM's protocol that are unix times; nothing is decided by it."""
    return time.time()  # noqa: TID251
