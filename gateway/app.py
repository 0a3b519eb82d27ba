"""The composition root: builds every room from the configuration and runs them together. Only this file knows all."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from gateway import __version__
from gateway.admin.routes import Admin
from gateway.admission.admission import Admission
from gateway.admission.events import BackendAdded, BackendMissed, BackendRead
from gateway.api.auth import KeyRing
from gateway.api.endpoints import Api, ApiServer, ApiSettings
from gateway.backends.backend import Backend
from gateway.backends.calibration import Calibration
from gateway.backends.engine import Fault
from gateway.config import Config
from gateway.gate import Gate
from gateway.pricing import Pricing
from gateway.relay import Relay, RelaySettings
from gateway.reporting.logs import Logs
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord
from gateway.telemetry.nvml import GpuReading, Nvml, watch
from gateway.telemetry.poller import ENGINE_PACE, LookEvent, Pace, poll
from gateway.tokens import ModelTokenizer, TokenCounters, read_tokenizer

TICK_S = 1.0
"""How often gauges are set and what is held is integrated."""
LAG_SAMPLE_S = 0.1
KEEPALIVE_S = 75.0
LINGER_S = 2.0
SHUTDOWN_MAX_S = 1.0
"""What still runs when the gateway is told to end at once may go on for so long."""
LINE_MAX_BYTES = 8190
HEADERS_MAX = 64
LISTEN_BACKLOG = 1024

log = structlog.get_logger()


@dataclass(slots=True)
class Running:
    """A gateway that serves."""

    gate: Gate
    backends: dict[str, Backend]
    api_url: str
    admin_url: str
    first_looks: dict[str, asyncio.Event]
    """Set once a backend was looked at, whatever came of it."""
    draining: bool = False

    def start_drain(self) -> None:
        """Turn away new requests; those that run may end."""
        if not self.draining:
            self.draining = True
            self.gate.start_drain()

    def kinds(self) -> dict[str, str]:
        """Kind of each backend, as far as known."""
        return {name: backend.kind for name, backend in self.backends.items()}

    def kv_layouts(self) -> dict[str, Calibration | None]:
        """How each backend's KV cache is counted, as far as known."""
        return {name: backend.calibration for name, backend in self.backends.items()}


class _Observer:
    """Hands what pollers see to admission, metrics and, once per change, to the log."""

    def __init__(self, running: Running, metrics: Metrics) -> None:
        self._running = running
        self._metrics = metrics
        self._told: dict[str, str] = {}
        self._models: dict[str, frozenset[str]] = {}
        self._layouts: dict[str, Calibration | None] = {}

    def on_look(self, event: LookEvent, duration_s: float) -> None:
        running = self._running
        running.gate.hear(event)
        match event:
            case BackendRead(reading):
                self._metrics.on_read(reading.backend, "metrics", duration_s)
                self._compare(reading.backend)
                self._tell(reading.backend, "")
                if self._models.get(reading.backend) != reading.models:
                    self._models[reading.backend] = reading.models
                    # Before its first request: metrics count what they do not know as another model.
                    self._metrics.refresh(running.gate.snapshot(), running.kinds())
                running.first_looks[reading.backend].set()
            case BackendMissed(backend):
                running.first_looks[backend].set()
            case BackendAdded():
                pass

    def on_telemetry_error(self, backend: str, source: str, reason: Fault, message: str) -> None:
        self._metrics.on_read_failed(backend, source, reason.value)
        self._tell(backend, f"{reason.value}: {message}")

    def _compare(self, backend: str) -> None:
        """How the formula for its KV cache agrees with what the engine states."""
        found = self._running.backends[backend].calibration
        if found is self._layouts.get(backend):
            return
        self._layouts[backend] = found
        self._metrics.on_kv_formula(backend, found.ratio if found else None)
        if found is not None:
            level = log.warning if found.warning else log.info
            level("kv_layout", backend=backend, layout=found.described, ratio=found.ratio, warning=found.warning)

    def _tell(self, backend: str, trouble: str) -> None:
        if trouble == self._told.get(backend, ""):
            return
        self._told[backend] = trouble
        if trouble:
            log.warning("backend_not_readable", backend=backend, trouble=trouble)
        else:
            log.info("backend_readable_again", backend=backend)


@contextlib.asynccontextmanager
async def run(config: Config, logs: Logs) -> AsyncIterator[Running]:
    """Run a gateway while the block runs. Leaving it stops everything at once; drain before, to stop gently.

    Raises:
        OSError: an address cannot be listened on.
        TokenizerError: a tokenizer cannot be used.
        ValueError, EstimatorError: a backend's settings make no sense.
    """
    loop = asyncio.get_running_loop()
    tokens = TokenCounters(await asyncio.to_thread(_tokenizers, config))
    backends = {settings.name: Backend(settings) for settings in config.backend_settings()}
    metrics = Metrics(
        {model for settings in config.backend_settings() for model in settings.models},
        version=__version__,
        config_sha256=config.fingerprint(),
        exceed_ratio_target=config.admission.risk,
    )
    gate = Gate(Admission(config.admission_limits()), loop, [metrics])
    for backend in backends.values():
        gate.hear(BackendAdded(backend.spec))
    first_looks = {name: asyncio.Event() for name in backends}
    running = Running(gate, backends, "", "", first_looks)
    relay = _relay(config, gate, backends, tokens, metrics, logs)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(tokens.close)
        for backend in backends.values():
            stack.push_async_callback(backend.aclose)
        await _listen(stack, running, config, _api(config, relay, running), _admin(running, metrics))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in _background(config, running, metrics)]
            try:
                yield running
            finally:
                for task in tasks:
                    task.cancel()


def _background(config: Config, running: Running, metrics: Metrics) -> Iterator[Coroutine[None, None, None]]:
    """Work that has no end of its own."""
    observer = _Observer(running, metrics)
    pace = Pace(config.telemetry.interval_s, ENGINE_PACE.retry_first_s, ENGINE_PACE.retry_max_s)
    for backend in running.backends.values():
        yield poll(backend, observer, engine_pace=pace)
    yield _tick(running, metrics)
    yield _sample_lag(metrics.on_loop_lag)
    if any(backend.gpus for backend in config.backends):
        yield _watch_gpus(config, metrics)


def _tokenizers(config: Config) -> dict[str, ModelTokenizer]:
    return {model: read_tokenizer(model, Path(path)) for model, path in config.tokenizers.items()}


def _relay(
    config: Config, gate: Gate, backends: dict[str, Backend], tokens: TokenCounters, metrics: Metrics, logs: Logs
) -> Relay:
    def on_record(record: RequestRecord) -> None:
        metrics.on_request(record)
        logs.request(record)

    settings = RelaySettings(
        queue_wait_max_s=config.admission.queue.wait_max_s,
        risk=config.admission.risk,
        headers=config.response_headers,
    )
    return Relay(gate, backends, Pricing(gate.learned), tokens, settings, on_record)


def _api(config: Config, relay: Relay, running: Running) -> web.Server:
    started_at = int(time.time())  # noqa: TID251  # a wall clock time that clients are shown
    settings = ApiSettings(int(config.input.body_bytes_max), config.parse_policy(), started_at)
    api = Api(relay, KeyRing(config.tenant_keys()), settings, lambda: running.draining)
    return _server(api, int(config.input.body_bytes_max))


def _server(api: Api, body_bytes_max: int) -> web.Server:
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=body_bytes_max)

    return ApiServer(
        api.handle,
        request_factory=make_request,
        # Without it a client that left keeps its place in the queue and its GPU.
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        lingering_time=LINGER_S,
        auto_decompress=False,
        max_line_size=LINE_MAX_BYTES,
        max_field_size=LINE_MAX_BYTES,
        max_headers=HEADERS_MAX,
        access_log=None,
    )


def _admin(running: Running, metrics: Metrics) -> web.Application:
    admin = Admin(
        metrics=metrics,
        snapshot=running.gate.snapshot,
        kinds=running.kinds,
        is_draining=lambda: running.draining,
        start_drain=running.start_drain,
        kv_layouts=running.kv_layouts,
    )
    return admin.app()


async def _listen(
    stack: contextlib.AsyncExitStack, running: Running, config: Config, api: web.Server, admin: web.Application
) -> None:
    listen = config.listen
    api_runner = web.ServerRunner(api, shutdown_timeout=SHUTDOWN_MAX_S)
    admin_runner = web.AppRunner(admin, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_MAX_S)
    for runner in (api_runner, admin_runner):
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
    running.api_url = await _site(api_runner, listen.host, listen.port)
    running.admin_url = await _site(admin_runner, listen.admin_host, listen.admin_port)


async def _site(runner: web.BaseRunner, host: str, port: int) -> str:
    site = web.TCPSite(runner, host, port, backlog=LISTEN_BACKLOG)
    await site.start()
    bound = runner.addresses[0][1]
    return f"http://{f'[{host}]' if ':' in host else host}:{bound}"


async def _tick(running: Running, metrics: Metrics) -> None:
    while True:
        metrics.refresh(running.gate.snapshot(), running.kinds())
        await asyncio.sleep(TICK_S)


async def _sample_lag(on_lag: Callable[[float], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_SAMPLE_S
        await asyncio.sleep(LAG_SAMPLE_S)
        on_lag(max(0.0, loop.time() - due))


async def _watch_gpus(config: Config, metrics: Metrics) -> None:
    owners = {gpu: backend.name for backend in config.backends for gpu in backend.gpus}

    def on_gpus(readings: tuple[GpuReading, ...]) -> None:
        for reading in readings:
            if reading.index in owners:
                metrics.on_gpu(
                    owners[reading.index],
                    reading.index,
                    used_bytes=reading.used_bytes,
                    total_bytes=reading.total_bytes,
                    utilization_ratio=reading.utilization_ratio,
                )

    await watch(Nvml(), on_gpus, lambda reason: log.warning("gpu_telemetry_off", reason=reason))
