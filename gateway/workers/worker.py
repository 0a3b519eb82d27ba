"""A worker: the HTTP front and the relay in a process of their own, in front of the owner's decisions."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from estimator import EstimatorError
from gateway.app import metrics_of, relay_settings
from gateway.backends.backend import Backend
from gateway.config import Config, ConfigError
from gateway.descriptors import files_max, places, raise_files_max
from gateway.event_loop import collect_seldom, loop_factory
from gateway.front import Parts
from gateway.gate import Gate
from gateway.http_front import serve_http
from gateway.learned_file import restore
from gateway.reload import listener_tls
from gateway.reporting.logs import configure
from gateway.reporting.record import RequestRecord
from gateway.shedding import Shedding
from gateway.tokens import TokenCounters, TokenizerError, read_tokenizer
from gateway.vitals import watch_vitals
from gateway.workers.channel import Channel
from gateway.workers.messages import (
    Admitted,
    Begun,
    Built,
    Cleared,
    Considered,
    Cut,
    Died,
    Ended,
    Finish,
    Lag,
    Learned,
    Opened,
    Refused,
    Retire,
    Setup,
    State,
    ToWorker,
)
from gateway.workers.remote_admission import RemoteAdmission
from gateway.workers.remote_pricing import RemotePricing
from gateway.workers.remote_quarantine import RemoteQuarantine

CUT_MAX_S = 1.0
"""For so long, clients can be told that their streams end when the owner is gone."""

log = structlog.get_logger()


def main(channel_fd: int, listening_fd: int) -> None:
    """Work until the owner says so, or is gone."""
    for signal_ in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_, signal.SIG_IGN)  # A terminal sends them to everybody; the owner decides.
    collect_seldom()
    raise_files_max()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        status = runner.run(_work(socket.socket(fileno=channel_fd), socket.socket(fileno=listening_fd)))
    sys.exit(status)


async def _work(end: socket.socket, listening: socket.socket) -> int:
    """Returns the process's exit status."""
    worker = Worker()
    await worker.channel.open(end, worker.take)
    setup = await worker.setup
    if setup is None:
        return 0
    try:
        config = Config.referred(setup, os.environ)
    except ValueError as error:  # A secret is not there any more; it is not known yet how to log that.
        sys.stderr.write(f"A worker cannot start: {error}\n")
        return 1
    logs = configure(config.log.level, config.log.format, admitted_share=config.log.admitted_share)
    try:
        await worker.serve(config, listening)
    except (ConfigError, TokenizerError, EstimatorError, OSError, ValueError) as error:
        log.error("worker_not_started", trouble=str(error))  # noqa: TRY400  # a sentence, not a traceback
        return 1
    finally:
        logs.close()
    return 0


class Worker:
    """What a worker knows, and what it does with its owner's messages."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.setup: asyncio.Future[bytes | None] = loop.create_future()
        """The configuration; None: there is nothing to do."""
        self.channel = Channel(msgspec.msgpack.Decoder(ToWorker), self._finish)
        self.admission = RemoteAdmission(self.channel.send)
        self.gate = Gate(self.admission, loop)
        self.pricing = RemotePricing(self.channel.send)
        self.backends: dict[str, Backend] = {}
        self.quarantine = RemoteQuarantine(self.channel.send)
        self._shedding = Shedding()
        self._untold: dict[str, Callable[[], RequestRecord]] = {}
        """Requests that were admitted since the last sign of life: most are over before the next, and told of once."""
        self._known = asyncio.Event()
        self._end = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        """Of the end."""
        self._is_draining = False
        self._is_hurried = False

    async def serve(self, config: Config, listening: socket.socket) -> None:
        """Serve on a socket until told otherwise.

        Raises:
            ConfigError, TokenizerError, ValueError, EstimatorError: something cannot be used that the owner could.
        """
        self.backends |= {settings.name: Backend(settings) for settings in config.backend_settings()}
        tokenizers = {model: read_tokenizer(model, Path(path)) for model, path in config.tokenizers.items()}
        tokens = TokenCounters(tokenizers)
        try:
            await self._open(self._parts(config, tokens, listening))
        finally:
            tokens.close()
            for backend in self.backends.values():
                await backend.aclose()
            self.channel.close()

    async def _open(self, parts: Parts) -> None:
        self.channel.send(Built())
        await self._known.wait()
        async with asyncio.TaskGroup() as group:
            vitals = group.create_task(watch_vitals(parts.shedding, self._give_sign))
            async with serve_http(parts):
                self.channel.send(Opened())
                with suppress(TimeoutError):
                    async with asyncio.timeout(CUT_MAX_S if self._is_hurried else None) as self._patience:
                        await self._end.wait()
                        if not self._is_hurried:
                            await asyncio.gather(*(leave() for leave in parts.leavers))
                            await asyncio.gather(*(empty() for empty in parts.emptiers))
                        await self.gate.drained()
                self._patience = None
            vitals.cancel()

    def _give_sign(self, lag_s: float) -> None:
        """About ten times a second."""
        for so_far in self._untold.values():
            self.channel.send(Begun(so_far()))
        self._untold.clear()
        self.channel.send(Lag(lag_s))

    def _parts(self, config: Config, tokens: TokenCounters, listening: socket.socket) -> Parts:
        send, certificates = self.channel.send, listener_tls(config)
        return Parts(
            config=config,
            gate=self.gate,
            backends=self.backends,
            pricing=self.pricing,
            tokens=tokens,
            metrics=metrics_of(config),
            settings=relay_settings(config),
            on_record=lambda record: send(Ended(record, self._untold.pop(record.request_id, None) is not None)),
            on_admitted=self._untold.__setitem__,
            is_draining=lambda: self._is_draining,
            passed=listening,
            places=places(files_max()),
            shedding=self._shedding,
            quarantine=self.quarantine,
            tls=certificates["tls"].context if "tls" in certificates else None,
        )

    def take(self, message: ToWorker) -> None:  # noqa: C901  # one line per kind of message
        """The owner said something."""
        match message:
            case Admitted() | Refused():
                self.gate.told(self.admission.commands(message, self.gate.now()))
            case Considered(verdict):
                self.admission.considered(verdict)
            case State():
                self._learn_state(message)
            case Learned(content):
                restore(content, self.pricing)
            case Died() | Cleared():
                self.quarantine.hear(message, self.gate.now())
            case Setup(config):
                self.setup.set_result(config)
            case Cut():
                if not self.gate.is_cut:
                    self.gate.cut()
            case Retire():
                self._end.set()
            case Finish():
                self._finish()

    def _learn_state(self, state: State) -> None:
        self.admission.learn_state(state)
        self._is_draining = state.is_draining
        self._shedding.is_told = state.is_strained
        for name, kind in state.kinds.items():
            if (backend := self.backends.get(name)) is not None:
                backend.adopt(kind)
        self._known.set()

    def _finish(self) -> None:
        """The owner ends, or is gone, and with it all that could be decided: whoever is here is told so, and no more.

        That comes twice where an owner dies while it ends.
        """
        self.gate.told(self.admission.lost())
        self.gate.cut()
        if self._is_hurried:
            return
        self._is_hurried = True
        if not self.setup.done():
            self.setup.set_result(None)
        self._known.set()
        self._end.set()
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time() + CUT_MAX_S)
