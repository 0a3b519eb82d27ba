"""A real Envoy for a test: the example configuration, on free loopback ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.deploy.tools import DEPLOY, tool

START_MAX_S = 20.0
STOP_MAX_S = 10.0


def _config(picker: str) -> Any:
    """The example, listening on any free port, with the picker at this address."""
    host, _, port = picker.rpartition(":")
    config = yaml.safe_load((DEPLOY / "envoy/envoy.yaml").read_text("utf-8"))
    static = config["static_resources"]
    config["admin"]["address"]["socket_address"]["port_value"] = 0
    static["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    (cluster,) = (cluster for cluster in static["clusters"] if cluster["name"] == "kvgate")
    (end,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    end["endpoint"]["address"]["socket_address"] = {"address": host, "port_value": int(port)}
    return config


@asynccontextmanager
async def envoy(picker: str, folder: Path) -> AsyncIterator[str]:
    """Run Envoy in front of the picker at this address; gives the URL that clients use.

    Args:
        picker: `host:port`.
        folder: for its files.
    """
    told, config = folder / "admin", folder / "envoy.yaml"
    config.write_text(yaml.safe_dump(_config(picker)), "utf-8")
    command = [tool("envoy"), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    process = await asyncio.create_subprocess_exec(*command, "--admin-address-path", str(told))
    try:
        async with asyncio.timeout(START_MAX_S):
            while not (told.exists() and told.read_text("utf-8")):  # noqa: ASYNC110  # a file has no event
                await asyncio.sleep(0.02)
            admin = f"http://{told.read_text('utf-8').strip()}"
            async with aiohttp.ClientSession() as http:
                while not await _is_ready(http, admin):  # noqa: ASYNC110  # nor has this
                    await asyncio.sleep(0.02)
                async with http.get(f"{admin}/listeners?format=json") as response:
                    listeners = await response.json(content_type=None)
        bound = listeners["listener_statuses"][0]["local_address"]["socket_address"]
        yield f"http://{bound['address']}:{bound['port_value']}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(STOP_MAX_S):
            await process.wait()


async def _is_ready(http: aiohttp.ClientSession, admin: str) -> bool:
    """Whether it has started, and has found the picker well."""
    try:
        async with http.get(f"{admin}/ready") as ready, http.get(f"{admin}/clusters") as clusters:
            return (
                ready.status == 200
                and "kvgate::" in (text := await clusters.text())
                and "health_flags::healthy" in text
            )
    except aiohttp.ClientError:
        return False
