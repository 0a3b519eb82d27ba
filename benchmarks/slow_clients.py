"""Slow clients by the thousand: when the gateway lets them go, and what others notice.

Attackers of four kinds (silent; a head, a body, a chunked body that drips) connect from a process of their own, and a
good client asks at a steady rate, before and among them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from contextlib import suppress
from urllib.parse import urlsplit

from tests.e2e.stand import gateway
from tests.faults import FaultyEngine, response

DRIP_S = 2.0
CALM_S = 8.0
GIVE_UP_S = 45.0
GOOD_PER_S = 50
_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
KINDS = {
    "silent": (b"", b""),
    "head": (_HEAD + b"X: ", b"y"),
    "body": (_HEAD + b"Content-Length: 2000\r\n\r\n", b" "),
    "chunked body": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}
_BODY = b'{"model":"m","prompt":"hi"}'
_GOOD = _HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class _Attacker(asyncio.Protocol):
    """One connection that is slow."""

    def __init__(self, drop: bytes, ended: dict[str, list[float]], kind: str) -> None:
        self._drop, self._ended, self._kind = drop, ended, kind
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(KINDS[self._kind][0])
        self._timer = self._loop.call_later(DRIP_S, self._drip)

    def _drip(self) -> None:
        self._transport.write(self._drop)
        self._timer = self._loop.call_later(DRIP_S, self._drip)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._timer.cancel()
        self._ended[self._kind].append(self._loop.time() - self._since)


async def _attack(url: str, connections: int) -> None:
    """Connect, drip until let go, and tell for how long that went."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    ended: dict[str, list[float]] = {kind: [] for kind in KINDS}
    kinds = [kind for kind in KINDS for _ in range(connections // len(KINDS))]
    for kind in kinds:
        await loop.create_connection(
            lambda kind=kind: _Attacker(KINDS[kind][1], ended, kind),  # type: ignore[misc]
            address.hostname or "",
            address.port or 0,
        )
    print("ready", flush=True)
    end = loop.time() + GIVE_UP_S
    while sum(map(len, ended.values())) < len(kinds) and loop.time() < end:  # noqa: ASYNC110  # thousands of ends
        await asyncio.sleep(0.1)
    print(json.dumps({kind: (len(after), max(after, default=0.0)) for kind, after in ended.items()}))


async def _good(url: str, until: asyncio.Event) -> list[float]:
    """How long good requests take until then, in ms; one that fails takes for ever."""
    address, took = urlsplit(url), []
    while not until.is_set():
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(_GOOD)
        answer = b""
        with suppress(ConnectionError):
            answer = await reader.read()
        writer.close()
        spent_s = time.perf_counter() - start
        took.append(spent_s * 1e3 if answer.startswith(b"HTTP/1.1 200 ") else float("inf"))
        await asyncio.sleep(max(0.0, 1 / GOOD_PER_S - spent_s))
    return took


def _row(name: str, took: list[float]) -> str:
    cuts = statistics.quantiles([min(each, 1e9) for each in took], n=100)
    lost = sum(each == float("inf") for each in took)
    return f"| {name} | {len(took)} | {lost} | {cuts[49]:.1f} ms | {cuts[98]:.1f} ms |"


async def measure(connections: int) -> None:
    """Print what good clients saw, and when each kind of slow one was let go."""
    async with (
        FaultyEngine((response(b'{"data":[{"id":"m"}]}'),)) as engine,
        gateway({"name": "b0", "url": engine.url, "kind": "openai"}) as stand,
    ):
        url, calm, over = stand.running.api_url, asyncio.Event(), asyncio.Event()
        asyncio.get_running_loop().call_later(CALM_S, calm.set)
        before = await _good(url, calm)
        command = [sys.executable, "-m", "benchmarks.slow_clients", "--attack", url, "--connections", str(connections)]
        attackers = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert attackers.stdout is not None
        await attackers.stdout.readline()
        among = asyncio.get_running_loop().create_task(_good(url, over))
        ended: dict[str, tuple[int, float]] = json.loads(await attackers.stdout.readline())
        over.set()
        seen = await among
        await attackers.wait()
    print("| good requests | asked | failed | p50 | p99 |\n|---|---|---|---|---|")
    print(_row("alone", before))
    print(_row(f"among {connections:,} slow clients", seen))
    print("\n| slow clients | connections | let go | the last after |\n|---|---|---|---|")
    for kind, (count, last_s) in ended.items():
        print(f"| {kind} | {connections // len(KINDS):,} | {count:,} | {last_s:.1f} s |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--attack", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(_attack(given.attack, given.connections) if given.attack else measure(given.connections))
