"""An engine that misbehaves on command: raw bytes over loopback sockets, an answer for each request.

Answers are played in the order given, or chosen by the request (`pick`), so that what must come of it is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from collections import deque
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

REQUEST_MAX_BYTES = 1 << 20


class Step(enum.Enum):
    """What an answer can do besides sending bytes."""

    RESET_UNREAD = "the connection is torn down by RST before the request's body is read; first in its answer"
    RESET = "the connection is torn down by RST"
    CLOSE = "the connection is closed properly"
    STALL = "nothing more until the client closes"


@dataclass(frozen=True, slots=True)
class Trickle:
    """Bytes that leave one at a time, each in its own segment."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """A while in which nothing is sent."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class Flood:
    """A block sent over and over, as fast as the client takes it."""

    block: bytes
    times: int


Sent = bytes | asyncio.Event | Trickle | Pause | Flood
Answer = tuple[Sent | Step, ...]
"""Played in order; an event is waited for. After the last one the connection stays open for the next request."""


@dataclass(frozen=True, slots=True)
class Request:
    """What reached the engine."""

    line: bytes
    headers: dict[bytes, bytes]
    body: bytes
    connection: int
    """Counts connections from 0: equal numbers came over the same one."""


class FaultyEngine:
    """Listens on loopback while its `async with` lasts; plays `answers` in order and the last one for ever."""

    _reserved: socket.socket

    def __init__(self, *answers: Answer) -> None:
        self._answers = deque(answers)
        self._server: asyncio.Server | None = None
        self._players: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.connections = 0
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        """Set by the first request."""
        self.left = asyncio.Event()
        """Set once the engine itself has closed or reset a connection."""
        self.sent_bytes = 0
        """What floods have handed to the socket so far."""
        self.hang_ups: asyncio.Queue[int] = asyncio.Queue()
        """Numbers of the connections that the client closed, in that order."""
        self.url = ""

    async def __aenter__(self) -> Self:
        self._reserved = socket.socket()
        # Bound, but not listening: whoever connects while the engine is dead is refused, and nobody takes the port.
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        host, port = self._reserved.getsockname()
        self.url = f"http://{host}:{port}"
        await self.listen()
        return self

    async def listen(self) -> None:
        """Take connections, for the first time or after a death."""
        host, port = self._reserved.getsockname()
        self._server = await asyncio.start_server(self._serve, host, port, reuse_port=True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.die()
        self._reserved.close()

    async def die(self) -> None:
        """As if the process were killed: nobody listens any more, and what was open is cut."""
        assert self._server is not None
        self._server.close()
        players = tuple(self._players)
        for task, writer in self._players.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*players, return_exceptions=True)

    def pick(self, request: Request) -> Answer:
        """The answer to this request, whose body is not read yet."""
        del request
        return self._answers.popleft() if len(self._answers) > 1 else self._answers[0]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        task = asyncio.current_task()
        assert task is not None
        self._players[task] = writer
        try:
            while await self._answer_one(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hang_ups.put_nowait(number)
        except asyncio.CancelledError:
            pass  # By __aexit__; streams of Python 3.11 report a cancelled handler as an error.
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self.left.set()
            del self._players[task]

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        """Play one answer; False once the connection is over."""
        request = await _read_head(reader, number)
        answer = self.pick(request)
        if Step.RESET_UNREAD in answer:
            _reset(writer)
            return False
        length = int(request.headers.get(b"content-length", b"0"))
        assert length <= REQUEST_MAX_BYTES
        request = replace(request, body=await reader.readexactly(length))
        self.requests.append(request)
        self.asked.set()
        return await self.play(request, answer, reader, writer)

    async def play(
        self, request: Request, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Send the answer to this request; False once the connection is over."""
        del request
        for step in answer:
            match step:
                case Step.STALL:
                    raise asyncio.IncompleteReadError(await reader.read(), None)
                case Step.RESET | Step.RESET_UNREAD:
                    _reset(writer)
                    return False
                case Step.CLOSE:
                    return False
                case _:
                    await self._send(step, writer)
        return True

    async def _send(self, part: Sent, writer: asyncio.StreamWriter) -> None:
        match part:
            case bytes():
                await _write(writer, part)
            case asyncio.Event():
                await part.wait()
            case Pause(duration_s):
                await asyncio.sleep(duration_s)
            case Trickle(data):
                await _trickle(writer, data)
            case Flood(block, times):
                for _ in range(times):
                    await _write(writer, block)
                    self.sent_bytes += len(block)


def response(
    body: bytes = b"{}", *, status: int = 200, headers: bytes = b"Content-Type: application/json\r\n"
) -> bytes:
    """A whole answer with a content length."""
    return b"HTTP/1.1 %d Said\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"data: [DONE]\n\n"


def stream(*events: bytes) -> bytes:
    """A whole chunked event stream, one chunk for each event."""
    return STREAM_HEAD + b"".join(map(chunk, events)) + LAST_CHUNK


def event(text: str) -> bytes:
    """One token of a completion, as engines stream it."""
    return b'data: {"object":"text_completion","choices":[{"index":0,"text":"%b"}]}\n\n' % text.encode()


ERROR_EVENT = b'data: {"error":{"message":"the engine is ill","type":"server_error","code":503}}\n\n'

FAULTS: dict[str, Answer] = {
    "reset_before_head": (Step.RESET,),
    "close_before_head": (Step.CLOSE,),
    "close_in_head": (STREAM_HEAD[:40], Step.CLOSE),
    "stall_before_head": (Step.STALL,),
    "stall_in_body": (STREAM_HEAD + chunk(event("a")), Step.STALL),
    "reset_in_body": (STREAM_HEAD + chunk(event("a")), Step.RESET),
    "close_in_chunk": (STREAM_HEAD + chunk(event("a"))[:-9], Step.CLOSE),
    "close_between_chunks": (STREAM_HEAD + chunk(event("a")), Step.CLOSE),
    "close_before_content_length": (response(b"x" * 100)[:-1], Step.CLOSE),
    "bad_chunk_size": (STREAM_HEAD + b"zz\r\nabc\r\n", Step.STALL),
    "bad_chunk_end": (STREAM_HEAD + b"3\r\nabcdef\r\n", Step.STALL),
    "both_framings": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", Step.STALL),
    "two_lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", Step.STALL),
    "many_headers": (b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * 500 + b"\r\n", Step.STALL),
    "endless_head": (b"HTTP/1.1 200 OK\r\nX-Y: " + b"z" * 100_000, Step.STALL),
    "garbage": (b"\x16\x03\x01 not a response\r\n\r\n", Step.STALL),
    "bare_line_feeds": (b"HTTP/1.1 200 OK\n\nhello", Step.STALL),
    "compressed": (response(b"\x1f\x8b", headers=b"Content-Encoding: gzip\r\n"), Step.STALL),
    "switching_protocols": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", Step.STALL),
    "interim_flood": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20, Step.STALL),
    "error_event": (stream(ERROR_EVENT, DONE),),
    "early_end": (stream(event("a")),),
    "rate_limited": (response(status=429, headers=b"Retry-After: 7\r\n"),),
    "unavailable": (response(status=503),),
    "broken_inside": (response(b"Internal Server Error", status=500),),
    "bad_request": (response(status=400),),
    "redirect": (response(b"", status=307, headers=b"Location: /elsewhere\r\n"),),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n",),
    "garbage_metrics": (response(b"vllm:kv_cache_usage_perc{model_name=\xff} NaN of\n# TYP\n"),),
}
"""Answers with a fault, by name: broken connections and framing first, then whole answers of an engine that is ill."""


def refusing_url() -> str:
    """A URL on loopback where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


async def _read_head(reader: asyncio.StreamReader, number: int) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *fields = head[:-4].split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
    return Request(line, headers, b"", number)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():  # uvloop would raise something else.
        raise ConnectionResetError
    writer.write(data)
    await writer.drain()


async def _trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(len(data)):
        await _write(writer, data[at : at + 1])
        await asyncio.sleep(0)


def _reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
