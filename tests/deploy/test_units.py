"""The systemd units through systemd's own tools, and the gateway behind a socket that systemd opened."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.deploy.tools import DEPLOY, done, said, tool

pytestmark = [pytest.mark.ops, pytest.mark.timeout(60)]

START_MAX_S, STOP_MAX_S = 30.0, 10.0
EXPOSURE_MAX = 2.6
"""Of 10, as systemd rates what a service could do if it were taken over."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy whose command exists on this machine."""
    for path in (DEPLOY / "systemd").iterdir():
        text = path.read_text("utf-8").replace("/opt/kvgate/bin/kvgate", shutil.which("true") or "/bin/true")
        (tmp_path / path.name).write_text(text, "utf-8")
    return tmp_path


def test_systemd_understands_them(units: Path) -> None:
    """Every key and value; one that is spelled wrong is found."""
    analyze = tool("systemd-analyze")
    names = sorted(path.name for path in units.iterdir())
    assert names == ["kvgate-admin.socket", "kvgate.service", "kvgate.socket"]
    assert done(analyze, "verify", *(units / name for name in names)).stderr == ""
    service = units / "kvgate.service"
    service.write_text(service.read_text("utf-8").replace("WatchdogSec=", "WatchDogSec="), "utf-8")
    assert "'WatchDogSec'" in done(analyze, "verify", service).stderr


def test_the_service_could_do_little_harm(units: Path) -> None:
    """Were it taken over."""
    rating = said(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", units / "kvgate.service")
    found = re.search(r"Overall exposure level for kvgate.service: ([\d.]+)", rating)
    assert found
    assert float(found[1]) <= EXPOSURE_MAX


async def test_it_serves_from_sockets_that_systemd_opened() -> None:
    """The first connection starts it, and is answered."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        api, admin = (f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
    process = await asyncio.create_subprocess_exec(
        *(tool("systemd-socket-activate"), "-l", api, "-l", admin, "--fdname=api:admin", "-E", "PATH"),
        *(sys.executable, "-m", "gateway", "serve", "http://127.0.0.1:9"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=dict(os.environ),
    )
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(START_MAX_S)) as http:
            async with asyncio.timeout(START_MAX_S):
                while True:
                    try:
                        assert (await http.get(f"http://{api}/health")).status == 200
                    except aiohttp.ClientConnectorError:  # systemd does not listen yet
                        await asyncio.sleep(0.05)
                    else:
                        break
            assert (await http.get(f"http://{admin}/metrics")).status == 200
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), STOP_MAX_S) == 0
