"""Reads the head of a request that leaves no doubt about what it says; every other head is left to a full HTTP parser.

What is read here is a small part of HTTP/1.1 that all parsers understand alike: one way to write each line, no name
twice, a body of a stated length or none. Nothing is repaired and nothing refused: `None` means "ask the full parser",
so being too narrow costs time and never changes an answer.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEAD_MAX_BYTES = 8 * 1024
HEADERS_MAX = 64
KNOWN_HEAD_MAX_BYTES = 2 * 1024
KNOWN_HEADS_MAX = 512
_LENGTH_MAX_DIGITS = 12
_START = re.compile(r"(GET|POST) (/[A-Za-z0-9._~:@/%?=&,+-]*+) HTTP/1\.1(?=\r\n)")
_FIELD = re.compile(r"\r\n([A-Za-z0-9-]++): ?+((?:[!-~](?:[ -~]*[!-~])?)?+)(?=\r\n|\Z)")
_FULL_PARSER = frozenset(("expect", "te", "trailer", "transfer-encoding", "upgrade"))
"""Headers that change how a message is read."""
_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,12})(?=\r\n)")
_CLOSES = {"close": True, "keep-alive": False}


class PlainHead(NamedTuple):
    """A request's head."""

    method: str
    target: str
    """As it was sent: path and query."""
    headers: dict[str, str]
    """By name in lower case, each of which came once."""
    body_bytes: int
    closes: bool
    """The client wants the connection closed after the answer."""
    end: int
    """Where the body begins."""


class PlainHeads:
    """Reads heads as `read_plain_head` does, and knows again what it has just read.

    A client sends the same head each time, but for the length of its body. So heads are known by their very bytes, less
    the digits of that length. That loses nothing: a plain head names its length once, so the digits can only have stood
    there; and they are all of a line's value, so whatever they are, the rest is read alike.

    All that a stranger can do to it is to fill it, and then heads are read anew. Heads hold keys, which are not to stay
    in memory: so its owner makes it `forget` them.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, PlainHead] = {}

    def read(self, data: bytes) -> PlainHead | None:
        """See `read_plain_head`. Nobody else has the headers."""
        end = data.find(b"\r\n\r\n", 0, KNOWN_HEAD_MAX_BYTES)
        line = _LENGTH_LINE.search(data, 0, end + 2)
        if line is None:
            return read_plain_head(data)
        start, stop = line.span(1)
        name = data[:start] + data[stop:end]
        known = self._known.get(name)
        if known is None:
            return self._read_new(name, data)
        length = data[start:stop]
        headers = {**known.headers, "content-length": length.decode("ascii")}
        return PlainHead(known.method, known.target, headers, int(length), known.closes, end + 4)

    def forget(self) -> None:
        """Keep nothing of what was read."""
        self._known.clear()

    def _read_new(self, name: bytes, data: bytes) -> PlainHead | None:
        head = read_plain_head(data)
        if head is None:
            return None
        if len(self._known) >= KNOWN_HEADS_MAX:
            self.forget()
        self._known[name] = head._replace(headers=dict(head.headers))
        return head


def read_plain_head(data: bytes) -> PlainHead | None:
    """The head at the beginning of what a connection brought; None if it is not whole, or not plain."""
    end = data.find(b"\r\n\r\n", 0, HEAD_MAX_BYTES)
    head = data[:end]
    if end < 0 or not head.isascii():
        return None
    text = head.decode("ascii")
    start = _START.match(text)
    if start is None:
        return None
    fields = _FIELD.findall(text, start.end())
    headers = {name.lower(): value for name, value in fields}
    # A line that is no plain field is missing among them, and so is a name that came twice.
    if text.count("\r\n") != len(headers) or len(headers) > HEADERS_MAX or "host" not in headers:
        return None
    if not _FULL_PARSER.isdisjoint(headers):
        return None
    method, target = start.groups()
    body_bytes = _body_bytes(method, headers.get("content-length"))
    closes = _CLOSES.get(headers.get("connection", "keep-alive").lower())
    if body_bytes is None or closes is None:
        return None
    return PlainHead(method, target, headers, body_bytes, closes, end + 4)


def _body_bytes(method: str, length: str | None) -> int | None:
    """How long the body is that a plain request of this method has."""
    if method == "GET":
        return 0 if length is None else None
    return int(length) if length is not None and length.isdigit() and len(length) <= _LENGTH_MAX_DIGITS else None
