"""`kvgate serve` that writes the number of its tasks into a file once a second, for `benchmarks.soak`.

Run it as `python -m benchmarks.counted_tasks FILE ENGINE`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.cli.serve import launch, overrides
from gateway.config.source import ConfigSource
from gateway.front import Parts
from gateway.http_front import serve_http

EVERY_S = 1.0


@asynccontextmanager
async def _counted(parts: Parts) -> AsyncIterator[str]:
    async with serve_http(parts) as url, asyncio.TaskGroup() as group:
        counting = group.create_task(_count(Path(sys.argv[1])))
        try:
            yield url
        finally:
            counting.cancel()


async def _count(into: Path) -> None:
    while True:
        await asyncio.to_thread(into.write_text, str(len(asyncio.all_tasks())))
        await asyncio.sleep(EVERY_S)


if __name__ == "__main__":
    launch(ConfigSource(overrides=overrides([sys.argv[2]], None, 0, None, 0, None)), as_json=True, front=_counted)
