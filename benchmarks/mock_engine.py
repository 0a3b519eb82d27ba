"""An engine that answers at once and costs little: vLLM's routes on a bare protocol.

It generates as an engine does: each step gives every running stream one event, `max_tokens` of them in all. No stream
ever stands still because another begins: KVGate would learn that prompts take long to read, and send them spaced out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from typing import cast

import uvloop

MODEL = "bench"
ANSWER_BYTES = 1024
EVENT_BYTES = 200
PROMPT_TOKENS = 250
BLOCK_TOKENS = 16
BLOCKS = 1_000_001
"""16 million tokens: nothing ever waits."""
PAGE_LINES = 500
"""A real metrics page is mostly histograms that nobody here reads; they cost whoever reads the page all the same."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MAX_TOKENS = re.compile(rb'"max_tokens": *(\d+)')
_STREAM = re.compile(rb'"stream": *true')
_USAGE = re.compile(rb'"include_usage": *true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Engine:
    """Counts, and gives every running stream an event per step."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.streams: dict[Connection, int] = {}
        """Events that are still to come."""
        self.prompt_tokens = 0
        self.output_tokens = 0

    def start_stream(self, connection: Connection, events: int) -> None:
        """Take a stream in."""
        self.prompt_tokens += PROMPT_TOKENS
        self.streams[connection] = events
        if self._timer is None:
            self._timer = self._loop.call_later(self._step_s, self._step)

    def _step(self) -> None:
        for connection in tuple(self.streams):
            self._advance(connection)
        self._timer = self._loop.call_later(self._step_s, self._step) if self.streams else None

    def _advance(self, connection: Connection) -> None:
        left = self.streams.get(connection)
        if left is None:
            return
        self.output_tokens += 1
        if left > 1:
            self.streams[connection] = left - 1
            connection.transport.write(_EVENT)
        else:
            del self.streams[connection]
            connection.transport.write(_LAST_EVENT + (_USAGE_EVENT if connection.wants_usage else b"") + _END)

    def page(self) -> bytes:
        """`/metrics`, in vLLM's words."""
        running = len(self.streams)
        usage = running * (PROMPT_TOKENS // BLOCK_TOKENS + 1) / BLOCKS
        return f"""{_FILLER}# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{MODEL}"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="{MODEL}"}} 0
vllm:kv_cache_usage_perc{{engine="0",model_name="{MODEL}"}} {usage:.6f}
vllm:num_preemptions_total{{engine="0",model_name="{MODEL}"}} 0
vllm:prompt_tokens_total{{engine="0",model_name="{MODEL}"}} {self.prompt_tokens}
vllm:generation_tokens_total{{engine="0",model_name="{MODEL}"}} {self.output_tokens}
vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",engine="0",num_gpu_blocks="{BLOCKS}"}} 1
process_start_time_seconds 1
""".encode()


class Connection(asyncio.Protocol):
    """One client. Requests are told apart by their length; nothing is checked."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = b""
        self.wants_usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance.

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self._engine.streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, head_end)
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < end:
                return
            head, body = self._buffer[:head_end], self._buffer[head_end + 4 : end]
            self._buffer = self._buffer[end:]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        if path == "/v1/chat/completions" and _STREAM.search(body):
            self.wants_usage = _USAGE.search(body) is not None
            limit = _MAX_TOKENS.search(body)
            self.transport.write(_STREAM_HEAD)
            self._engine.start_stream(self, int(limit[1]) if limit else 16)
        elif path == "/v1/chat/completions":
            self._engine.prompt_tokens += PROMPT_TOKENS
            self._engine.output_tokens += 16
            self.transport.write(_ANSWER)
        elif path == "/metrics":
            self.transport.write(_response(self._engine.page(), "text/plain; version=0.0.4"))
        else:
            self.transport.write(_PAGES.get(path, _NOT_FOUND))


def _response(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _answer_body() -> bytes:
    """An answer of `ANSWER_BYTES`."""
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 16, "total_tokens": PROMPT_TOKENS + 16}

    def with_text(text: str) -> bytes:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer = {"id": "chatcmpl-0", "object": "chat.completion", "created": 1, "model": MODEL}
        return _json({**answer, "choices": [choice], "usage": usage})

    return with_text("x" * (ANSWER_BYTES - len(with_text(""))))


def _event(fields: dict[str, object]) -> bytes:
    """An event as one piece of chunked HTTP."""
    common = {"id": "chatcmpl-0000000000000000", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    data = b"data: " + _json({**common, **fields}) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _token(finish_reason: str | None) -> dict[str, object]:
    delta = {"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": finish_reason}
    return {"choices": [delta], "system_fingerprint": "x" * (EVENT_BYTES - 214)}


_EVENT = _event(_token(None))
_LAST_EVENT = _event(_token("length"))
_USAGE_EVENT = _event({"choices": [], "usage": {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 100}})
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_ANSWER = _response(_answer_body())
_NOT_FOUND = _response(b"{}", status="404 Not Found")
_LISTED = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": 131_072}
_PAGES = {
    "/v1/models": _response(_json({"object": "list", "data": [_LISTED]})),
    "/version": _response(b'{"version":"0.33.0"}'),
    "/health": _response(b""),
}
_FILLER = "".join(
    f'vllm:e2e_request_latency_seconds_bucket{{engine="0",le="{i}",model_name="{MODEL}"}} {i}\n'
    for i in range(PAGE_LINES)
)


async def _serve(step_s: float) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    engine = Engine(step_s)
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"api": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    await stop.wait()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--step-s", type=float, default=0.02, help="seconds between two events of a stream")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(arguments.parse_args().step_s))
