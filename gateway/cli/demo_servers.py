"""The servers of the demo: two simulated engines and the gateway before them, as processes that end with the demo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HOST = "127.0.0.1"
MODEL = "demo"
KV_TOKENS = {"large": 4_096, "small": 2_048}
"""Pools so small that a person's first burst fills them."""
SPEED = 0.5
"""Slow enough that a client on a busy machine keeps up with all streams."""
OUTPUT_TOKENS_MEAN = 110
QUEUE_MAX = 24
QUEUE_WAIT_MAX_S = 6.0
RISK = 0.001
"""Tighter than the default: the demo promises that nothing is preempted, not that it is rare."""
START_MAX_S = 30.0
STOP_MAX_S = 3.0
LOG_TAIL_LINES = 5


class ServerError(Exception):
    """A server of the demo did not start, or ended by itself."""


@dataclass(slots=True)
class Server:
    """A process in a session of its own: Ctrl-C in the terminal reaches the demo alone, which then ends it in order."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def facts(self) -> dict[str, object]:
        """What it prints once it serves: one JSON object.

        Raises:
            ServerError: it ended before, or took too long.
        """
        assert self.process.stdout is not None
        text = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_MAX_S):
                while line := await self.process.stdout.readline():
                    text += line
                    with suppress(ValueError):
                        facts = json.loads(text)
                        assert isinstance(facts, dict)
                        return facts
        raise await self.fault("did not start")

    async def fault(self, what: str) -> ServerError:
        """An error that says what happened to it, with the end of its log."""
        log = await asyncio.to_thread(self.log.read_text, errors="replace")
        return ServerError("\n  ".join([f"The server '{self.name}' {what}.", *log.splitlines()[-LOG_TAIL_LINES:]]))

    async def stop(self) -> None:
        """Ask it to end, and make it."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_MAX_S):
                await self.process.wait()
        except TimeoutError:
            pass
        finally:
            # On cancellation too.
            self._signal(signal.SIGKILL)
        await self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


@dataclass(slots=True)
class Stage:
    """All servers, serving."""

    folder: Path
    api_url: str = ""
    admin_url: str = ""
    engine_urls: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What turned out other than asked for."""
    servers: list[Server] = field(default_factory=list)

    @property
    def config(self) -> Path:
        """The gateway's configuration, as a file for `kvgate serve -c`."""
        return self.folder / "kvgate.yaml"

    async def ended(self) -> Server:
        """Wait until one of the servers ends by itself."""
        async with asyncio.TaskGroup() as group:
            waits = {group.create_task(server.process.wait()): server for server in self.servers}
            done, others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in others:
                wait.cancel()
        return waits[done.pop()]


@asynccontextmanager
async def serving(folder: Path, api_port: int, admin_port: int) -> AsyncIterator[Stage]:
    """Run the servers while the block runs.

    Args:
        folder: takes their logs and the gateway's configuration.
        api_port: replaced by a free one if it is taken, with a note.
        admin_port: likewise.

    Raises:
        ServerError: one of them does not start.
    """
    async with AsyncExitStack() as stack:
        stage = Stage(folder)
        for name, tokens in KV_TOKENS.items():
            size = ("--kv-tokens", str(tokens), "--speed", str(SPEED), "--output-tokens", str(OUTPUT_TOKENS_MEAN))
            await _start(stack, stage, name, "engine", "--port", "0", "--model", MODEL, *size)
        for engine in tuple(stage.servers):
            stage.engine_urls[engine.name] = str((await engine.facts())["url"])
        api_port, admin_port = _free_port(api_port, stage.notes), _free_port(admin_port, stage.notes)
        settings = yaml.safe_dump(configuration(api_port, admin_port, stage.engine_urls), sort_keys=False)
        await asyncio.to_thread(stage.config.write_text, settings)
        gateway = await _start(stack, stage, "gateway", "serve", "-c", str(stage.config))
        facts = await gateway.facts()
        stage.api_url, stage.admin_url = str(facts["api"]), str(facts["admin"])
        yield stage


def configuration(api_port: int, admin_port: int, engine_urls: Mapping[str, str]) -> dict[str, object]:
    """The gateway's configuration: a short queue, so that a burst is refused before anybody is bored."""
    return {
        "listen": {"host": HOST, "port": api_port, "admin_host": HOST, "admin_port": admin_port},
        "backends": [{"name": name, "url": url} for name, url in engine_urls.items()],
        "admission": {"risk": RISK, "queue": {"requests_max": QUEUE_MAX, "wait_max_s": QUEUE_WAIT_MAX_S}},
        "telemetry": {"interval_s": 0.25},
        "drain_max_s": 1.0,
        "log": {"level": "warning", "format": "json"},
    }


async def _start(stack: AsyncExitStack, stage: Stage, name: str, *arguments: str) -> Server:
    log = stage.folder / f"{name}.log"
    # The demo's own settings count, not those of a gateway that may be configured in this environment.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KVGATE_")}
    with await asyncio.to_thread(log.open, "wb") as log_file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments, "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
            env=environment,
            start_new_session=True,
        )
    server = Server(name, process, log)
    stack.push_async_callback(server.stop)
    stage.servers.append(server)
    return server


def _free_port(port: int, notes: list[str]) -> int:
    """The port; or if somebody else has it 0, which takes any free one."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        notes.append(f"Port {port} is taken here; the demo uses a free one instead.")
        return 0
    return port
