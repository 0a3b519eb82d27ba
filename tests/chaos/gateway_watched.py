"""`python -m tests.chaos.gateway_watched CONFIG`: `kvgate serve`, which prints how many tasks it has on SIGUSR1."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.cli.serve import API, launch
from gateway.config.source import ConfigSource
from gateway.front import Parts
from gateway.http_front import serve_http


@asynccontextmanager
async def _watched(parts: Parts) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(
        signal.SIGUSR1,
        lambda: print(json.dumps({"tasks": len(asyncio.all_tasks())}), flush=True),  # noqa: T201
    )
    async with serve_http(parts) as url:
        yield url


if __name__ == "__main__":
    launch(ConfigSource(Path(sys.argv[1]), {}), as_json=True, front=_watched, shown=API)
