"""Runs one of Debian's Go servers for a test, and learns from its log on which free port it listens."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

START_MAX_S = 30.0
STOP_MAX_S = 10.0


@asynccontextmanager
async def listening(listens: re.Pattern[bytes], *command: str) -> AsyncIterator[str]:
    """Run the server while the block runs; its address, which the first group of the pattern finds in its log."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    reading: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(START_MAX_S):
            address = await _address(process.stderr, listens)
        reading = asyncio.get_running_loop().create_task(_drop(process.stderr))
        yield address
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_MAX_S)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if reading is not None:
            await reading


async def _address(log: asyncio.StreamReader, listens: re.Pattern[bytes]) -> str:
    text = b""
    while line := await log.readline():
        text += line
        if found := listens.search(line):
            return found[1].decode()
    raise AssertionError(text.decode(errors="replace"))


async def _drop(log: asyncio.StreamReader) -> None:
    """Read on, so that the pipe never fills."""
    while await log.readline():
        pass
