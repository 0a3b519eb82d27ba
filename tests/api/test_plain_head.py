"""Heads that leave no doubt are read as aiohttp's parser reads them; all others are not read at all."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import HttpVersion11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from hypothesis import example, given, settings, strategies as st

from gateway.api.plain_head import (
    HEAD_MAX_BYTES,
    HEADERS_MAX,
    KNOWN_HEAD_MAX_BYTES,
    KNOWN_HEADS_MAX,
    PlainHead,
    PlainHeads,
    read_plain_head,
)
from tests import smuggling
from tests.hostile_heads import HEADS

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: y\r\n\r\n"


def test_what_a_plain_head_says() -> None:
    data = (
        b"POST /v1/completions?a=b HTTP/1.1\r\nHost: x:1\r\nAuthorization: Bearer k\r\n"
        b"CONTENT-length: 12\r\nX-Empty:\r\nconnection: Close\r\n\r\n{"
    )
    headers = {"host": "x:1", "authorization": "Bearer k", "content-length": "12", "x-empty": "", "connection": "Close"}
    expected = PlainHead("POST", "/v1/completions?a=b", headers, 12, closes=True, end=len(data) - 1)
    assert read_plain_head(data) == expected


def test_a_get_has_no_body() -> None:
    head = read_plain_head(NEXT)
    assert head is not None
    assert (head.method, head.target, head.body_bytes, head.closes) == ("GET", "/next", 0, False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD[:-1],
        HEAD.replace(b"POST", b"PUT"),
        HEAD.replace(b"POST", b"post"),
        HEAD.replace(b"/v1", b"http://x/v1"),
        HEAD.replace(b"/v1", b"v1"),
        HEAD.replace(b"/v1", b"/v1#"),
        HEAD.replace(b"/v1", b"/v1\xc3\xa4"),
        HEAD.replace(b" HTTP", b"  HTTP"),
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.1 "),
        b"\r\n" + HEAD,
        HEAD.replace(b"\r\n", b"\n"),
        HEAD.replace(b"Host: x", b"Host: x\r"),
        HEAD.replace(b"Host: x", b"Host: x\n"),
        HEAD.replace(b"Host: x\r\n", b""),
        HEAD.replace(b"Host: x", b"Host: x\r\nHost: x"),
        HEAD.replace(b"Host: x", b"Host: x\r\nhost: x"),
        HEAD.replace(b"Host: x", b"Host : x"),
        HEAD.replace(b"Host: x", b" Host: x"),
        HEAD.replace(b"Host: x", b"Host: x\r\n y"),
        HEAD.replace(b"Host: x", b"Host:  x"),
        HEAD.replace(b"Host: x", b"Host:\tx"),
        HEAD.replace(b"Host: x", b"Host: x "),
        HEAD.replace(b"Host: x", b"Host: x\x00"),
        HEAD.replace(b"Host: x", b"Host: \xe4"),
        HEAD.replace(b"Host: x", b"Host: x\r\nNo field"),
        HEAD.replace(b"Host: x", b"Host: x\r\n: nameless"),
        HEAD.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"),
        HEAD.replace(b"Host: x", b"Host: x\r\nUpgrade: websocket"),
        HEAD.replace(b"Host: x", b"Host: x\r\nConnection: upgrade"),
        HEAD.replace(b"Host: x", b"Host: x\r\nConnection: close, te"),
        HEAD.replace(b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked"),
        HEAD.replace(b"Host: x", b"Host: x\r\nTransfer_Encoding: chunked"),
        HEAD.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"Content-Length: 3\r\n", b""),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: "),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: +3"),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: -3"),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: 3, 3"),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: 3\r\nContent-Length: 3"),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: 0x3"),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: 1_0"),
        HEAD.replace(b"Content-Length: 3", b"Content-Length: 1000000000000"),
        HEAD.replace(b"POST", b"GET"),
        HEAD.replace(b"Host: x", b"Host: x" + b"".join(b"\r\nX-%d: a" % n for n in range(HEADERS_MAX - 1))),
        HEAD.replace(b"Host: x", b"Host: " + b"x" * HEAD_MAX_BYTES),
    ],
)
def test_any_doubt_is_for_the_full_parser(data: bytes) -> None:
    assert read_plain_head(data) is None


_TOKEN = st.sampled_from(
    [b"Host", b"host", b"Content-Length", b"content-length", b"Connection", b"X-A", b"Transfer-Encoding", b"Expect"]
) | st.text(st.characters(max_codepoint=0x7F), max_size=4).map(str.encode)
_VALUE = st.sampled_from([b"x", b"3", b"03", b"0", b"close", b"Keep-Alive", b"chunked", b"", b"a b", b"%41;q=1"]) | (
    st.binary(max_size=6)
)
_LINE = st.builds(b"".join, st.tuples(_TOKEN, st.sampled_from([b":", b": ", b":  ", b" :"]), _VALUE))
_START = st.sampled_from([b"POST /v1/completions HTTP/1.1", b"GET /a/../b?c=%20 HTTP/1.1", b"POST //x HTTP/1.1"]) | (
    st.builds(b"%b %b HTTP/1.1".__mod__, st.tuples(st.sampled_from([b"GET", b"POST"]), st.binary(max_size=5)))
)
_HEADS = st.builds(
    lambda start, lines: b"\r\n".join([start, b"Host: x", *lines, b"", b""]), _START, st.lists(_LINE, max_size=4)
)


@settings(deadline=None, max_examples=400)
@example(HEAD)
@given(_HEADS)
def test_what_is_read_is_read_alike(data: bytes) -> None:
    """Whatever this reader takes, aiohttp's takes too, and finds the same in it: also where the next request begins."""
    head = read_plain_head(data)
    if head is None or head.body_bytes > 100:
        return
    first, second = asyncio.run(_messages(data[: head.end] + b"b" * head.body_bytes + NEXT))
    assert (first.method, first.path, first.version) == (head.method, head.target, HttpVersion11)
    assert {name.lower(): value for name, value in first.headers.items()} == head.headers
    assert len(first.headers) == len(head.headers)
    assert (first.should_close, first.upgrade, first.chunked) == (head.closes, False, False)
    assert second.path == "/next"


async def _messages(data: bytes) -> list[RawRequestMessage]:
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(
        BaseProtocol(loop), loop, 2**16, max_line_size=8190, max_field_size=8190, max_headers=64, auto_decompress=False
    )
    messages, _, _ = parser.feed_data(data)
    return [message for message, _ in messages]


def known(heads: PlainHeads) -> dict[bytes, PlainHead]:
    return heads._known


def test_a_known_head_is_read_anew_but_for_its_length() -> None:
    """Each request has headers of its own: nobody's can be changed by another."""
    heads = PlainHeads()
    first = heads.read(HEAD)
    assert first is not None
    first.headers["host"] = "changed"
    for length in (b"3", b"0", b"0012", b"9" * 12):
        data = HEAD.replace(b"th: 3", b"th: " + length)
        second = heads.read(data)
        assert second == read_plain_head(data) != first
        assert second is not None
        second.headers["host"] = "changed"
    for no_length in (b"", b"9" * 13, b"+3", b"3 ", b"3,3", b"0x3", b"3\r\nX-A: b\r\nContent-Length: 3"):
        assert heads.read(HEAD.replace(b"th: 3", b"th: " + no_length)) is None
    assert len(known(heads)) == 1


_LENGTHS = (b"", b"3", b"0", b"007", b"9" * 12, b"9" * 13, b"+3", b"3 ", b" 3", b"3,3", b"\xb2", b"3\r\nX-A: b", b"3\n")
_LENGTH_LINES = st.sampled_from([b"%b: %b" % (n, v) for n in (b"Content-Length", b"content-length") for v in _LENGTHS])
_OTHER_LINES = st.sampled_from(
    [
        b"X-Content-Length: 3",
        b"Content-Length : 3",
        b"X-A: Content-Length: 3",
        b" Content-Length: 3",
        b"X-A: b",
        b"Host: x",
    ]
)
_SIMILAR = st.builds(
    lambda method, lines: b"\r\n".join([method + b" / HTTP/1.1", *lines, b"", b"Content-Length: 3\r\n\r\n"]),
    st.sampled_from([b"POST", b"GET"]),
    st.lists(_LENGTH_LINES | _OTHER_LINES, max_size=3).map(lambda lines: [b"Host: x", *lines]),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(_SIMILAR, min_size=2, max_size=12))
def test_whatever_is_known_heads_are_read_alike(data: list[bytes]) -> None:
    """Also those that differ only where their length could stand."""
    heads = PlainHeads()
    for one in data + data:
        assert heads.read(one) == read_plain_head(one)


def test_no_smuggler_gains_by_what_is_known() -> None:
    """Of all that could be taken for something else, nothing is taken for what came before it."""
    heads = PlainHeads()
    hostile = [payload.data for payload in smuggling.corpus() + smuggling.mutations(500)] + [
        head.data for head in HEADS
    ]
    for data in hostile:
        for one in (data, data.replace(b"Content-Length: ", b"Content-Length: 1"), data):
            assert heads.read(one) == read_plain_head(one)
    assert known(heads)


def test_only_so_many_heads_are_known_and_none_for_long() -> None:
    """Nor long ones: nobody can fill the memory with them, and a key in them does not stay."""
    heads = PlainHeads()
    for number in range(3 * KNOWN_HEADS_MAX):
        assert heads.read(HEAD.replace(b"Host: x", b"Host: %d" % number)) is not None
        assert len(known(heads)) <= KNOWN_HEADS_MAX
    heads.forget()
    assert heads.read(HEAD.replace(b"Host: x", b"Host: " + b"x" * KNOWN_HEAD_MAX_BYTES)) is not None
    assert heads.read(NEXT) is not None
    assert known(heads) == {}
