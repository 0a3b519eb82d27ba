"""What the HTTP surface does with bodies that are bad, late, too long or held back."""

from __future__ import annotations

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from gateway.api import body_limits
from gateway.passage import Sink
from gateway.request import COMPLETIONS
from tests.api.served import BODY, BODY_BYTES_MAX, POST, error_of, parsed, serving
from tests.faults import LAST_CHUNK, chunk
from tests.shell import settle


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ((), b"{", 400, "invalid_json"),
        ((), b"", 400, "invalid_json"),
        ((), b'{"model":"m","prompt":"p","x":1}', 400, "unsupported_parameter"),
        (("Content-Encoding: gzip",), BODY, 415, "unsupported_media_type"),
        (("x-kvgate-priority: urgent",), BODY, 400, "invalid_value"),
        (("Expect: a-miracle",), BODY, 417, "expectation_failed"),
        ((), b" " * (BODY_BYTES_MAX + 1), 413, "request_too_large"),
    ],
)
async def test_bad_requests_never_reach_the_relay(
    headers: tuple[str, ...], body: bytes, status: int, code: str
) -> None:
    """But they are counted, with the id that the client was told."""
    async with serving() as house:
        reply = await house.ask(POST, *headers, body=body)
        assert (reply.status, error_of(reply)["code"]) == (status, code)
        assert house.relay.requests == []
        assert house.relay.turned == [(COMPLETIONS, reply.headers["x-request-id"], code)]


async def test_a_body_that_says_it_is_too_long_is_not_read() -> None:
    """The answer comes before a byte of it was sent."""
    async with serving() as house:
        head = f"{POST}\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        reply = parsed(await house.send(head.encode()))
        assert (reply.status, reply.headers["connection"]) == (413, "close")


async def test_a_body_that_turns_out_too_long_is_cut() -> None:
    """Chunked bodies do not say how long they are."""
    async with serving() as house:
        head = f"{POST}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        reply = parsed(await house.send(head + chunk(b" " * 1_000) * 20))
        assert (reply.status, error_of(reply)["code"]) == (413, "request_too_large")


async def test_a_chunked_body_is_as_good_as_another() -> None:
    """Up to the same length."""
    async with serving() as house:
        head = f"{POST}\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        body = BODY + b" " * (BODY_BYTES_MAX - len(BODY))
        reply = parsed(await house.send(head + chunk(body[:5]) + chunk(body[5:]) + LAST_CHUNK))
        assert reply.status == 200


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_with_broken_framing_is_the_clients_fault(monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """Not a bug of ours: a 4xx and a cut, at the latest when the body is overdue: the server does not tell sooner."""
    monkeypatch.setattr(body_limits, "CHUNKED_MAX_S", 0.02)
    async with serving() as house, house.connection() as (reader, writer):
        writer.write(f"{POST}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        if not at_once:
            await writer.drain()
            await settle()
        writer.write(b"zz\r\nabc\r\n")
        reply = parsed(await reader.read())
        assert error_of(reply)["type"] in ("invalid_request_error", "timeout_error")
        assert reply.status in (400, 408)
        assert reply.headers["connection"] == "close"


async def test_a_body_that_cannot_be_read_is_the_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server does tell."""

    async def broken(_: web.BaseRequest) -> bytes:
        raise web.RequestPayloadError

    monkeypatch.setattr(web.BaseRequest, "read", broken)
    async with serving(plain_way=False) as house:
        reply = await house.ask(POST, body=BODY)
        assert (reply.status, error_of(reply)["code"]) == (400, "invalid_http")


async def test_a_slow_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """408, and the connection closes."""
    monkeypatch.setattr(body_limits, "BODY_GRACE_S", 0.02)
    async with serving() as house:
        head = f"{POST}\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{"
        reply = parsed(await house.send(head.encode()))
        assert (reply.status, error_of(reply)["code"]) == (408, "request_timeout")
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize(("version", "is_told"), [("1.1", True), ("1.0", False)])
async def test_a_client_that_waits_for_a_go_gets_it(version: str, is_told: bool) -> None:
    """HTTP/1.0 knows no interim answers."""
    async with serving() as house, house.connection() as (reader, writer):
        head = (
            f"POST {COMPLETIONS} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
        )
        writer.write(head.encode())
        if is_told:
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert parsed(await reader.read()).status == 200


async def test_a_bug_after_a_go_is_still_a_whole_answer() -> None:
    """The interim answer is no part of it."""

    async def bug(sink: Sink) -> None:
        raise ZeroDivisionError("a secret")

    async with serving() as house:
        house.relay.play = bug
        with capture_logs():
            reply = await house.ask(POST, "Expect: 100-continue", body=BODY)
        assert reply.status == 100
        assert parsed(reply.body).status == 500
