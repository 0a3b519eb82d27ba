"""Hostile input: what a gateway lets through, how it answers, and for how long its event loop is busy with any of it.

A client in a process of its own, which is the engine too, sends every case of the tests and the worst bodies of the
size limit, one after the other. Between two beats of the gateway's loop the wall time tells how long others waited; the
time on the CPU tells how much of that was the gateway's own work, whatever else this machine does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from benchmarks.worst_bodies import WORST
from tests.e2e.stand import gateway
from tests.faults import response
from tests.hostile_bodies import HOSTILE
from tests.hostile_heads import HEADS
from tests.smuggling import corpus

BEAT_S = 0.001
ANSWER_MAX_S = 10.0
QUIET_S = 0.3
"""A smuggling payload that is not answered for so long waits for more of a body."""
SHOWN = 5
SMUGGLING = "smuggling"
KINDS = ("bodies", "heads", SMUGGLING, "worst bodies")


def _post(endpoint: str, body: bytes) -> bytes:
    head = f"POST {endpoint} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def cases() -> list[tuple[str, str, bytes]]:
    """Kind, name and bytes of every case."""
    return [
        *((KINDS[0], str(row), _post(row.endpoint, row.body)) for row in HOSTILE),
        *((KINDS[1], str(row), row.data) for row in HEADS),
        *(
            (KINDS[2], str(row), row.data + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            for row in corpus()
        ),
        *((KINDS[3], name, _post(endpoint, body)) for name, (endpoint, body) in WORST.items()),
    ]


class Beats:
    """A callback that comes back at once, and how late it was at most."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.reset()
        self._timer = loop.call_later(BEAT_S, self._beat)

    def reset(self) -> None:
        """Forget what was."""
        self.waited_s = self.worked_s = 0.0
        self._wall, self._cpu = self._loop.time(), time.thread_time()

    def stop(self) -> None:
        """No more beats."""
        self._timer.cancel()

    def _beat(self) -> None:
        wall, cpu = self._loop.time(), time.thread_time()
        self.waited_s = max(self.waited_s, wall - self._wall - BEAT_S)
        self.worked_s = max(self.worked_s, cpu - self._cpu)
        self._wall, self._cpu = wall, cpu
        self._timer = self._loop.call_later(BEAT_S, self._beat)


class _Engine:
    """Lists its model, answers everything, and counts what it is asked to do."""

    def __init__(self) -> None:
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked += head.startswith(b"POST")
                await reader.readexactly(_length(head))
                writer.write(response(b'{"data":[{"id":"m"}]}'))
                await writer.drain()
        writer.close()


async def _client() -> None:
    """Tell the engine's address and hear the gateway's; send the cases whose numbers come, tell of each answer."""
    engine, loop = _Engine(), asyncio.get_running_loop()
    listening = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    _say(listening.sockets[0].getsockname()[1])
    url = urlsplit((await loop.run_in_executor(None, sys.stdin.readline)).strip())
    rows = cases()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        kind, _, data = rows[int(line)]
        asked = engine.asked
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        answer = b""
        with suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            async with asyncio.timeout(QUIET_S if kind == SMUGGLING else ANSWER_MAX_S):
                writer.write(data)
                answer = await reader.readuntil(b"\r\n\r\n")
                answer += await reader.readexactly(0 if data.startswith(b"HEAD") else _length(answer))
        writer.transport.abort()
        status = int(answer[9:12]) if answer else 0
        _say([status, status < 400 or _is_openai(answer), engine.asked - asked])


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)


def _is_openai(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"\r\nallow: " in head.lower() and not body:
        return True  # To HEAD.
    try:
        return set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
    except (ValueError, KeyError, TypeError):
        return False


class _Asking:
    """The client's process, from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def hear(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        return json.loads(await self._process.stdout.readline())

    def tell(self, value: str | int) -> None:
        """A line for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{value}\n".encode())


@asynccontextmanager
async def _asking() -> AsyncIterator[_Asking]:
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "benchmarks.hostile", "client"]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        yield _Asking(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def measure() -> None:
    """Print a row for each kind of case, and the cases that took longest."""
    rows = cases()
    found: dict[str, list[int]] = {kind: [0] * 5 for kind in KINDS}
    longest: list[tuple[float, float, str, int]] = []
    async with _asking() as client:
        engine = f"http://127.0.0.1:{await client.hear()}"
        async with gateway({"name": "b0", "url": engine, "kind": "openai"}) as stand:
            client.tell(stand.running.api_url)
            beats = Beats(asyncio.get_running_loop())
            for number, (kind, name, _) in enumerate(rows):
                beats.reset()
                client.tell(number)
                status, is_openai, passed = await client.hear()
                for at, count in enumerate((1, passed, status >= 500, status > 0 and not is_openai, status == 0)):
                    found[kind][at] += count
                longest.append((beats.worked_s, beats.waited_s, name, status))
            beats.stop()
    print("| cases | sent | to the engine | 5xx | not OpenAI's form | no answer |\n|---|---|---|---|---|---|")
    for kind in KINDS:
        print(f"| {kind} | {' | '.join(map(str, found[kind]))} |")
    print("\nWorst bodies may be good ones: those go to the engine. No answer: it waits for the rest of a body.\n")
    print("| longest work of the loop | longest wait | case | status |\n|---|---|---|---|")
    for worked_s, waited_s, name, status in sorted(longest, reverse=True)[:SHOWN]:
        print(f"| {worked_s * 1e3:.1f} ms | {waited_s * 1e3:.1f} ms | {name[:60]} | {status} |")
    print(f"\nLongest wait of all: {max(waited_s for _, waited_s, _, _ in longest) * 1e3:.1f} ms")


if __name__ == "__main__":
    asyncio.run(_client() if sys.argv[1:] == ["client"] else measure())
