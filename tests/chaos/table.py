"""Every fault by name: how the engine plays it, and what its client may see of it, streamed and in one piece.

What a client sees is one word: `ok`, the answer to the byte; `broken`, a true beginning, an error event and a cut;
`told`, the same with the engine's own error event; or the status of a well-formed error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.case import USAGE_EVENT, Case
from tests.faults import (
    DONE,
    ERROR_EVENT,
    FAULTS,
    LAST_CHUNK,
    STREAM_HEAD,
    Answer,
    Flood,
    Pause,
    Step,
    Trickle,
    chunk,
    event,
    response,
)

OK = frozenset({"ok"})
BROKEN = frozenset({"broken"})
TOLD = frozenset({"told"})
BAD_GATEWAY = frozenset({"502"})
TIMEOUT = frozenset({"504"})
BUSY = frozenset({"503"})
NEVER: frozenset[str] = frozenset()
"""Asked in the other way only."""

FLOOD_BLOCK = b"".join(event(f"{i:04}" + "x" * 900) for i in range(64))
FLOOD_TIMES = 32
"""About 2 MB in all."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row."""

    play: Callable[[Case], Answer]
    streamed: frozenset[str]
    whole: frozenset[str]
    model: str = "m"


def _head(case: Case) -> bytes:
    return STREAM_HEAD if case.stream else STREAM_HEAD.replace(b"text/event-stream", b"application/json")


def _content(case: Case) -> bytes:
    """The whole body, as the engine sends it."""
    return b"".join((*case.events, USAGE_EVENT, DONE)) if case.stream else case.answer


def _good(case: Case) -> bytes:
    if not case.stream:
        return response(case.answer)
    return STREAM_HEAD + b"".join(map(chunk, (*case.events, USAGE_EVENT, DONE))) + LAST_CHUNK


def _begun(case: Case, *then: bytes | Step) -> Answer:
    """Its first part, and what comes then; for a stream not before its client has that part."""
    if case.stream:
        return (STREAM_HEAD + chunk(case.events[0]), case.taken, *then)
    return (_head(case) + chunk(case.answer[:20]), *then)


def _sized(case: Case, length: int) -> bytes:
    kind = b"text/event-stream" if case.stream else b"application/json"
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, length)


def _wrong_length(case: Case, more: int) -> Answer:
    body = _content(case)
    return (_sized(case, len(body) + more) + body, Step.CLOSE)


def _until_close(case: Case) -> Answer:
    head = _sized(case, 0).replace(b"Content-Length: 0\r\n", b"Connection: close\r\n")
    return (head, _content(case), Step.CLOSE)


def _spread(case: Case) -> Answer:
    """Cut at places that mean nothing, with a while in between."""
    body = _good(case)
    return (body[:70], Pause(0.002), body[70:140], Pause(0.002), body[140:])


def _beside(name: str) -> Callable[[Case], Answer]:
    """A fault of `tests.faults`, which is the same for every request."""
    return lambda _: FAULTS[name]


def _said(status: int, body: bytes = b'{"error":{"message":"no"}}', headers: bytes = b"") -> Callable[[Case], Answer]:
    answer = response(body, status=status, headers=b"Content-Type: application/json\r\n" + headers)
    return lambda _: (answer,)


WELL: dict[str, Fault] = {
    "good": Fault(lambda c: (_good(c),), OK, OK),
    "byte by byte": Fault(lambda c: (Trickle(_good(c)),), OK, OK),
    "slow and spread": Fault(_spread, OK, OK),
    "slow head": Fault(lambda c: (Pause(0.01), _good(c)), OK, OK),
    "until close": Fault(_until_close, OK, OK),
    "a few 1xx": Fault(lambda c: (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + _good(c),), OK, OK),
    "told close": Fault(
        lambda c: (_good(c).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1), Step.CLOSE), OK, OK
    ),
    "comments": Fault(lambda c: (STREAM_HEAD + chunk(b": ping\n\n") * 9, _good(c)[len(STREAM_HEAD) :]), OK, NEVER),
    "data after [DONE]": Fault(lambda c: (_good(c)[: -len(LAST_CHUNK)] + chunk(event("more")), Step.STALL), OK, NEVER),
    "flood": Fault(
        lambda _: (STREAM_HEAD, Flood(chunk(FLOOD_BLOCK), FLOOD_TIMES), chunk(DONE) + LAST_CHUNK), OK, NEVER
    ),
}
"""Strange, but nothing that a client should notice."""

ILL: dict[str, Fault] = {
    **{
        name.replace("_", " "): Fault(_beside(name), BAD_GATEWAY, BAD_GATEWAY)
        for name in (
            *("reset_before_head", "close_before_head", "close_in_head", "both_framings", "two_lengths"),
            *("many_headers", "endless_head", "garbage", "bare_line_feeds", "compressed", "switching_protocols"),
            *("interim_flood", "redirect", "no_content", "broken_inside", "bad_chunk_size"),
        )
    },
    "reset unread": Fault(lambda _: (Step.RESET_UNREAD,), BAD_GATEWAY, BAD_GATEWAY),
    "reset after head": Fault(lambda c: (_head(c), Pause(0.001), Step.RESET), BAD_GATEWAY, BAD_GATEWAY),
    "close after head": Fault(lambda c: (_head(c), Step.CLOSE), BAD_GATEWAY, BAD_GATEWAY),
    "end after head": Fault(lambda c: (_head(c) + LAST_CHUNK,), BAD_GATEWAY, BAD_GATEWAY),
    "another type": Fault(
        lambda _: (response(b"<html>hello</html>", headers=b"Content-Type: text/html\r\n"),), BAD_GATEWAY, BAD_GATEWAY
    ),
    "reset between chunks": Fault(lambda c: _begun(c, Step.RESET), BROKEN, BAD_GATEWAY),
    "close between chunks": Fault(lambda c: _begun(c, Step.CLOSE), BROKEN, BAD_GATEWAY),
    "reset in a chunk": Fault(lambda c: _begun(c, chunk(c.events[1])[:-9], Step.RESET), BROKEN, BAD_GATEWAY),
    "close in a chunk": Fault(lambda c: _begun(c, chunk(c.events[1])[:-9], Step.CLOSE), BROKEN, BAD_GATEWAY),
    "malformed size": Fault(lambda c: _begun(c, b"zz\r\n", Step.STALL), BROKEN, BAD_GATEWAY),
    "malformed end": Fault(lambda c: _begun(c, b"3\r\nabcdef\r\n", Step.STALL), BROKEN, BAD_GATEWAY),
    "early clean end": Fault(lambda c: _begun(c, LAST_CHUNK), BROKEN, BAD_GATEWAY),
    "no [DONE]": Fault(lambda c: (STREAM_HEAD + b"".join(map(chunk, c.events)) + LAST_CHUNK,), BROKEN, NEVER),
    "endless event": Fault(lambda c: _begun(c, chunk(b"data: " + b"x" * 2_000_000), Step.STALL), BROKEN, NEVER),
    "endless comments": Fault(
        lambda _: (STREAM_HEAD, Flood(chunk(b": " + b"x" * 8000 + b"\n\n"), 20), Step.STALL), BAD_GATEWAY, NEVER
    ),
    "length too long": Fault(lambda c: _wrong_length(c, 10), OK, BAD_GATEWAY),
    "length too short": Fault(lambda c: _wrong_length(c, -10), BROKEN, BAD_GATEWAY),
    "error first": Fault(_beside("error_event"), BUSY, BAD_GATEWAY),
    "error as 200": Fault(lambda _: (response(b'{"error":{"message":"ill","code":500}}'),), BAD_GATEWAY, BAD_GATEWAY),
    "error later": Fault(lambda c: _begun(c, chunk(ERROR_EVENT) + chunk(DONE) + LAST_CHUNK), TOLD, NEVER),
    "error, then cut": Fault(lambda c: _begun(c, chunk(ERROR_EVENT), Step.CLOSE), TOLD, NEVER),
    "400": Fault(_said(400), frozenset({"400"}), frozenset({"400"})),
    "401": Fault(_said(401), BAD_GATEWAY, BAD_GATEWAY),
    "404": Fault(_said(404), frozenset({"404"}), frozenset({"404"})),
    "429": Fault(_said(429, headers=b"Retry-After: 0.02\r\n"), frozenset({"429"}), frozenset({"429"})),
    "500": Fault(_said(500), BAD_GATEWAY, BAD_GATEWAY),
    "502": Fault(_said(502, b"<html>bad</html>"), BAD_GATEWAY, BAD_GATEWAY),
    "503": Fault(_said(503, headers=b"Retry-After: 0.02\r\n"), BUSY, BUSY),
}
"""Each is a clean error, or an error event and a cut."""

SILENT: dict[str, Fault] = {
    "stall before head": Fault(_beside("stall_before_head"), TIMEOUT, TIMEOUT, "quick"),
    "stall after head": Fault(lambda c: (_head(c), Step.STALL), TIMEOUT, TIMEOUT, "quick"),
    "stall between chunks": Fault(lambda c: _begun(c, Step.STALL), BROKEN | TIMEOUT, TIMEOUT, "quick"),
    "stall in a chunk": Fault(
        lambda c: _begun(c, chunk(c.events[1])[:-9], Step.STALL), BROKEN | TIMEOUT, TIMEOUT, "quick"
    ),
}
"""For a backend whose patience is short: nothing else is sent there, so that no machine is too slow for it."""

HELD: dict[str, Fault] = {
    "held before head": Fault(lambda c: (Step.STALL,), NEVER, NEVER),
    "held after head": Fault(lambda c: (_head(c), Step.STALL), NEVER, NEVER),
    "held in stream": Fault(lambda c: _begun(c, Step.STALL), NEVER, NEVER),
    "flowing": Fault(
        lambda c: (STREAM_HEAD, *(part for e in c.events * 500 for part in (chunk(e), Pause(0.002))), Step.STALL),
        NEVER,
        NEVER,
    ),
    "held till told": Fault(
        lambda c: (STREAM_HEAD + chunk(c.events[0]), c.release, _good(c)[len(STREAM_HEAD + chunk(c.events[0])) :]),
        OK,
        NEVER,
        "narrow",
    ),
}
"""For clients that leave."""

TABLE: dict[str, Fault] = {**WELL, **ILL, **SILENT, **HELD}


def expected(case: Case) -> bytes:
    """What the client of an engine that is well sees, comments left out."""
    return FLOOD_BLOCK * FLOOD_TIMES + DONE if case.fault == "flood" else case.answer


def allowed(case: Case) -> frozenset[str]:
    """What the client may see."""
    fault = TABLE[case.fault]
    return fault.streamed if case.stream else fault.whole
