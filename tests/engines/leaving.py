"""Clients of a real engine that leave, at each point of the life of what they asked for."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

from tests.engines.servers import MODEL_NAME
from tests.engines.tiny_model import FIRST_TEXT_TOKEN

AT_ONCE, WHOLE, MIDSTREAM, HALF_CLOSED = "at once", "while it waits for the whole", "mid-stream", "half closed"
POINTS = (AT_ONCE, WHOLE, MIDSTREAM, HALF_CLOSED)
WORKING_S = 0.1
"""For so long an answer in one piece is at work before its client leaves."""


def asking(*, stream: bool, prompt_tokens: int = 64, max_tokens: int = 400) -> bytes:
    """A request that would keep an engine busy for long."""
    prompt = [FIRST_TEXT_TOKEN + i % 256 for i in range(prompt_tokens)]
    fields = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    body = json.dumps({**fields, "stream": stream}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def leave(url: str, point: str) -> None:
    """Ask and go."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(asking(stream=point != WHOLE))
        await writer.drain()
        if point in (MIDSTREAM, HALF_CLOSED):
            await reader.readuntil(b"data: ")
        if point == WHOLE:
            await asyncio.sleep(WORKING_S)
        if point == HALF_CLOSED:
            writer.write_eof()
            while await reader.read(65_536):
                pass
    finally:
        writer.transport.abort()


async def leave_everywhere(url: str, crowd: int) -> None:
    """Each point alone; then a crowd that does not fit, most of it in the gateway's queue, that leaves all at once."""
    for point in POINTS:
        await leave(url, point)
    address = urlsplit(url)
    lines = [await asyncio.open_connection(address.hostname, address.port) for _ in range(crowd)]
    for _, writer in lines:
        writer.write(asking(stream=True))
    reader, _ = lines[0]
    await reader.readuntil(b"data: ")
    for _, writer in lines:
        writer.transport.abort()
