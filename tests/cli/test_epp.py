"""`kvgate epp` as a process: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.simulation.server import EngineOptions, start_engine
from tests.cli.command import kvgate

START_MAX_S = 20.0
STOP_MAX_S = 15.0
FREE_PORTS = ("--grpc-port", "0", "--admin-port", "0")


@asynccontextmanager
async def picking(*args: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command as a process, killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "epp", *map(str, args)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.timeout(60)
async def test_it_starts_and_ends() -> None:
    """It tells the address of its gRPC service, which a client can reach, and ends at SIGTERM."""
    async with (
        start_engine(EngineOptions(model="m", kv_tokens=1024)) as engine,
        picking(engine.url, *FREE_PORTS, "--json") as process,
    ):
        assert process.stdout is not None
        text = b""
        async with asyncio.timeout(START_MAX_S):
            while not text.endswith(b"\n}\n"):
                line = await process.stdout.readline()
                assert line, await process.communicate()
                text += line
        told = json.loads(text)
        assert told["backends"][0]["models"] == ["m"]
        assert "api" not in told
        host, _, port = told["grpc"].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_MAX_S):
            assert await process.wait() == 0


def test_a_backend_that_envoy_cannot_be_sent_to(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong configuration, with the path of the key."""
    done = kvgate(capsys, "epp", "https://api.example.com", *FREE_PORTS)
    assert done.code == 78
    assert "backends.0.url: must be http://host:port" in done.err


def test_without_backends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "kvgate.yaml"
    config.write_text("mode: observe\n")
    done = kvgate(capsys, "epp", "-c", config)
    assert done.code == 2
    assert "There is no backend" in done.err


@pytest.mark.parametrize("name", ["grpc", "google.protobuf"])
def test_without_the_extra(name: str) -> None:
    """It says what to install."""
    lost = (
        f"import sys; sys.modules[{name!r}] = None; from gateway.cli import main; main(['epp', 'http://127.0.0.1:9'])"
    )
    done = subprocess.run([sys.executable, "-c", lost], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"The picker needs {name}")
    assert done.stderr.endswith(": pip install 'kvgate[epp]'\n")
