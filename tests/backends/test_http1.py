"""The response parser: what it accepts comes out the same however it is cut, and nothing else is accepted."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from gateway.backends.http1 import KNOWN_LINES_MAX, Head, MalformedResponseError, ResponseParser
from tests.faults import FAULTS, STREAM_HEAD, chunk, response

OK = b"HTTP/1.1 200 OK\r\n"


def parse(*pieces: bytes, is_bodiless: bool = False) -> tuple[ResponseParser, bytes]:
    """Feed all pieces to a new parser."""
    parser = ResponseParser(is_bodiless=is_bodiless)
    return parser, b"".join([parser.feed(piece) for piece in pieces])


def parse_head(*headers: bytes) -> ResponseParser:
    """A parser that has read a head with these lines."""
    return parse(OK + b"".join(line + b"\r\n" for line in headers) + b"\r\n")[0]


@st.composite
def cuts_of(draw: st.DrawFn, wholes: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes in pieces, none empty: a socket that brings nothing has ended."""
    whole = draw(wholes)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    return [whole[start:stop] for start, stop in pairwise([0, *cuts, len(whole)]) if start < stop]


EXTENSIONS = st.sampled_from([b"", b";a=b", b";" + b"x" * 256])
CHUNKS = st.lists(st.tuples(st.binary(min_size=1, max_size=40), EXTENSIONS), max_size=6)
TRAILERS = st.sampled_from([b"", b"X-Took: 7\r\n", b"A: b\r\nC: d\r\n"])


@given(CHUNKS, TRAILERS, st.data())
def test_any_cut_of_a_chunked_response_gives_its_payload(
    chunks: list[tuple[bytes, bytes]], trailers: bytes, data: st.DataObject
) -> None:
    """Sizes, extensions, data and trailers may be torn anywhere."""
    body = b"".join(b"%X%b\r\n%b\r\n" % (len(payload), extension, payload) for payload, extension in chunks)
    pieces = data.draw(cuts_of(st.just(STREAM_HEAD + body + b"0\r\n" + trailers + b"\r\n")))
    parser, payload = parse(*pieces)
    assert payload == b"".join(payload for payload, _ in chunks)
    assert parser.complete
    assert parser.keepalive_s == math.inf


@given(st.binary(max_size=60), st.data())
def test_any_cut_of_a_response_with_a_length_gives_its_payload(body: bytes, data: st.DataObject) -> None:
    """The head may be torn anywhere too."""
    parser, payload = parse(*data.draw(cuts_of(st.just(response(body)))))
    assert payload == body
    assert parser.complete
    assert parser.head == Head(200, {b"content-type": b"application/json", b"content-length": b"%d" % len(body)})


FRAGMENTS = st.sampled_from(
    [
        OK,
        b"HTTP/1.0 200\r\n",
        b"HTTP/1.1 1",
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b" ",
        b"\x00",
        b"0\r\n\r\n",
        b"5\r\nabcde\r\n",
        b"ff",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"x: y\r\n",
        b"g\r\n",
    ]
)


@given(cuts_of(st.lists(FRAGMENTS | st.binary(max_size=5), max_size=14).map(b"".join)))
def test_garbage_raises_nothing_but_its_own_error(pieces: list[bytes]) -> None:
    """Whatever arrives, and however it is cut: the same verdict as for the whole."""

    def verdict(*pieces: bytes) -> tuple[Head | None, bool, bytes] | None:
        try:
            parser, payload = parse(*pieces)
        except MalformedResponseError:
            return None
        return parser.head, parser.complete, payload

    whole = verdict(b"".join(pieces))
    assert verdict(*pieces) == whole


@pytest.mark.parametrize(
    "name",
    [
        "bad_chunk_size",
        "bad_chunk_end",
        "both_framings",
        "two_lengths",
        "many_headers",
        "endless_head",
        "garbage",
        "bare_line_feeds",
        "compressed",
        "switching_protocols",
        "interim_flood",
    ],
)
def test_faults_of_framing_are_refused(name: str) -> None:
    """As soon as the bytes are there; no timeout is waited for."""
    first = FAULTS[name][0]
    assert isinstance(first, bytes)
    with pytest.raises(MalformedResponseError):
        parse(first)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 999 OK",
        b"http/1.1 200 OK",
        b"HTTP/1.1  200 OK",
        b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200\tOK",
        b"HTTP/1.1 200 O\x00K",
        b"ICY 200 OK",
        b"\r\nHTTP/1.1 200 OK",
    ],
)
def test_other_status_lines_are_refused(start: bytes) -> None:
    """Only HTTP/1.0 and 1.1, in the one form that RFC 9112 has."""
    with pytest.raises(MalformedResponseError):
        parse(start + b"\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b" folded: x",
        b"\tfolded",
        b"Blank : x",
        b"NoColon",
        b": no name",
        b"Nul: a\x00b",
        b"Bell: \x07",
        b"Line: a\nB: c",
        b"Return: a\rb",
        b"N\xc3\xa4me: x",
        b"Content-Length: -1",
        b"Content-Length: +1",
        b"Content-Length: 1_0",
        b"Content-Length: 0x10",
        b"Content-Length: 5, 5",
        b"Content-Length:",
        b"Content-Length: " + b"9" * 13,
        b"Content-Length: \xb2",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding:",
        b"Transfer-Encoding: \x0bchunked",
        b"Content-Encoding: br",
    ],
)
def test_other_headers_are_refused(line: bytes) -> None:
    """Each of these is read in two ways by two readers, somewhere."""
    with pytest.raises(MalformedResponseError):
        parse(OK + b"A: b\r\n" + line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "body",
    [
        b"100000000\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"1 \r\na\r\n",
        b"\r\n",
        b"1\na\r\n",
        b"1\r\nab\r\n",
        b"1_0\r\n",
        b"1;" + b"x" * 257 + b"\r\n",
        b"1;\x00\r\na\r\n",
        b"0\r\n" + b"T: " + b"x" * 1030 + b"\r\n\r\n",
        b"1\r\na\rb",
    ],
)
def test_other_chunks_are_refused(body: bytes) -> None:
    """Sizes are plain hexadecimal; everything has an end."""
    with pytest.raises(MalformedResponseError):
        parse(STREAM_HEAD, body)


def test_chunks_of_one_segment_leave_as_one() -> None:
    """One push to the client for each read of the socket, not for each event."""
    parser, _ = parse(STREAM_HEAD)
    assert parser.feed(chunk(b"ab") + chunk(b"cd") + b"3\r\ne") == b"abcde"
    assert parser.feed(b"fg\r\n0\r\n\r\n") == b"fg"
    assert parser.complete


def test_long_head_is_refused_even_if_it_is_whole() -> None:
    """The limit is the same for a head that comes at once."""
    with pytest.raises(MalformedResponseError, match="too long"):
        parse_head(b"A: " + b"x" * 16 * 1024)


def test_lines_seen_before_mean_the_same_to_each_response() -> None:
    """Good ones and bad ones, however many others came between; and no two heads share what was read."""
    first, others = parse_head(b"A: b", b"C: d").head, range(KNOWN_LINES_MAX + 1)
    assert first is not None
    first.headers[b"a"] = b"changed"
    for _ in range(2):
        with pytest.raises(MalformedResponseError, match="invalid response header"):
            parse_head(b"A: b", b"C : d")
        assert [parse_head(b"N: %d" % n).head for n in others] == [Head(200, {b"n": b"%d" % n}) for n in others]
        assert parse_head(b"C: d", b"A: b").head == Head(200, {b"c": b"d", b"a": b"b"})


def test_repeated_headers_are_joined_and_values_stripped() -> None:
    """As RFC 9110 section 5.3 has it."""
    head = parse_head(b"A:  b \t", b"a:c", b"Empty:").head
    assert head is not None
    assert head.headers == {b"a": b"b, c", b"empty": b""}


@pytest.mark.parametrize(
    ("lines", "keepalive_s"),
    [
        ([b"Content-Length: 0"], math.inf),
        ([b"Content-Length: 0", b"Keep-Alive: timeout=5, max=100"], 4.0),
        ([b"Content-Length: 0", b"Keep-Alive: max=100,Timeout=1"], 0.0),
        ([b"Content-Length: 0", b"Keep-Alive: nothing"], math.inf),
        ([b"Content-Length: 0", b"Connection: x, Close"], 0.0),
        ([b"Connection: keep-alive"], 0.0),
    ],
)
def test_reuse_is_what_the_server_allows(lines: list[bytes], keepalive_s: float) -> None:
    """Never after a body without an end of its own; a second less than the server says."""
    assert parse_head(*lines).keepalive_s == keepalive_s


def test_old_protocol_is_read_to_its_end_and_not_reused() -> None:
    """HTTP/1.0 marks the end of a body by closing."""
    parser, payload = parse(b"HTTP/1.0 200 OK\r\n\r\nab", b"cd")
    assert (payload, parser.complete) == (b"abcd", False)
    parser.feed_eof()
    assert (parser.complete, parser.keepalive_s) == (True, 0.0)


def test_old_protocol_with_chunks_is_refused() -> None:
    """RFC 9112 section 6.1: such a message has faulty framing."""
    with pytest.raises(MalformedResponseError):
        parse(STREAM_HEAD.replace(b"1.1", b"1.0"))


def test_end_of_the_peer_is_no_end_of_a_measured_body() -> None:
    """Three of five bytes are not an answer."""
    parser, _ = parse(response(b"12345")[:-2])
    parser.feed_eof()
    assert not parser.complete


def test_interim_responses_are_skipped() -> None:
    """100 and 103 may come before the answer, each with headers."""
    parser, payload = parse(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 8 + response(b"ab"))
    assert parser.head is not None
    assert (parser.head.status, payload) == (200, b"ab")


@pytest.mark.parametrize("status", [204, 304])
def test_some_answers_have_no_body(status: int) -> None:
    """Whatever their headers say."""
    parser, _ = parse(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status)
    assert parser.complete
    assert parse(response(b"ab")[:-2], is_bodiless=True)[0].complete


@pytest.mark.parametrize("surplus", [b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("first", [response(b"ab"), response(b""), STREAM_HEAD + chunk(b"ab") + b"0\r\n\r\n"])
def test_bytes_after_the_end_forbid_reuse(first: bytes, surplus: bytes) -> None:
    """They would be taken for the answer to the next request."""
    parser, payload = parse(first + surplus)
    assert payload in (b"ab", b"")
    assert (parser.complete, parser.keepalive_s) == (True, 0.0)


def test_long_blanks_in_a_header_cost_one_pass() -> None:
    """16 KiB of blanks before a control character: backtracking over them would take seconds."""
    with pytest.raises(MalformedResponseError):
        parse(OK + b"A:" + b" \t" * 8000 + b"\x07\r\n\r\n")
