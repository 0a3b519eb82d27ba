"""What clients write does not become series: ten thousand made-up names leave the metrics page as it was."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

import pytest

from gateway.simulation.server import start_engine
from tests.e2e.stand import SMALL, Stand, gateway

JUNK = 10_000
AT_ONCE = 250


async def series(stand: Stand) -> list[str]:
    """Names and labels of all samples, in order."""
    lines = (await stand.admin("/metrics")).body.decode().splitlines()
    return sorted(line.rpartition(" ")[0] for line in lines if not line.startswith("#"))


def junk(number: int) -> bytes:
    """A request like no other: for a model, on a path, or with a key, a class and an id that nobody knows."""
    path = "/v1/completions" if number % 4 else f"/v1/junk-{number}"
    body = b'{"model":"junk-%d","prompt":"x"}' % number
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer junk-{number}",
        f"X-Request-Id: junk-{number}",
        f"X-Kvgate-Priority: {'standard' if number % 3 else f'junk-{number}'}",
        f"User-Agent: junk/{number}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + body


@pytest.mark.timeout(120)
async def test_made_up_names_add_no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by model, path, key, class or id; the first of each kind has told all that there is to tell."""
    monkeypatch.setattr("gateway.admin.routes.RENDER_EVERY_S", 0.0)
    async with start_engine(SMALL) as engine, gateway(engine.url, metrics={"tenants": True}) as stand:
        assert (await stand.complete(max_tokens=3)).status == 200
        address = urlsplit(stand.running.api_url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)

        async def send(numbers: range) -> set[bytes]:
            writer.write(b"".join(map(junk, numbers)))
            answers = b""
            while answers.count(b"HTTP/1.1 ") < len(numbers) or not answers.endswith(b"}}"):
                answers += await reader.read(2**16)
            return set(re.findall(rb"HTTP/1.1 (\d+)", answers))

        assert await send(range(12)) == {b"404", b"400"}
        before = await series(stand)
        for first in range(12, JUNK, AT_ONCE):
            await send(range(first, first + AT_ONCE))
        after = await series(stand)
        writer.close()
        await writer.wait_closed()
    assert after == before
    assert not [name for name in after if "junk" in name]
