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
_LENGTH_MAX_DIGITS = 12
_START = re.compile(r"(GET|POST) (/[A-Za-z0-9._~:@/%?=&,+-]*+) HTTP/1\.1(?=\r\n)")
_FIELD = re.compile(r"\r\n([A-Za-z0-9-]++): ?+((?:[!-~](?:[ -~]*[!-~])?)?+)(?=\r\n|\Z)")
_FULL_PARSER = frozenset(("expect", "te", "trailer", "transfer-encoding", "upgrade"))
"""Headers that change how a message is read."""
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
