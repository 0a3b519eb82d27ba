"""The composition root: builds every room from the configuration and runs them together. Only this file knows all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import structlog
from aiohttp import web

from gateway import __version__
from gateway.admin.control import Control, add_control
from gateway.admin.routes import Admin
from gateway.admission.admission import Admission
from gateway.admission.events import BackendAdded, BackendMissed, BackendRead, LimitsChanged
from gateway.backends.backend import Backend
from gateway.backends.calibration import Calibration
from gateway.backends.engine import Fault
from gateway.config import Config, ConfigError
from gateway.config.listen import Listen
from gateway.config.load import admin_faults
from gateway.config.source import ConfigSource
from gateway.descriptors import files_max, places
from gateway.fleet import Fleet
from gateway.front import Front, Parts
from gateway.gate import Gate
from gateway.http_front import SHUTDOWN_MAX_S, listen_at, serve_http
from gateway.learned_file import LearnedFile
from gateway.pricing import Pricing
from gateway.relay import RelaySettings
from gateway.reload import Reloader, listener_tls, tell_certificate
from gateway.reporting.gathered import Gathered
from gateway.reporting.journal import Journal
from gateway.reporting.journal_file import open_journal
from gateway.reporting.logs import Logs
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord
from gateway.shared_ledger.sharing import SharedLedger, open_ledger
from gateway.shedding import Shedding
from gateway.systemd import keep_watchdog_quiet
from gateway.telemetry.nvml import GpuReading, Nvml, watch
from gateway.telemetry.poller import LookEvent
from gateway.tokens import ModelTokenizer, TokenCounters, read_tokenizer
from gateway.vitals import watch_vitals

TICK_S = 1.0
"""How often gauges are set and what is held is integrated."""

log = structlog.get_logger()


@dataclass(slots=True)
class Running:
    """A gateway that serves."""

    config: Config
    """In effect now: a reload may put another in its place."""
    gate: Gate
    fleet: Fleet
    pricing: Pricing
    api_url: str = ""
    admin_url: str = ""
    draining: bool = False
    reloader: Reloader = field(init=False)
    ledger: SharedLedger | None = None
    """Kept with other gateways."""
    shedding: Shedding = field(default_factory=Shedding)
    leavers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """See `Parts`."""

    @property
    def backends(self) -> dict[str, Backend]:
        """By name."""
        return self.fleet.backends

    @property
    def first_looks(self) -> dict[str, asyncio.Event]:
        """Set once a backend was looked at, whatever came of it."""
        return self.fleet.first_looks

    async def hand_over(self) -> None:
        """Leave the sockets that were passed to whoever serves them next; those who are connected are still served."""
        await asyncio.gather(*(leave() for leave in self.leavers))

    def start_drain(self) -> None:
        """Turn away new requests; those that run may end."""
        if not self.draining:
            self.draining = True
            self.gate.start_drain()

    async def reloaded(self) -> dict[str, object]:
        """Reload, and tell what came of it, ready for JSON."""
        return (await self.reloader.outcome()).plain

    def ledger_state(self) -> dict[str, object]:
        """How room is shared with other gateways, ready for JSON."""
        return asdict(self.ledger.state()) if self.ledger is not None else {"mode": "local"}

    def admin_token_sha256(self) -> bytes | None:
        """Of what the admin port asks for; None: it asks for nothing."""
        token = self.config.listen.admin_token
        return token.sha256 if token is not None else None

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
                for model, lengths in reading.answer_lengths:
                    if model in reading.models:
                        running.pricing.seed(model, lengths)
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
async def run(
    config: Config,
    logs: Logs,
    passed: Mapping[str, socket.socket] = MappingProxyType({}),
    front: Front = serve_http,
    source: ConfigSource | None = None,
) -> AsyncIterator[Running]:
    """Run a gateway while the block runs. Leaving it stops everything at once; drain before, to stop gently.

    Args:
        config: what to run.
        logs: where it says what happens.
        passed: sockets that listen already, `api` and `admin`; each takes the place of its configured address.
        front: what requests come through.
        source: where the configuration came from; None: it cannot be read again.

    Raises:
        ConfigError: a certificate cannot be used, or the admin port was passed and needs a token.
        OSError: an address cannot be listened on.
        TokenizerError: a tokenizer cannot be used.
        ValueError, EstimatorError: a backend's settings make no sense.
    """
    if "admin" in passed and (faults := tuple(admin_faults(config, passed["admin"].getsockname()[0]))):
        raise ConfigError(*faults)
    tokens = TokenCounters(await asyncio.to_thread(_tokenizers, config))
    certificates = await asyncio.to_thread(listener_tls, config)
    metrics = metrics_of(config)
    for key, certificate in certificates.items():
        tell_certificate(metrics, key, certificate)
    gathered = Gathered(asyncio.get_running_loop(), metrics, logs)
    running = await _running(config, metrics, gathered)
    learned = LearnedFile(Path(config.state.path)) if config.state.path else None
    if learned is not None:
        await learned.restore(running.pricing)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(gathered.close)
        stack.callback(tokens.close)
        kept = config.journal
        opened = open_journal(kept.path, bytes_max=int(kept.bytes_max), keep=kept.keep)
        journal = await stack.enter_async_context(opened)
        tls = {key: certificate.context for key, certificate in certificates.items()}
        parts = _parts(config, running, tokens, metrics, gathered, journal, passed.get("api"), tls.get("tls"))
        stack.push_async_callback(running.fleet.aclose)
        adopt = _adopter(running, parts, logs)
        running.reloader = Reloader(config, source, running.fleet, metrics, certificates, adopt)
        running.api_url = await stack.enter_async_context(front(parts))
        admin = _admin(running, metrics, journal)
        running.admin_url = await stack.enter_async_context(
            _serving_admin(admin, config.listen, passed.get("admin"), tls.get("admin_tls"))
        )
        async with asyncio.TaskGroup() as group:
            running.fleet.start(group, _Observer(running, metrics))
            tasks = [group.create_task(work) for work in _background(config, running, metrics, learned)]
            try:
                yield running
            finally:
                running.fleet.stop()
                for task in tasks:
                    task.cancel()


def metrics_of(config: Config) -> Metrics:
    """Metrics, before anything was counted."""
    return Metrics(
        {model for settings in config.backend_settings() for model in settings.models},
        version=__version__,
        config_sha256=config.fingerprint(),
        exceed_ratio_target=config.admission.risk,
        tenants=config.shown_tenants(),
    )


async def _running(config: Config, metrics: Metrics, gathered: Gathered) -> Running:
    """The gate and what is behind it, before anything listens."""
    gate = Gate(Admission(config.admission_limits()), asyncio.get_running_loop(), [gathered])
    running = Running(config, gate, Fleet(gate, config.telemetry.interval_s), Pricing(gate.learned, gathered))
    if (shared := config.ledger.settings()) is not None:
        observe, told = config.mode == "observe", metrics.ledger("degraded")
        running.ledger = await asyncio.to_thread(open_ledger, shared, gate, told, observe=observe)
    for settings in config.backend_settings():
        running.fleet.add(settings, Backend(settings))
    return running


@contextlib.asynccontextmanager
async def _serving_admin(
    app: web.Application, listen: Listen, passed: socket.socket | None, tls: ssl.SSLContext | None
) -> AsyncIterator[str]:
    """Serve the admin port while the block runs; gives its URL."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_MAX_S)
    await runner.setup()
    try:
        yield await listen_at(runner, listen.admin_host, listen.admin_port, passed, tls)
    finally:
        await runner.cleanup()


def _background(
    config: Config, running: Running, metrics: Metrics, learned: LearnedFile | None
) -> Iterator[Coroutine[None, None, None]]:
    """Work that has no end of its own."""
    yield running.reloader.serve()
    yield running.reloader.watch()
    yield _tick(running, metrics)
    yield watch_vitals(running.shedding, metrics.on_loop_lag)
    yield keep_watchdog_quiet()
    if running.ledger is not None:
        yield running.ledger.run()
    if learned is not None:
        yield learned.keep(running.pricing, config.state.save_every_s)
    yield _watch_gpus(running, metrics)


def _adopter(running: Running, parts: Parts, logs: Logs) -> Callable[[Config], None]:
    """Puts a reloaded configuration into effect."""

    def adopt(config: Config) -> None:
        before, running.config = running.config, config
        if config.admission_limits() != before.admission_limits():
            running.gate.hear(LimitsChanged(config.admission_limits()))
            parts.metrics.on_risk(config.admission.risk)
        if config.log != before.log:
            logs.tune(config.log.level, config.log.admitted_share)
        renewed = replace(parts, config=config, settings=relay_settings(config))
        for successor in parts.successors:
            successor(renewed)

    return adopt


def _tokenizers(config: Config) -> dict[str, ModelTokenizer]:
    return {model: read_tokenizer(model, Path(path)) for model, path in config.tokenizers.items()}


def _parts(
    config: Config,
    running: Running,
    tokens: TokenCounters,
    metrics: Metrics,
    gathered: Gathered,
    journal: Journal,
    passed: socket.socket | None,
    tls: ssl.SSLContext | None,
) -> Parts:
    def on_record(record: RequestRecord) -> None:
        gathered.on_record(record)
        journal.ended(record)

    return Parts(
        config=config,
        gate=running.gate,
        backends=running.backends,
        pricing=running.pricing,
        tokens=tokens,
        metrics=metrics,
        settings=relay_settings(config),
        on_record=on_record,
        on_admitted=journal.admitted,
        is_draining=lambda: running.draining,
        passed=passed,
        places=places(files_max()),
        shedding=running.shedding,
        leavers=running.leavers,
        tls=tls,
    )


def relay_settings(config: Config) -> RelaySettings:
    """What the relay is to do besides its duty."""
    return RelaySettings(
        queue_wait_max_s=config.admission.queue.wait_max_s,
        slos=config.slos(),
        risk=config.admission.risk,
        headers=config.response_headers,
    )


def _admin(running: Running, metrics: Metrics, journal: Journal) -> web.Application:
    admin = Admin(
        metrics=metrics,
        snapshot=running.gate.snapshot,
        kinds=running.kinds,
        is_draining=lambda: running.draining,
        start_drain=running.start_drain,
        kv_layouts=running.kv_layouts,
        journal=journal,
        mode=lambda: running.config.mode,
        ledger=running.ledger_state,
        token_sha256=running.admin_token_sha256,
    )
    app = admin.app()
    add_control(app, Control(running.reloaded, running.fleet.drain, running.fleet.resume))
    return app


async def _tick(running: Running, metrics: Metrics) -> None:
    while True:
        running.pricing.refresh(time.time())  # noqa: TID251  # a wall clock time that metrics show
        await asyncio.sleep(0)  # Requests go first: all of this together would stop them for milliseconds.
        metrics.refresh(running.gate.snapshot(), running.kinds())
        for shown in running.pricing.snapshot():
            metrics.on_prediction(shown.model, {q.q: q.coverage for q in shown.quantiles}, shown.fitted_at)
        await asyncio.sleep(TICK_S)


async def _watch_gpus(running: Running, metrics: Metrics) -> None:
    def owners() -> dict[int, str]:
        return {gpu: backend.name for backend in running.config.backends for gpu in backend.gpus}

    def on_gpus(readings: tuple[GpuReading, ...]) -> None:
        owned = owners()
        for reading in readings:
            if reading.index in owned:
                metrics.on_gpu(
                    owned[reading.index],
                    reading.index,
                    used_bytes=reading.used_bytes,
                    total_bytes=reading.total_bytes,
                    utilization_ratio=reading.utilization_ratio,
                )

    while not owners():  # noqa: ASYNC110  # a reload may name the first
        await asyncio.sleep(TICK_S)
    await watch(Nvml(), on_gpus, lambda reason: log.warning("gpu_telemetry_off", reason=reason))
