"""Requests whose head alone must keep them from every engine, each with its answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

GOOD = b'{"model":"m","prompt":"secret"}'
HTTP = "invalid_http"
URL = "unknown_url"
METHOD = "method_not_allowed"


@dataclass(frozen=True, slots=True)
class Head:
    """Bytes of one connection, and the code of the error that answers them."""

    data: bytes
    code: str

    def __str__(self) -> str:
        return f"{self.code}:{self.data[:70]!r}"


def ask(start: bytes, *lines: bytes) -> bytes:
    """A request for a completion that is good but for its first line or these lines."""
    head = (start, b"Host: x", b"Content-Length: %d" % len(GOOD), *lines)
    return b"\r\n".join(head) + b"\r\n\r\n" + GOOD


_TRICKS = (
    *("//v1/completions", "/v1//completions", "/v1/completions/", "/v1/./completions", "/v1/x/../completions"),
    *("/v1/%63ompletions", "/v1%2fcompletions", "/%76%31/completions", "/v1/completions;x", "/v1/completions;x=y"),
    *("/v1/completions%00", "/v1/completions%20", "/v1/completions%3f", "/V1/completions", "/v1/Completions"),
    *("/v1\\completions", "/../v1/completions", "/..;/v1/completions", "/v1/completions.", "/v1/completions.json"),
    *("/v1/completions/..", "/v1/completions/.", "/v1/completions%2e", "/v1/completions%23", "/./v1/completions"),
    *(
        "http://x/v1/completions",
        "https://engine:8000/v1/completions",
        "http://x@y/v1/completions",
        "//x/v1/completions",
    ),
    *(
        "http://x:80/v1/completions",
        "http://y/v1/completions",
        "/v1/completions%0d%0aX:y",
        "/v1/completions/m",
        "/%2e",
    ),
    *("/v1/chat/../completions", "/v1/completions\\..", "/v1/completions|x", "/v1/completions^", "/v1/completions{}"),
)
_OF_ENGINES_AND_OTHERS = """
    / /metrics /docs /openapi.json /version /ping /load /tokenize /detokenize /invocations /pooling /score /rerank
    /v1/rerank /v2/rerank /v1/score /classify /pause /resume /sleep /wake_up /is_sleeping /reset_prefix_cache
    /collective_rpc /update_weights /init_weight_transfer_engine /start_profile /stop_profile /v1/load_lora_adapter
    /v1/unload_lora_adapter /scale_elastic_ep /server_info /abort_request /generate /encode /flush_cache
    /get_server_info /get_model_info /release_memory_occupation /resume_memory_occupation /update_weights_from_disk
    /open_session /close_session /set_internal_state /configure_logging /dump_tensor /slots /slots/0?action=erase
    /props /lora-adapters /infill /completion /completions /chat/completions /embedding /embeddings /apply-template
    /v1/responses /v1/messages /v1/audio/speech /v1/audio/transcriptions /v1/images/generations /v1/files /v1/batches
    /v1/fine_tuning/jobs /v1/assistants /v1/realtime /v1/moderations /workers /add_worker /remove_worker /list_workers
    /admin /-/reload /-/drain /api/v1/state /api/v1/backends/b0/drain /healthz /readyz /.env /.git/config"""
_NOT_OURS = tuple(_OF_ENGINES_AND_OTHERS.split())
_METHODS = (
    "GET",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "QUERY",
    "MKCOL",
    "LOCK",
    "PURGE",
)
_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/estimate")
_NO_HTTP = (
    *(
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
    ),
    *(
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\r\n\r\n",
        b"EHLO x\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n\r\n",
    ),
    *(b"\x00\x00\x00\x00\r\n\r\n", b"GET /health\r\n\r\n", b"GET\r\n\r\n", b": x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    *(
        b"GET /health HTTP/1.1 x\r\n\r\n",
        b"<x/>\r\n\r\n",
        b'{"model":"m"}\r\n\r\n',
        b"\xff\xfe\r\n\r\n",
        b"GET  /health HTTP/1.1\r\n\r\n",
    ),
)
_LINES = (
    *(
        b"X: a\x00b",
        b"X: a\rb",
        b"X: a\nb: c\x00",
        b"X : y",
        b": y",
        b"X",
        b"X\x00: y",
        b"X Y: z",
        b"X(Y): z",
        b'"X": y',
        b"\xc3\xa4: y",
    ),
    *(b"X@Y: z", b"X/Y: z", b"X[: y", b"X{: y", b"X<: y", b"X,Y: z", b"X;Y: z", b"X=Y: z", b"X?: y", b"X\\: y"),
    *(b"X: " + b"y" * 9_000, b"x" * 9_000 + b": y", b"\r\n".join(b"X%d: y" % number for number in range(80))),
    *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Content-Length: 1", b"Content-Length: x"),
)


def _places() -> Iterator[Head]:
    """Paths and methods."""
    for path in (*_TRICKS, *_NOT_OURS):
        yield Head(ask(f"POST {path} HTTP/1.1".encode()), URL)
    for path in _NOT_OURS:
        yield Head(ask(f"GET {path} HTTP/1.1".encode()), URL)
    for method in _METHODS:
        for path in _ENDPOINTS:
            yield Head(ask(f"{method} {path} HTTP/1.1".encode()), METHOD)
    for odd in (
        b"*",
        b"v1/completions",
        b"x:80",
        b"/v1/completions\x00",
        b"file:///v1/completions",
        b"http://x:99999/v1/completions",
        b"/v1/comp\x0bletions",
        b"/" + b"x" * 9_000,
        b"?",
    ):
        yield Head(ask(b"POST " + odd + b" HTTP/1.1"), HTTP)


def _no_http() -> Iterator[Head]:
    """What is no HTTP/1.1, or no good one."""
    for version in (
        b"HTTP/1.2",
        b"HTTP/9.9",
        b"HTTP/11",
        b"http/1.1",
        b"HTTP/0.9",
        b"HTTP/2.0",
        b"HTTP/3",
        b"HTTP/1",
        b"HTTP/1.1x",
        b"HTTP/-1.1",
        b"HTTPS/1.1",
        b"ICY/1.0",
    ):
        yield Head(ask(b"POST /v1/completions " + version), HTTP)
    yield from (Head(data, HTTP) for data in _NO_HTTP)
    yield from (Head(ask(b"POST /v1/completions HTTP/1.1", line), HTTP) for line in _LINES)
    for code in (*range(1, 9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F):
        yield Head(ask(b"POST /v1/completions HTTP/1.1", b"X: a" + bytes([code]) + b"b"), HTTP)


def _refused() -> Iterator[Head]:
    """Headers that ask for something that is not done here."""
    for coding in (
        b"gzip",
        b"br",
        b"zstd",
        b"deflate",
        b"compress",
        b"GZIP",
        b"identity, gzip",
        b"gzip, identity",
        b"x",
    ):
        line = b"Content-Encoding: " + coding
        yield Head(ask(b"POST /v1/completions HTTP/1.1", line), "unsupported_media_type")
    for expected in (b"x", b"100-continue, x", b"200-ok", b"100"):
        yield Head(ask(b"POST /v1/completions HTTP/1.1", b"Expect: " + expected), "expectation_failed")
    for priority in (b"urgent", b"-1", b"0", b"99", b"interactive, batch", b"\xff"):
        yield Head(ask(b"POST /v1/completions HTTP/1.1", b"X-KVGate-Priority: " + priority), "invalid_value")
    for length in (4 * 2**20 + 1, 100_000_000, 2**31, 2**62):
        data = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % length
        yield Head(data, "request_too_large")


HEADS = (*_places(), *_no_http(), *_refused())
