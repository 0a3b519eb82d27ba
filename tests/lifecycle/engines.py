"""Engines of the simulation: vLLM's scheduler behind a hand-made HTTP server that misbehaves as its plan says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping

from gateway.simulation.engine import Engine, EngineConfig, Sequence, StepResult
from gateway.simulation.profiles import Profile
from tests.faults import response
from tests.lifecycle.job import Fates, Job
from tests.lifecycle.plan import Page
from tests.lifecycle.wire import LATENCY_S, End, Wire

MODEL = "m"
BLOCK_TOKENS = 16
PROFILE = Profile("small", 20e-3, 10e-3, 20e-6, 100e-9, kv_tokens=0, sequences_max=12, step_tokens_max=512)

_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
_NAME = re.compile(rb"(?i)x-request-id: *(r-\d+)")


class Caller:
    """The engine's side of one connection."""

    def __init__(self, server: Server, wire: Wire) -> None:
        self._server, self._wire = server, wire
        self._buffer = b""
        self.job: Job | None = None

    def __repr__(self) -> str:
        return f"{self._server.name}: {self.job.script.name if self.job is not None else 'a look'}"

    def received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if not end or len(rest) < length:
            return
        assert len(rest) == length, "a second request before the answer to the first"
        self._buffer = b""
        if not self._server.is_alive:
            self._wire.end(End.RESET)
        elif head.startswith(b"GET"):
            self._server.looked_at(head.split(b" ")[1].decode(), self._wire)
        else:
            named = _NAME.search(head)
            assert named is not None
            self.job = self._server.asked(named[1].decode(), self._wire, json.loads(rest))

    def hung_up(self) -> None:
        self._server.callers.pop(self, None)
        if self.job is not None:
            self.job.leave()

    def cut(self) -> None:
        """The engine died."""
        self._wire.end(End.RESET)


class Server:
    """One engine and all who talk to it."""

    def __init__(self, name: str, blocks: int, loop: asyncio.AbstractEventLoop, fates: Fates) -> None:
        self.name, self.fates = name, fates
        self._loop = loop
        self.is_alive = True
        self.page: Page = "honest"
        self.frozen_until = 0.0
        self.hidden_tokens = 0
        """It says that its longest sequence is so much shorter than it is."""
        self.callers: dict[Caller, Wire] = {}
        self.owners: dict[Sequence, Job] = {}
        self.jobs: dict[Job, None] = {}
        self._steps = False
        self._kept_page = b""
        self._lives = 0
        self.engine = self._new_engine(blocks)

    # What the gateway does

    def connected(self, wire: Wire) -> None:
        caller = Caller(self, wire)
        wire.peer = caller
        self.callers[caller] = wire

    def asked(self, name: str, wire: Wire, body: Mapping[str, object]) -> Job:
        fates = self.fates
        fates.attempts[name] = fates.attempts.get(name, 0) + 1
        fates.note("asked", (self.name, name))
        job = Job(self, wire, fates.scripts[name], fates.fate(name), body)
        self.jobs[job] = None
        fates.asked.setdefault(name, []).append(job)
        job.start()
        fates.on_asked(name)
        return job

    def looked_at(self, path: str, wire: Wire) -> None:
        if path == "/v1/models":
            limit = self.engine.config.sequence_tokens_max - self.hidden_tokens
            wire.answer(response(b'{"data":[{"id":"%b","max_model_len":%d}]}' % (MODEL.encode(), limit)))
        elif path == "/version":
            wire.answer(response(b'{"version":"0.30.0"}'))
        else:
            self._show(wire)

    # What befalls the engine

    def restart(self, down_s: float, blocks: int) -> None:
        """Die now, and come back with nothing."""
        self.is_alive = False
        for caller in tuple(self.callers):
            caller.cut()
        for job in self.jobs:
            job.is_mute = True
        self.owners.clear()
        self.jobs.clear()
        self.engine = self._new_engine(blocks)
        self._steps = False
        self.after(down_s, self._rise)

    def freeze(self, seconds: float) -> None:
        """Do nothing for a while."""
        self.frozen_until = max(self.frozen_until, self._loop.time() + seconds)

    def stranger(self) -> None:
        """Somebody asks it without asking the gateway."""
        self._submit(min(200, self.engine.config.sequence_tokens_max // 2), self.engine.config.sequence_tokens_max // 4)

    # For jobs

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        self._loop.call_later(seconds, what)

    def submit(self, job: Job, prompt_tokens: int, output_tokens: int) -> Sequence:
        sequence = self._submit(prompt_tokens, output_tokens)
        self.owners[sequence] = job
        return sequence

    def ended(self, job: Job) -> None:
        self.jobs.pop(job, None)

    # Parts

    def _submit(self, prompt_tokens: int, output_tokens: int) -> Sequence:
        sequence = self.engine.submit(prompt_tokens, output_tokens)
        if not self._steps:
            self._steps = True
            self._loop.call_soon(self._step, self.engine)
        return sequence

    def _new_engine(self, blocks: int) -> Engine:
        self._lives += 1
        limits = {"sequences_max": PROFILE.sequences_max, "step_tokens_max": PROFILE.step_tokens_max}
        longest = min(blocks * BLOCK_TOKENS, 1536)
        return Engine(EngineConfig(PROFILE, blocks, BLOCK_TOKENS, sequence_tokens_max=longest, **limits))

    def _rise(self) -> None:
        self.is_alive = True

    def _step(self, engine: Engine) -> None:
        if engine is not self.engine:
            return  # It died.
        if not engine.has_work:
            self._steps = False
            return
        pause = self.frozen_until - self._loop.time()
        if pause > 0:
            self._loop.call_later(pause, self._step, engine)
            return
        result = engine.step()
        engine.check()
        self._loop.call_later(result.duration_s or PROFILE.overhead_s, self._deliver, engine, result)

    def _deliver(self, engine: Engine, result: StepResult) -> None:
        for sequence in result.emitted:
            if (job := self.owners.get(sequence)) is not None:
                job.emitted(sequence)
        for sequence in result.finished:
            self.owners.pop(sequence, None)
        self._step(engine)

    def _show(self, wire: Wire) -> None:
        """A metrics page, as honest as it is to be."""
        note, page = self.fates.note, self.page
        if page not in ("honest", "frozen"):
            note("page", (self.name, page))
        if page == "frozen" and self._kept_page:
            wire.answer(response(self._kept_page))
            return
        self._kept_page = self._metrics()
        match page:
            case "late" | "too_late":
                shown = response(self._kept_page)
                self.after(0.4 if page == "late" else 3.0, lambda: wire.answer(shown))
            case "garbage":
                wire.answer(response(b"vllm:kv_cache_usage_perc{model_name=\xff} NaN of\n# TYP\n"))
            case "status_500":
                wire.answer(response(status=500))
            case "silent":
                pass
            case "reset":
                wire.end(End.RESET)
            case _:
                wire.answer(response(self._kept_page))

    def _metrics(self) -> bytes:
        engine, label = self.engine, f'engine="0",model_name="{MODEL}"'
        usage, running = f"{engine.used_blocks / engine.config.blocks:.6f}", str(engine.running)
        if self.page == "nan":
            usage = running = "NaN"
        elif self.page == "zero":
            usage = running = "0"
        return (
            f"process_start_time_seconds {1_000 + self._lives}\n"
            f"vllm:kv_cache_usage_perc{{{label}}} {usage}\n"
            f"vllm:num_requests_running{{{label}}} {running}\n"
            f"vllm:num_requests_waiting{{{label}}} {engine.waiting}\n"
            f"vllm:num_preemptions_total{{{label}}} {engine.preemptions}\n"
            f"vllm:prompt_tokens_total{{{label}}} {engine.prompt_tokens}\n"
            f"vllm:generation_tokens_total{{{label}}} {engine.generated_tokens}\n"
            f'vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",engine="0",'
            f'num_gpu_blocks="{engine.config.blocks + 1}"}} 1\n'
        ).encode()


class Network:
    """Finds the engine behind a host name."""

    def __init__(self, fates: Fates, always_silent_fd: int, on_connect: Callable[[str], None]) -> None:
        self.servers: dict[str, Server] = {}
        self._fates = fates
        self._fd = always_silent_fd
        self._on_connect = on_connect

    def connect(
        self, factory: Callable[[], asyncio.Protocol], host: str
    ) -> Awaitable[tuple[asyncio.Transport, asyncio.Protocol]]:
        """See `VirtualLoop`."""
        return self._connected(factory, host)

    async def _connected(
        self, factory: Callable[[], asyncio.Protocol], host: str
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        loop, task, fates = asyncio.get_running_loop(), asyncio.current_task(), self._fates
        assert task is not None
        name = task.get_name()
        is_request = name in fates.scripts
        fate = fates.fate(name) if is_request else ""
        if is_request:
            fates.note("connects", (host, name))
            self._on_connect(name)
            if fate in ("refused", "unconnected", "closed_at_once"):
                fates.attempts[name] = fates.attempts.get(name, 0) + 1
        await asyncio.sleep(LATENCY_S)
        server = self.servers[host]
        if fate == "refused" or not server.is_alive:
            raise ConnectionRefusedError
        if fate == "unconnected":
            await loop.create_future()
        protocol = factory()
        wire = Wire(loop, protocol, self._fd, fates.note)
        server.connected(wire)
        protocol.connection_made(wire)
        if fate == "closed_at_once":
            wire.end(End.RESET)
        return wire, protocol
