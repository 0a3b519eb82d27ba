"""HTTP/1.1 responses of engines: bytes in, payload out, no I/O; what is not plainly valid is an error.

Strict on purpose: a response that two readers could frame differently must never leave a connection that is used again.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

HEAD_MAX_BYTES = 16 * 1024
HEADERS_MAX = 64
INTERIM_RESPONSES_MAX = 8
"""1xx answers before the real one; more is a flood."""
TRAILERS_MAX_BYTES = 1024
CONTENT_LENGTH_MAX_DIGITS = 12
KEEPALIVE_MARGIN_S = 1.0
"""Taken off the server's own `Keep-Alive: timeout`, so that it never closes while a request is on its way."""
KNOWN_LINES_MAX = 256
"""Header lines whose meaning is remembered: engines repeat themselves, all but the date and the length."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
# Possessive, so that a long run of blanks costs one pass: the head comes from another machine.
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\x00\r\n]{0,256})?\r\n")
_SIZE_LINE_BEGUN = re.compile(rb"[0-9A-Fa-f]{1,8}(?:;[^\x00\r\n]{0,256})?\r?")
_KEEPALIVE_TIMEOUT = re.compile(rb"(?:^|[,;\s])timeout=([0-9]{1,6})\b", re.IGNORECASE)
CHUNK_SIZES = {b"%x" % size: size for size in range(1, 1024)} | {b"%X" % size: size for size in range(1, 1024)}
"""What most chunks have in their first line, read by a look-up."""

# What the parser reads. Plain numbers, being looked up at every step: members of an enum take several times as long.
_IN_HEAD = 0
_CHUNKED = 1
_LENGTH = 2
_UNTIL_CLOSE = 3
_COMPLETE = 4

# What the chunked reader expects next, where it is not in the middle of a chunk with so many bytes left.
_CHUNK_END = 0
_CHUNK_SIZE = -1
_TRAILERS = -2


class MalformedResponseError(Exception):
    """The response breaks HTTP/1.1 or a limit of ours. The text never holds bytes of the response."""


@dataclass(slots=True)
class Head:
    """Status and headers of a final response."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case; values of a repeated header are joined by a comma."""


class ResponseParser:
    """Reads one response; feed it what arrives until `complete`."""

    __slots__ = (
        "_buffer",
        "_interim_seen",
        "_is_bodiless",
        "_left_bytes",
        "_mode",
        "_rest",
        "complete",
        "head",
        "keepalive_s",
    )

    def __init__(self, *, is_bodiless: bool = False) -> None:
        self.head: Head | None = None
        self.keepalive_s = 0.0
        """Seconds for which the connection may idle before its next request: 0 forbids reuse, infinite if not said."""
        self.complete = False
        """Whether the response has ended, as its framing says."""
        self._is_bodiless = is_bodiless
        self._mode = _IN_HEAD
        self._buffer = bytearray()
        self._rest = b""
        self._left_bytes = 0
        self._interim_seen = 0

    @property
    def is_between_chunks(self) -> bool:
        """Whether what comes next is the start of a chunk, or of the end."""
        return self._left_bytes == _CHUNK_SIZE and not self._rest

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the socket, give the payload among them.

        Raises:
            MalformedResponseError: the response cannot be trusted from here on.
        """
        if self._left_bytes == _CHUNK_SIZE and not self._rest:
            # The common case, one event in one chunk in one segment, at half the cost of the general way.
            line = data.find(b"\r\n", 0, 8)
            if line > 0 and CHUNK_SIZES.get(data[:line]) == len(data) - line - 4 and data.endswith(b"\r\n"):
                return data[line + 2 : -2]
        if self._mode == _CHUNKED:
            return self._feed_chunked(data)
        if self._mode == _IN_HEAD:
            return self._feed_head(data)
        if self._mode == _UNTIL_CLOSE:
            return data
        if self._mode == _LENGTH:
            return self._feed_length(data)
        self.keepalive_s = 0.0
        return b""

    def feed_eof(self) -> None:
        """The peer closed its side: the end of a body that has no other end."""
        if self._mode == _UNTIL_CLOSE:
            self._finish(surplus_bytes=0)

    def _feed_head(self, data: bytes) -> bytes:
        buffer = self._buffer
        if not buffer and (end := data.find(b"\r\n\r\n", 0, HEAD_MAX_BYTES)) >= 0:
            self._take_head(data[:end])  # The common case: all of it in one segment.
            return self.feed(data[end + 4 :]) if len(data) > end + 4 else b""
        seen = max(len(buffer) - 3, 0)
        buffer += data
        end = buffer.find(b"\r\n\r\n", seen)
        if end < 0:
            self._check_unfinished_head(seen)
            return b""
        if end > HEAD_MAX_BYTES:
            raise MalformedResponseError("response head is too long")
        block, rest = bytes(buffer[:end]), bytes(buffer[end + 4 :])
        buffer.clear()
        self._take_head(block)
        return self.feed(rest) if rest else b""

    def _check_unfinished_head(self, seen: int) -> None:
        """Fail early on what can never become a head: the alternative is to wait for a timeout."""
        buffer = self._buffer
        if len(buffer) > HEAD_MAX_BYTES:
            raise MalformedResponseError("response head is too long")
        if not b"HTTP/1.".startswith(buffer[:7]):
            raise MalformedResponseError("not an HTTP/1 response")
        if buffer.count(b"\n", seen) != buffer.count(b"\r\n", max(seen - 1, 0)):
            raise MalformedResponseError("bare LF in the response head")

    def _take_head(self, block: bytes) -> None:
        status_line, *lines = block.split(b"\r\n")
        status, is_http_1_1 = _read_status(status_line)
        headers = _read_headers(lines)
        if status == 101:
            raise MalformedResponseError("protocol switch nobody asked for")
        if status < 200:
            self._interim_seen += 1
            if self._interim_seen > INTERIM_RESPONSES_MAX:
                raise MalformedResponseError("too many interim responses")
            return
        self._choose_framing(status, headers, is_http_1_1=is_http_1_1)
        self.head = Head(status, headers)

    def _choose_framing(self, status: int, headers: dict[bytes, bytes], *, is_http_1_1: bool) -> None:
        """RFC 9112 section 6.3, without its leniencies."""
        encoding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if encoding is not None and (length is not None or encoding.lower() != b"chunked" or not is_http_1_1):
            raise MalformedResponseError("ambiguous or unknown transfer coding")
        if length is not None and (not length.isdigit() or len(length) > CONTENT_LENGTH_MAX_DIGITS):
            raise MalformedResponseError("invalid content length")
        coding = headers.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            raise MalformedResponseError("content coding nobody asked for")
        if is_http_1_1:
            self.keepalive_s = _keepalive_s(headers)
        if status in (204, 304) or self._is_bodiless or (length is not None and int(length) == 0):
            self._finish(surplus_bytes=0)
        elif encoding is not None:
            self._mode, self._left_bytes = _CHUNKED, _CHUNK_SIZE
        elif length is not None:
            self._mode, self._left_bytes = _LENGTH, int(length)
        else:
            self._mode, self.keepalive_s = _UNTIL_CLOSE, 0.0

    def _feed_length(self, data: bytes) -> bytes:
        left = self._left_bytes - len(data)
        if left > 0:
            self._left_bytes = left
            return data
        self._finish(surplus_bytes=-left)
        return data[: self._left_bytes]

    def _feed_chunked(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        parts: list[bytes] = []
        while at < end and self._mode == _CHUNKED:
            left = self._left_bytes
            if left > 0:
                stop = min(at + left, end)
                parts.append(data[at:stop])
                self._left_bytes = left - (stop - at)
                at = stop
            elif left == _CHUNK_SIZE:
                at = self._take_chunk_size(data, at)
            elif left == _CHUNK_END:
                at = self._take_chunk_end(data, at)
            else:
                at = self._take_trailers(data, at)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take_chunk_size(self, data: bytes, at: int) -> int:
        line = _SIZE_LINE.match(data, at)
        if line is not None:
            self._left_bytes = int(line[1], 16) or _TRAILERS
            return line.end()
        if _SIZE_LINE_BEGUN.fullmatch(data, at) is None:
            raise MalformedResponseError("invalid chunk size")
        return self._wait_for_more(data, at)

    def _take_chunk_end(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            self._left_bytes = _CHUNK_SIZE
            return at + 2
        if data[at:] != b"\r":
            raise MalformedResponseError("chunk does not end where its size says")
        return self._wait_for_more(data, at)

    def _take_trailers(self, data: bytes, at: int) -> int:
        if data.startswith(b"\r\n", at):
            stop = at + 2
        else:
            last_line_end = data.find(b"\r\n\r\n", at, at + TRAILERS_MAX_BYTES)
            if last_line_end < 0:
                if len(data) - at > TRAILERS_MAX_BYTES:
                    raise MalformedResponseError("trailers are too long")
                return self._wait_for_more(data, at)
            stop = last_line_end + 4
        self._finish(surplus_bytes=len(data) - stop)
        return stop

    def _wait_for_more(self, data: bytes, at: int) -> int:
        self._rest = data[at:]
        return len(data)

    def _finish(self, *, surplus_bytes: int) -> None:
        self._mode = _COMPLETE
        self.complete = True
        if surplus_bytes:
            self.keepalive_s = 0.0


@lru_cache(maxsize=KNOWN_LINES_MAX)
def _read_status(line: bytes) -> tuple[int, bool]:
    """Status, and whether it is HTTP/1.1."""
    start = _STATUS_LINE.fullmatch(line)
    if start is None:
        raise MalformedResponseError("invalid status line")
    return int(start[2]), start[1] == b"1"


@lru_cache(maxsize=KNOWN_LINES_MAX)
def _read_header(line: bytes) -> tuple[bytes, bytes]:
    """Name in lower case, and value."""
    field = _HEADER.fullmatch(line)
    if field is None:
        # Folded lines, blanks before the colon, control characters and bare CR or LF all end here.
        raise MalformedResponseError("invalid response header")
    return field[1].lower(), field[2].rstrip(b" \t")


def _read_headers(lines: list[bytes]) -> dict[bytes, bytes]:
    if len(lines) > HEADERS_MAX:
        raise MalformedResponseError("too many response headers")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, value = _read_header(line)
        if name in headers:
            if name in (b"content-length", b"transfer-encoding"):
                raise MalformedResponseError("repeated framing header")
            headers[name] += b", " + value
        else:
            headers[name] = value
    return headers


def _keepalive_s(headers: dict[bytes, bytes]) -> float:
    connection = headers.get(b"connection")
    if connection is not None and b"close" in (token.strip() for token in connection.lower().split(b",")):
        return 0.0
    keep_alive = headers.get(b"keep-alive")
    timeout = None if keep_alive is None else _KEEPALIVE_TIMEOUT.search(keep_alive)
    return math.inf if timeout is None else max(int(timeout[1]) - KEEPALIVE_MARGIN_S, 0.0)
