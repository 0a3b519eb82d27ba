"""What a stream costs in memory that has begun and says next to nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import children
from benchmarks.children import Child
from benchmarks.timed_requests import completion_request

BEGIN_MAX_S = 120.0
SETTLE_S = 2.0


def idle_stream_kb(folder: Path, streams: int) -> float:
    """Kilobytes of resident memory for each of so many streams that stand almost still, after others were there before.

    Raises:
        TimeoutError: they did not begin.
    """
    quiet = ("--kv-tokens", "4000000", "--max-num-seqs", "100000", "--speed", "0.02")
    with (
        children.engine(folder, *quiet, name="quiet") as engine,
        children.gateway(folder, engine.url, name="holding") as gateway,
    ):
        return asyncio.run(_measured(gateway, streams))


async def _measured(gateway: Child, streams: int) -> float:
    # What is allocated once (pools, caches, code that was never run) is not a stream's.
    for writer in await _begun(gateway, streams // 10):
        writer.transport.abort()
    await asyncio.sleep(SETTLE_S)
    before_kb = gateway.rss_kb()
    writers = await _begun(gateway, streams)
    await asyncio.sleep(SETTLE_S)
    grown_kb = gateway.rss_kb() - before_kb
    for writer in writers:
        writer.transport.abort()
    return grown_kb / streams


async def _begun(gateway: Child, streams: int) -> list[asyncio.StreamWriter]:
    """Streams whose first token has come."""
    request = completion_request(gateway.url, output_tokens=1000, stream=True, prompt_tokens=1)
    address = urlsplit(gateway.url)
    connections = [await asyncio.open_connection(address.hostname, address.port) for _ in range(streams)]
    for _, writer in connections:
        writer.write(request)
    async with asyncio.timeout(BEGIN_MAX_S):
        for reader, _ in connections:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            await reader.readuntil(b"\n\n")
    return [writer for _, writer in connections]
