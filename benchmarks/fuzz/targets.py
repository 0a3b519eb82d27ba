"""What is fuzzed, and what must hold for any bytes: a target raises only if a promise is broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser

from benchmarks.fuzz.seeds import BODIES, PAGES, RESPONSES, STREAMS
from gateway.api.allowed_fields import ALLOWED
from gateway.api.error_body import render_error
from gateway.api.estimate import parse_estimate
from gateway.api.parse import ParsePolicy, parse_inference
from gateway.backends import exposition
from gateway.backends.exchange import Connection, Exchange, UpstreamFailure
from gateway.backends.http1 import MalformedResponseError, ResponseParser
from gateway.errors import ApiError
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, forward_body
from gateway.sse import EventSplitter, iter_data
from gateway.stream_watch import StreamWatch, read_answer

_ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS, "")
_POLICIES = (
    ParsePolicy(),
    ParsePolicy("drop"),
    ParsePolicy("pass", remote_media_hosts=frozenset({"x"})),
    ParsePolicy(extra_fields=frozenset({"a", "regex"})),
)
_NAMES = frozenset((b"a", b"vllm:kv_cache_usage_perc", b"a_b"))


@dataclass(frozen=True, slots=True)
class Target:
    """A function of any bytes, and where to begin."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()
    """What is worth inserting."""


def parse(data: bytes) -> None:
    """A body is read or refused with an error that can be sent; what is read is strict JSON for an exact reader too."""
    if not data:
        return
    endpoint, policy, body = _ENDPOINTS[data[0] & 3], _POLICIES[data[0] >> 2 & 3], data[1:]
    try:
        request = parse_inference(endpoint, body, policy) if endpoint else parse_estimate(body, policy)
    except ApiError as error:
        status, _, text = render_error(error)
        assert status in (400, 404)
        assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}
        return
    if endpoint:
        _exactly(body)
    forwarded = _exactly(request.body)
    assert policy.unknown_fields == "pass" or forwarded.keys() <= ALLOWED[request.endpoint].keys() | policy.extra_fields
    asked = _exactly(forward_body(request, engine_model="e", include_usage=True, max_tokens=7))
    assert asked["model"] == "e"
    assert forwarded.keys() - asked.keys() == set()
    assert request.shape.n >= 1
    assert request.shape.text_bytes >= 0


def _exactly(body: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        assert len({name for name, _ in pairs}) == len(pairs), "a key came twice"
        return dict(pairs)

    def refuse(constant: str) -> object:
        raise AssertionError(constant)

    value = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=refuse)
    assert isinstance(value, dict)
    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogate
    return value


def sse(data: bytes) -> None:
    """However a stream is cut, the same bytes and the same events pass, and the same is learned from it."""
    stream, pieces = _cut(data)
    whole = EventSplitter()
    at_once = whole.feed(stream)
    cut = EventSplitter()
    fed = [cut.feed(piece) for piece in pieces]
    assert b"".join(fed) == at_once == stream[: len(stream) - whole.pending]
    assert [item for part in fed for item in iter_data(part)] == list(iter_data(at_once))
    for keep_usage in (True, False):
        one, many = StreamWatch(keep_usage=keep_usage), StreamWatch(keep_usage=keep_usage)
        at_once, in_pieces = one.take(stream), b"".join(map(many.take, pieces))
        assert list(iter_data(in_pieces)) == list(iter_data(at_once))
        # Where an event is left out, the LF of its last CR LF may stay behind: an empty line more.
        assert in_pieces.translate(None, b"\r\n") == at_once.translate(None, b"\r\n")
        assert (one.done, one.usage, one.hit_length, one.failed) == (
            many.done,
            many.usage,
            many.hit_length,
            many.failed,
        )
    read_answer(stream)


def http1(data: bytes) -> None:
    """However a response is cut, the verdict is the same."""
    stream, pieces = _cut(data)
    assert _verdict([stream]) == _verdict(pieces)


def _verdict(pieces: list[bytes]) -> tuple[object, ...] | None:
    parser = ResponseParser()
    payload = []
    try:
        payload = [parser.feed(piece) for piece in pieces]
    except MalformedResponseError:
        return None
    parser.feed_eof()
    return parser.head, b"".join(payload), parser.complete, parser.keepalive_s


_LOOP = asyncio.new_event_loop()


def peer(data: bytes) -> None:
    """A response that both this client and aiohttp's take whole is the same for both."""
    ours = _verdict([data])
    if ours is None or not ours[2] or b"\t" in data:  # To aiohttp's parser a tab behind "chunked" is part of it.
        return
    reader = HttpResponseParser(BaseProtocol(_LOOP), _LOOP, 2**16, read_until_eof=True, auto_decompress=False)
    try:
        messages, _, _ = reader.feed_data(data)
        reader.feed_eof()
    except (HttpProcessingError, ValueError):
        return
    final = [(message, payload) for message, payload in messages if message.code >= 200]
    if not final or final[0][1].exception() is not None or not final[0][1].is_eof():
        return
    message, payload = final[0]
    head, body, _, _ = ours
    assert message.code == head.status  # type: ignore[attr-defined]
    assert b"".join(getattr(payload, "_buffer", ())) == body


class _Transport(asyncio.Transport):
    """A socket that leads nowhere."""

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def upstream(data: bytes) -> None:
    """A connection that brings any bytes and then ends gives an answer, or the one exception of the client."""
    _, pieces = _cut(data)
    connection = Connection(lambda _: None)
    connection.connection_made(_Transport())
    exchange = connection.exchange = Exchange(connection, _LOOP)
    for piece in pieces:
        connection.data_received(piece)
    connection.eof_received()
    assert exchange.ended_at is not None
    for step in (exchange.head(), exchange.read(2_000)):
        try:
            step.send(None)
        except StopIteration:
            continue
        except UpstreamFailure:
            pass
        else:
            raise AssertionError("it waits for what has ended")
        finally:
            step.close()


def page(data: bytes) -> None:
    """A page of metrics gives samples or ValueError, and families do not depend on each other."""
    try:
        found = exposition.parse(data, _NAMES)
    except ValueError:
        return
    assert all(isinstance(value, float) for samples in found.values() for _, value in samples)
    alone = {name: rows for one in _NAMES for name, rows in exposition.parse(data, frozenset({one})).items()}
    assert {name: repr(rows) for name, rows in alone.items()} == {name: repr(rows) for name, rows in found.items()}


def _cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """A stream, and the same in pieces whose lengths its first bytes tell."""
    lengths, stream = data[:4], data[4:]
    return stream, list(_pieces(stream, lengths))


def _pieces(stream: bytes, lengths: bytes) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(stream):
        length = lengths[turn % len(lengths)] % 61 + 1
        yield stream[at : at + length]
        at, turn = at + length, turn + 1


_JSON_WORDS = (
    b'"',
    b'\\"',
    b"\\u0061",
    b"\\ud83d",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b" ",
    b"null",
    b"1e400",
    b"NaN",
)
_FIELDS = tuple(sorted({f'"{name}"'.encode() for fields in ALLOWED.values() for name in fields}))
_HTTP_WORDS = (
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"0\r\n\r\n",
)
_SSE_WORDS = (
    b"data: ",
    b"data",
    b"\n\n",
    b"\r\n",
    b"\r",
    b"[DONE]",
    b'"usage":{',
    b'"finish_reason":"length"',
    b"\xef\xbb\xbf",
)
_PAGE_WORDS = (b"\na", b"{", b"}", b'="', b'"', b"\\", b"+Inf", b"NaN", b"1e9", b"\n", b"#")

_CUT = b"\x07\x00\x1d\x02"
TARGETS = {
    "parse": Target(parse, tuple(bytes([at % 16]) + body for at, body in enumerate(BODIES)), _JSON_WORDS + _FIELDS),
    "sse": Target(sse, tuple(_CUT + stream for stream in STREAMS), _SSE_WORDS),
    "http1": Target(http1, tuple(_CUT + response for response in RESPONSES), _HTTP_WORDS),
    "peer": Target(peer, RESPONSES, _HTTP_WORDS),
    "upstream": Target(upstream, tuple(_CUT + response for response in RESPONSES), _HTTP_WORDS),
    "page": Target(page, PAGES, _PAGE_WORDS),
}
