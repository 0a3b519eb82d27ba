"""What other gateways do where KVGate promises something: streams cut short, clients that leave or never read, SIGTERM.

`python -m benchmarks.reliability_peers` starts each that is installed (`benchmarks.peer_servers`) in front of a raw
upstream that plays one fault at a time, in this process, and looks at both ends. Defaults, one worker, few requests:
this tells what is done, not how fast.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.mock_engine import MODEL, Engine
from benchmarks.peer_servers import PEERS, Peer, Server, running

ROUNDS = 10
IDLE_STREAMS = 200
DRAINED_STREAMS = 20
GONE_MAX_S = 3.0
FLOOD_S = 4.0
FLOODS = 4
DRAIN_S = 2.0
PATIENCE_S = 15.0
EVENT = (
    b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
LAST = EVENT.replace(b"null", b'"stop"')
ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 131_072}]}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 64}
HOSTILE = (
    b'{"model":"bench","model":"other","messages":[{"role":"user","content":"x"}]}',
    b'{"model":"bench","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    b'{"model":"bench","messages":[{"role":"user","content":"x"}],"n":1000000}',
    b'{"model":"bench","messages":[{"role":"user","content":"x"}],"max_tokens":-1}',
    b'{"model":"bench","messages":[{"role":"user","content":"x"}],"max_tokens":1e400}',
    b'{"model":"bench","messages":[{"role":"user","content":"\xff"}]}',
    b'{"model":"bench","messages":[{"role":"user","content":"x"}],"prompt_embeds":"AAAA"}',
    b'{"model":"bench","messages":[{"role":"user","content":"x"}],"chat_template":"{{ 1 }}"}',
    b'{"model":"bench","messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":100000}',
    b'{"model":"bench","messages":' + b"[" * 200 + b"]" * 200 + b"}",
    b'{"model":"bench","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://a/"}}]}]}',
    b'{"model":"bench","messages":"x"}',
)
"""What `benchmarks.hostile` has hundreds of."""


@dataclass(slots=True)
class Upstream:
    """Plays what it is told to, and notes what it sees."""

    mode: str = "answer"
    asked: int = 0
    lost_at: list[float] = field(default_factory=list)
    """When connections were closed under a stream."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or b"0")
                await reader.readexactly(length)
                if head.startswith(b"post /v1/"):
                    self.asked += 1
                    await self._play(reader, writer)
                elif head.startswith(b"get /v1/models"):
                    writer.write(_whole(json.dumps(MODELS).encode()))
                elif head.startswith(b"get /metrics"):
                    writer.write(_whole(Engine(1.0).page(), b"text/plain"))
                else:
                    writer.write(_whole(b'{"version":"0.33.0","model_path":"bench","is_generation":true}'))
        writer.close()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "answer":
            writer.write(_whole(ANSWER))
            return
        self.begun.set()
        if self.mode != "silent":
            writer.write(STREAM_HEAD + _chunk(EVENT))
        match self.mode:
            case "cut":
                writer.write(_chunk(EVENT) + b"0\r\n\r\n")
            case "slow":
                await asyncio.sleep(DRAIN_S)
                writer.write(_chunk(LAST) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            case "flood":
                while not writer.is_closing():
                    writer.write(_chunk(EVENT * 300))
                    await writer.drain()
            case _:
                await reader.read(1)
                self.lost_at.append(time.monotonic())
                raise ConnectionResetError


def _whole(body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(slots=True)
class Bench:
    """One gateway in front of the upstream."""

    server: Server
    upstream: Upstream

    async def ask(self, *, stream: bool = True, body: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A request that was sent."""
        sent = body or json.dumps(ASK | {"stream": stream}).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in self.server.headers.items())
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{more}Content-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.site.port)
        writer.write(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
        return reader, writer

    async def silent_ends(self) -> float:
        """Streams that ended without their end, of which the client was not told."""
        self.upstream.mode, silent = "cut", 0
        for _ in range(ROUNDS):
            reader, writer = await self.ask()
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(PATIENCE_S):
                    seen = b""
                    while not seen.endswith(b"\r\n0\r\n\r\n") and (more := await reader.read(65536)):
                        seen += more
                    silent += seen.endswith(b"\r\n0\r\n\r\n") and b'"error"' not in seen
            writer.close()
        return silent / ROUNDS

    async def cancelled_ms(self, mode: str, *, stream: bool) -> float:
        """The longest time from a client's leaving to its connection's end at the engine; infinite if it lives on."""
        self.upstream.mode, worst = mode, 0.0
        for _ in range(ROUNDS):
            self.upstream.begun.clear()
            self.upstream.lost_at.clear()
            reader, writer = await self.ask(stream=stream)
            await asyncio.wait_for(self.upstream.begun.wait(), PATIENCE_S)
            if mode == "held":
                await asyncio.wait_for(reader.readuntil(b"\n\n"), PATIENCE_S)
            left_at = time.monotonic()
            writer.transport.abort()
            while not self.upstream.lost_at:
                if time.monotonic() > left_at + GONE_MAX_S:
                    return float("inf")
                await asyncio.sleep(0.001)
            worst = max(worst, (self.upstream.lost_at[0] - left_at) * 1e3)
        return worst

    async def flooded_mb(self) -> float:
        """Memory that one client costs that does not read an endless stream."""
        self.upstream.mode = "flood"
        before = self.server.memory_bytes()
        writers = [(await self.ask())[1] for _ in range(FLOODS)]
        for writer in writers:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(FLOOD_S)
        grown = self.server.memory_bytes() - before
        for writer in writers:
            writer.transport.abort()
        return grown / FLOODS / 2**20

    async def idle_kb(self) -> float:
        """Memory of a stream that stands still."""
        self.upstream.mode = "held"
        warm = [await self.ask() for _ in range(IDLE_STREAMS // 10)]
        for reader, _ in warm:
            await asyncio.wait_for(reader.readuntil(b"\n\n"), PATIENCE_S)
        before = self.server.memory_bytes()
        streams = [await self.ask() for _ in range(IDLE_STREAMS)]
        for reader, _ in streams:
            await asyncio.wait_for(reader.readuntil(b"\n\n"), PATIENCE_S)
        grown = self.server.memory_bytes() - before
        for _, writer in (*warm, *streams):
            writer.transport.abort()
        return grown / IDLE_STREAMS / 1024

    async def hostile_passed(self) -> float:
        """Hostile bodies of which the engine heard."""
        self.upstream.mode = "answer"
        before = self.upstream.asked
        for body in HOSTILE:
            reader, writer = await self.ask(body=body)
            with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            writer.close()
        return float(self.upstream.asked - before)

    async def lost_at_sigterm(self) -> float:
        """Streams without their end when it was asked to stop."""
        self.upstream.mode = "slow"
        streams = [await self.ask() for _ in range(DRAINED_STREAMS)]
        for reader, _ in streams:
            await asyncio.wait_for(reader.readuntil(b"\n\n"), PATIENCE_S)
        os.kill(self.server.process.pid, signal.SIGTERM)
        lost = 0
        for reader, writer in streams:
            try:
                await asyncio.wait_for(reader.readuntil(b"[DONE]"), PATIENCE_S)
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                lost += 1
            writer.close()
        return float(lost)


PROBES: dict[str, Callable[[Bench], Awaitable[float]]] = {
    "streams cut short, not told, share": Bench.silent_ends,
    "cancel in a stream, ms, worst": lambda bench: bench.cancelled_ms("held", stream=True),
    "cancel before the first byte, ms, worst": lambda bench: bench.cancelled_ms("silent", stream=True),
    "cancel of a request in one piece, ms, worst": lambda bench: bench.cancelled_ms("silent", stream=False),
    "KB per idle stream": Bench.idle_kb,
    "a client that does not read, MB": Bench.flooded_mb,
    f"hostile bodies passed, of {len(HOSTILE)}": Bench.hostile_passed,
    f"streams lost at SIGTERM, of {DRAINED_STREAMS}": Bench.lost_at_sigterm,
}
"""In this order: the last one ends the gateway."""


async def of_peer(peer: Peer) -> dict[str, float]:
    """All figures of one; a probe that cannot be done is left out."""
    upstream = Upstream()
    listening = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    found: dict[str, float] = {}
    starting = running(peer, [listening.sockets[0].getsockname()[1]])
    server = await asyncio.to_thread(starting.__enter__)
    try:
        bench = Bench(server, upstream)
        for name, probe in PROBES.items():
            with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError):
                found[name] = await probe(bench)
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)
        listening.close()
    return found


def figures(names: list[str]) -> dict[str, dict[str, float]]:
    """By gateway; one that is not installed or does not start is left out."""
    found = {}
    for name in names:
        if PEERS[name].is_installed:
            try:
                found[name] = asyncio.run(of_peer(PEERS[name]))
            except RuntimeError as trouble:
                print(f"{name}: {trouble}", flush=True)
    return found


def main() -> None:
    """Measures and prints a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", help=f"of {', '.join(PEERS)}")
    arguments.add_argument("--json", action="store_true", help="one JSON object")
    given = arguments.parse_args()
    found = figures(given.names or ["kvgate", "vllm-router", "sglang-router", "litellm", "nginx", "haproxy"])
    if given.json:
        print(json.dumps(found))
        return
    print(f"{'':44}" + "".join(f"{name:>15}" for name in found))
    for row in PROBES:
        print(f"{row:44}" + "".join(f"{values.get(row, float('nan')):15,.1f}" for values in found.values()))


if __name__ == "__main__":
    main()
