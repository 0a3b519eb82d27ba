"""Requests whose end two readers could see in different places, each with a second one hidden where it must not run.

The hidden request asks an engine for a completion with a prompt of its own. In each carrier it stands within the body
as a strict reader of HTTP/1.1 sees it, or behind a head that none takes: an engine that hears of it was lied to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

CARRIER = "/v1/chat/completions"
HIDDEN = "/v1/completions"
_CONTROLS = (*range(0x01, 0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x00, 0x7F, 0x80, 0x85, 0xA0, 0xFF)


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes of one connection."""

    name: str
    number: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.name}"


def hidden(number: int) -> bytes:
    """The second request, which says whose it is."""
    body = b'{"model":"m","prompt":"hidden-%d"}' % number
    head = b"POST %b?h=%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (HIDDEN.encode(), number, len(body))
    return head + body


def carrier(number: int, *lines: bytes, start: bytes = b"") -> bytes:
    """The head of the first request, with these lines."""
    begin = start or b"POST %b?c=%d HTTP/1.1\r\n" % (CARRIER.encode(), number)
    return begin + b"Host: x\r\n" + b"".join(lines) + b"\r\n"


def encodings() -> Iterator[tuple[str, bytes]]:
    """Header lines in which somebody could see `Transfer-Encoding: chunked`."""
    name, value, end = b"Transfer-Encoding", b"chunked", b"\r\n"
    plain = name + b": " + value
    for text in (b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"\tchunked", b"chunked ", b"chunked\t", b"chunked,"):
        yield f"value {text!r}", name + b":" + text + end
    for text in (
        *(
            b"identity",
            b"identity, chunked",
            b"chunked, identity",
            b"chunked, chunked",
            b"gzip, chunked",
            b"chunked, gzip",
        ),
        *(
            b"xchunked",
            b"chunkedx",
            b"chunke",
            b"'chunked'",
            b'"chunked"',
            b"chunked;q=1",
            b"chunked;",
            b",chunked",
            b"",
        ),
        *(
            b"cow",
            b"chunked cow",
            b"cow chunked",
            b"chunked\r\n cow",
            b"\r\n chunked",
            b"\r\n\tchunked",
            b"ch\xc3\xbcnked",
        ),
    ):
        yield f"value {text!r}", name + b": " + text + end
    for text in (b"transfer-encoding", b"TRANSFER-ENCODING", b"tRANSFER-ENCODING"):
        yield f"name {text!r}", text + b": chunked" + end
    for text in (b"Transfer-Encoding ", b"Transfer-Encoding\t", b" Transfer-Encoding", b"\tTransfer-Encoding"):
        yield f"name {text!r}", text + b": chunked" + end
    for text in (b"Transfer Encoding", b"Transfer-\r\n Encoding", b"Transfer-Encoding\r\n ", b'"Transfer-Encoding"'):
        yield f"name {text!r}", text + b": chunked" + end
    for byte in (bytes([code]) for code in _CONTROLS):
        yield f"{byte!r} before the name", byte + plain + end
        yield f"{byte!r} after the name", name + byte + b": " + value + end
        yield f"{byte!r} before the value", name + b":" + byte + value + end
        yield f"{byte!r} after the value", plain + byte + end
        if byte < b"\x80":  # Others may stand in a value.
            yield f"{byte!r} for a line end before", b"X: y" + byte + plain + end
        yield f"{byte!r} within the name", b"Transfer" + byte + b"Encoding: chunked" + end
    for breaks in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\n\n"):
        yield f"{breaks!r} before", b"X: y" + breaks + plain + end
        yield f"{breaks!r} behind", plain + breaks + b"X: y" + end
    yield "twice", plain + end + plain + end
    yield "twice, first nothing", name + b": identity" + end + plain + end
    yield "twice, then nothing", plain + end + name + b": identity" + end
    yield "twice, then unknown", plain + end + name + b": cow" + end


LENGTHS = (
    *(b"+@", b"-@", b"0x@", b"@.0", b"@, @", b"@,@", b"@ ,0", b"0, @", b"@, 0", b'"@"', b"@;", b"@e0", b"@ 0", b"0 @"),
    *(b"@\t0", b"\x0b@", b"@\x0b", b"@\x00", b"\x00@", b"@\xa0", b"\xc2\xb2@", b"1_@", b"@_", b" @\r\n 0", b"\r\n @"),
    *(b"0@", b"00000000000000000000@", b"18446744073709551616", b"99999999999999999999@", b"-0@", b"@@"),
)
"""Values of `Content-Length` in which somebody could see `@`, the length that covers the hidden request."""

LENGTH_LINES = (
    *(b"Content-Length : @\r\n", b"Content-Length\t: @\r\n", b" Content-Length: @\r\n", b"Content-Length\x00: @\r\n"),
    *(b"Content-Length\x0b: @\r\n", b"X: y\nContent-Length: @\r\n", b"X: y\rContent-Length: @\r\n"),
    *(b"Content-Length: @\r\nContent-Length: 0\r\n", b"Content-Length: 0\r\nContent-Length: @\r\n"),
    *(b"Content-Length: @\r\nContent-Length: @\r\n", b"Content-Length: @\r\nContent-Length:\r\n"),
)
"""The same by names and lines."""

SIZES = (
    *(
        b"0x@",
        b"+@",
        b"-@",
        b" @",
        b"@ ",
        b"\t@",
        b"@\t",
        b"@;",
        b"@;a",
        b"@;a=\n",
        b"@;\x00",
        b"@\x0b",
        b"@\x00",
        b"0@",
    ),
    *(
        b"0000000000000000000@",
        b"1000000000000000@",
        b"f@0000000",
        b"@_",
        b"_@",
        b"@g",
        b"g@",
        b"",
        b'"@"',
        b"@,",
        b"\xc2\xb2@",
    ),
)
"""Sizes of a chunk in which somebody could see `@`, its length in hexadecimal."""

TRAILERS = (b"Content-Length: 0", b"Transfer-Encoding: chunked", b"X : y", b" X: y", b"X\x00: y", b"X", b"X: y\nZ: z")

STARTS = (
    *(
        b"POST @ HTTP/0.9",
        b"POST @ HTTP/1.2",
        b"POST @ HTTP/2.0",
        b"POST @ HTTP/3",
        b"POST @ HTTP/11.1",
        b"POST @ http/1.1",
    ),
    *(b"POST @ HTTP/1.1 ", b"POST @ HTTP/ 1.1", b"POST @ HTP/1.1", b"POST @", b"POST @ HTTP/1.1\n", b"POST @ HTTP/1.0"),
    *(b"GET @ HTTP/1.1", b"HEAD @ HTTP/1.1", b"DELETE @ HTTP/1.1", b"TRACE @ HTTP/1.1", b"OPTIONS @ HTTP/1.1"),
    *(b"CONNECT @ HTTP/1.1", b"CONNECT x:80 HTTP/1.1", b"PRI * HTTP/2.0", b"post @ HTTP/1.1", b"P\x00ST @ HTTP/1.1"),
    *(b"GPOST @ HTTP/1.1", b"SOURCE @ HTTP/1.1", b"POST\t@ HTTP/1.1", b"POST  @ HTTP/1.1", b"POST\x0b@ HTTP/1.1"),
    *(b"POST\xa0@ HTTP/1.1", b"POST @\x0cHTTP/1.1", b"POST @\nHTTP/1.1", b"POST @ x HTTP/1.1", b"\x00POST @ HTTP/1.1"),
    *(
        b"\r\nPOST @ HTTP/1.1",
        b"\nPOST @ HTTP/1.1",
        b" POST @ HTTP/1.1",
        b"GET /health?@ HTTP/1.1",
        b"POST http://y@ HTTP/1.1",
    ),
)
"""First lines; `@` is the path. The hidden request is the body."""

UPGRADES = (b"websocket", b"h2c", b"HTTP/2.0", b"TLS/1.0", b"cow")
_UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nUpgrade: %b\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
HEADERS = (
    *(
        b"Connection: Content-Length\r\n",
        b"Connection: Transfer-Encoding\r\n",
        b"Connection: close, Content-Length\r\n",
    ),
    *(b"Expect: 100-continue\r\n", b"Expect: 100-continue, x\r\n", b"Expect: x\r\n", b"Expect:\r\n"),
    *(
        b"Host: y\r\n",
        b"Host : y\r\n",
        b"Transfer_Encoding: chunked\r\n",
        b"Trailer: Content-Length\r\n",
        b"TE: trailers\r\n",
    ),
    *(b"Content-Encoding: gzip\r\n", b"X-HTTP-Method-Override: GET\r\n", b"Proxy-Connection: keep-alive\r\n"),
    *(_UPGRADE % upgrade for upgrade in UPGRADES),
)
"""Lines beside a good length."""


def corpus() -> list[Payload]:
    """All of them, numbered."""
    builds = chain(_framings(), _chunks(), _heads())
    return [Payload(name, number, build(number)) for number, (name, build) in enumerate(builds)]


def mutations(count: int, seed: int = 1) -> list[Payload]:
    """So many more, with a few bytes changed before the hidden request: what they mean only a front can tell."""
    builds, chance = [*chain(_framings(), _chunks(), _heads())], random.Random(seed)
    rows = []
    for number in range(len(builds), len(builds) + count):
        name, build = chance.choice(builds)
        data = build(number)
        begin = data.index(b"POST %b?h=" % HIDDEN.encode()) if data.count(b"?h=") else len(data)
        rows.append(Payload(f"mutated {name}", number, _mutated(data[:begin], chance) + data[begin:]))
    return rows


_WORDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\x00",
    b"\x0b",
    b":",
    b",",
    b";",
    b"0",
    b"1",
    b"chunked",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"_",
)


def _mutated(head: bytes, chance: random.Random) -> bytes:
    data = bytearray(head)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                del data[at]
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                data[at:at] = data[at : at + 12]
            case _:
                data[at:at] = chance.choice(_WORDS)
    return bytes(data)


Build = Callable[[int], bytes]


def _framings() -> Iterator[tuple[str, Build]]:
    """Two framings in one head, one of them perhaps not seen."""
    for name, line in encodings():
        yield f"length over chunks, {name}", partial(_length_over_chunks, line)
        yield f"chunks over length, {name}", partial(_chunks_over_length, line)
        yield f"chunks alone, {name}", partial(_chunks_alone, line)
    for line in (*(b"Content-Length: " + value + b"\r\n" for value in LENGTHS), *LENGTH_LINES):
        yield f"{line!r}", partial(_length, line)


def _length_over_chunks(line: bytes, number: int) -> bytes:
    """By its length all is one body; by its chunks it is empty, and the hidden request follows."""
    body = b"0\r\n\r\n" + hidden(number)
    return carrier(number, b"Content-Length: %d\r\n" % len(body), line) + body


def _chunks_over_length(line: bytes, number: int) -> bytes:
    """By its chunks all is one body; by its length the hidden request follows the first size."""
    inside = hidden(number)
    body = b"%x\r\n" % len(inside) + inside + b"\r\n0\r\n\r\n"
    return carrier(number, line, b"Content-Length: %d\r\n" % body.index(b"P")) + body


def _chunks_alone(line: bytes, number: int) -> bytes:
    """In a chunk, if that is what it is."""
    inside = hidden(number)
    return carrier(number, line) + b"%x\r\n" % len(inside) + inside + b"\r\n0\r\n\r\n"


def _length(line: bytes, number: int) -> bytes:
    body = hidden(number)
    return carrier(number, line.replace(b"@", b"%d" % len(body))) + body


def _chunks() -> Iterator[tuple[str, Build]]:
    """Chunked bodies that are odd; behind one that is no good, nothing is a request."""
    for size in SIZES:
        yield f"size {size!r}", partial(_chunked, size + b"\r\n$\r\n0\r\n\r\n")
    for end in (b"\n", b"\r", b"\n\r", b"\r\r\n", b"", b"\x00\r\n"):
        yield f"size ends in {end!r}", partial(_chunked, b"@" + end + b"$\r\n0\r\n\r\n")
        yield f"chunk ends in {end!r}", partial(_chunked, b"3\r\nabc" + end + b"0\r\n\r\n$")
        yield f"last size ends in {end!r}", partial(_chunked, b"0" + end + b"\r\n$")
    for trailer in TRAILERS:
        yield f"trailer {trailer!r}", partial(_chunked, b"@\r\n$\r\n0\r\n" + trailer + b"\r\n\r\n")
    yield "a chunk longer than its size", partial(_chunked, b"2\r\nabc\r\n0\r\n\r\n$")
    yield "a chunk that ends too early", partial(_chunked, b"5\r\nabc\r\n0\r\n\r\n$")


def _chunked(body: bytes, number: int) -> bytes:
    inside = hidden(number)
    body = body.replace(b"@", b"%x" % len(inside)).replace(b"$", inside)
    return carrier(number, b"Transfer-Encoding: chunked\r\n") + body


def _heads() -> Iterator[tuple[str, Build]]:
    for start in STARTS:
        yield f"{start!r}", partial(_headed, start, b"")
    for line in HEADERS:
        yield f"{line!r}", partial(_headed, b"POST @ HTTP/1.1", line)
        yield f"{line!r} by GET", partial(_headed, b"GET /health?@ HTTP/1.1", line)


def _headed(start: bytes, line: bytes, number: int) -> bytes:
    body = hidden(number)
    path = b"%b?c=%d" % (CARRIER.encode(), number)
    return (
        carrier(number, b"Content-Length: %d\r\n" % len(body), line, start=start.replace(b"@", path) + b"\r\n") + body
    )
