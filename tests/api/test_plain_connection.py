"""A connection past aiohttp answers as aiohttp does, lets go as it does, and gives away what it does not know."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.api import body_limits, plain_connection
from gateway.api.crowd import Crowd
from gateway.api.plain_connection import AHEAD_MAX_BYTES, PlainConnection
from gateway.errors import upstream_error
from gateway.passage import Sink
from gateway.request import COMPLETIONS
from tests.api.served import ASK, BODY, BODY_BYTES_MAX, KEYS, POST, parsed, serving
from tests.certificates import GOOD
from tests.faults import LAST_CHUNK, event
from tests.shell import settle

LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = f"{POST}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (
    len(BODY),
    BODY,
)
DATE = re.compile(rb"\r\n(Date|x-request-id): [^\r]*")


def post(*lines: str, body: bytes = BODY, start: str = POST) -> bytes:
    """A request as it is written here, with its length."""
    head = "\r\n".join((start, "Host: x", *lines, f"Content-Length: {len(body)}", "", ""))
    return head.encode("latin-1") + body


HOSTILE = [
    ASK,
    CHUNKED,
    post("Expect: 100-continue"),
    post("Expect: a-miracle"),
    post("Content-Encoding: gzip"),
    post("x-kvgate-priority: urgent"),
    post("Connection: keep-alive"),
    post("Connection: close"),
    post("Connection: close, keep-alive"),
    post("Transfer-Encoding: chunked"),
    post(f"Content-Length: {len(BODY)}"),
    post("Content-Length: 1"),
    post("Content-Length : 1"),
    post("Upgrade: websocket", "Connection: upgrade"),
    post("X-Folded: a", " b"),
    post("X-Bare: a\rb"),
    post("X-Bare: a\nb"),
    post("X-Nul: \0"),
    post("X-High: \xe4"),
    post("No field"),
    post(*(f"X-{n}: a" for n in range(70))),
    post("X-Long: " + "a" * 9000),
    post(body=b"{"),
    post(body=b""),
    post(body=b" " * (BODY_BYTES_MAX + 1)),
    post(start=f"POST {COMPLETIONS} HTTP/1.0"),
    post(start=f"POST {COMPLETIONS}?a=b HTTP/1.1"),
    post(start=f"post {COMPLETIONS} HTTP/1.1"),
    post(start=f"PUT {COMPLETIONS} HTTP/1.1"),
    post(start=f"GET {COMPLETIONS} HTTP/1.1"),
    post(start="POST /v1/models HTTP/1.1"),
    post(start="POST /v1//models HTTP/1.1"),
    post(start="POST http://x/v1/models HTTP/1.1"),
    post(start="POST /nothing HTTP/1.1"),
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/models/m HTTP/1.1\r\n\r\n",
    b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\r\n\r\n" + ASK,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
]


async def response(reader: asyncio.StreamReader, *, is_head: bool) -> bytes:
    """One answer, with what is said before it."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100"):
        return head + await response(reader, is_head=is_head)
    length = re.search(rb"\r\nContent-Length: (\d+)", head)
    assert length is not None
    return head if is_head else head + await reader.readexactly(int(length[1]))


async def talk(*requests: bytes, plain_way: bool) -> list[bytes]:
    """The answer to each request, asked one after the other on one connection, less what differs each time."""
    told = []
    async with serving(plain_way=plain_way) as house, house.connection() as (reader, writer):
        for request in requests:
            writer.write(request)
            told.append(DATE.sub(b"", await response(reader, is_head=request.startswith(b"HEAD"))))
            if b"\r\nconnection: close" in told[-1].lower() or told[-1].startswith(b"HTTP/1.0"):
                break
        told.append(await reader.read())
    return told


@pytest.mark.parametrize("before", [(), (ASK,), (CHUNKED,)], ids=["alone", "after-plain", "after-odd"])
@pytest.mark.parametrize("request_", HOSTILE, ids=range(len(HOSTILE)))
async def test_every_request_has_the_same_answer_both_ways(request_: bytes, before: tuple[bytes, ...]) -> None:
    """Byte for byte, whatever went before on the connection; and what follows it is answered, or not, the same way."""
    sent = (*before, request_, LAST)
    assert await talk(*sent, plain_way=True) == await talk(*sent, plain_way=False)


async def test_a_request_may_come_in_any_pieces() -> None:
    """Cut at every byte; the next one follows without a pause."""
    sent = ASK + LAST
    async with serving() as house:
        whole = DATE.sub(b"", await house.send(sent))
        for cut in range(1, len(sent)):
            async with house.connection() as (reader, writer):
                writer.write(sent[:cut])
                await settle()
                writer.write(sent[cut:])
                assert DATE.sub(b"", await reader.read()) == whole
        assert len(house.relay.requests) == len(sent)


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    """One at a time, however the bytes fall."""
    running = most = 0

    async def slowly(sink: Sink) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await settle()
        await sink.answer(b"%d" % len(house.relay.requests), {})
        running -= 1

    async with serving() as house:
        house.relay.play = slowly
        reply = await house.send(ASK * 20 + LAST)
        bodies = re.findall(rb"\r\n\r\n(\d+|\{.*?\})", reply)
        assert bodies == [*(b"%d" % n for n in range(1, 21)), b'{"status":"ok"}']
        assert most == 1


async def test_who_sends_far_ahead_is_not_read() -> None:
    """Only so much is kept for it; nothing is lost."""
    go = asyncio.Event()

    async def wait(sink: Sink) -> None:
        await go.wait()
        await sink.answer(b"{}", {})

    async with serving() as house, house.connection() as (reader, writer):
        house.relay.play = wait
        ahead = -(-4 * AHEAD_MAX_BYTES // len(ASK))
        writer.write(ASK * ahead + LAST)
        await settle()
        go.set()
        assert (await reader.read()).count(b"HTTP/1.1 200") == ahead + 1


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
@pytest.mark.parametrize("plain_way", [True, False])
@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "streaming"])
async def test_a_client_that_leaves_cancels_its_request(half: bool, plain_way: bool, begun: bool) -> None:
    """Wherever it is, and also if it only closes its own direction: what it holds must not be held for nobody."""
    came, left = asyncio.Event(), asyncio.Event()

    async def stand_still(sink: Sink) -> None:
        if begun:
            await sink.start_stream({}, event("a"))
        came.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            left.set()

    async with serving(plain_way=plain_way) as house, house.connection() as (_, writer):
        house.relay.play = stand_still
        writer.write(ASK)
        await came.wait()
        if half:
            writer.write_eof()
        else:
            writer.transport.abort()
        await left.wait()


@pytest.mark.parametrize("cut", [1, 40, len(ASK) - len(BODY), len(ASK) - 1])
async def test_a_client_that_leaves_before_its_request_is_whole_leaves_nothing(cut: int) -> None:
    async with serving() as house:
        async with house.connection() as (_, writer):
            writer.write(ASK[:cut])
            await settle()
        await settle()
        assert (house.relay.requests, house.relay.turned) == ([], [])
        assert parsed(await house.send(LAST)).status == 200


async def test_a_slow_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is left of it is not taken for a request."""
    monkeypatch.setattr(body_limits, "BODY_GRACE_S", 0.02)
    async with serving() as house, house.connection() as (reader, writer):
        writer.write(ASK[:-1])
        reply = parsed(await reader.read())
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert [code for _, _, code in house.relay.turned] == ["request_timeout"]


async def test_a_refused_body_is_taken_to_its_end() -> None:
    """Its answer comes before it is whole; then the connection goes on."""
    async with serving(KEYS) as house, house.connection() as (reader, writer):
        writer.write(ASK[:-5])
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 401")
        writer.write(ASK[-5:] + LAST)
        assert parsed(await reader.read()).status == 200


async def test_a_refused_body_that_never_ends_is_cut_off() -> None:
    async with serving(KEYS) as house:
        assert parsed(await house.send(ASK[:-5])).status == 401


async def test_a_bug_is_answered_and_told_to_the_log_alone() -> None:
    async def bug(sink: Sink) -> None:
        raise ZeroDivisionError("a secret")

    async with serving() as house:
        house.relay.play = bug
        with capture_logs() as logs:
            reply = await house.send(ASK)
        assert parsed(reply).status == 500
        assert b"secret" not in reply
        assert [(entry["event"], entry["error"]) for entry in logs] == [("internal_error", "ZeroDivisionError")]


async def test_an_error_after_the_beginning_is_a_cut() -> None:
    async def break_off(sink: Sink) -> None:
        await sink.start_stream({}, event("a"))
        raise upstream_error("It broke.")

    async with serving() as house:
        house.relay.play = break_off
        data = await house.send(ASK)
        assert data.count(b"HTTP/1.1") == 1
        assert not data.endswith(LAST_CHUNK)


async def test_a_client_that_does_not_read_an_error_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer does not stay in memory for ever."""
    monkeypatch.setattr(plain_connection, "UNREAD_MAX_S", 0.02)
    monkeypatch.setattr(plain_connection, "FLUSH_MAX_S", 0.02)
    lost = asyncio.Event()
    its_end = PlainConnection.connection_lost

    def note(connection: PlainConnection, exc: Exception | None) -> None:
        its_end(connection, exc)
        lost.set()

    monkeypatch.setattr(PlainConnection, "connection_lost", note)

    async def long(_: Sink) -> None:
        raise upstream_error("x" * 30_000_000)

    async with serving() as house, house.connection() as (reader, writer):
        house.relay.play = long
        writer.write(ASK)
        await lost.wait()
        assert len(await reader.read()) < 30_000_000


async def test_a_crowd_counts_its_connections_whoever_reads_them() -> None:
    """A dense one keeps none beyond its answer."""
    crowd = Crowd(2)
    async with serving(crowd=crowd) as house:
        async with house.connection() as (reader, writer):
            for request in (ASK, CHUNKED):
                writer.write(request)
                await reader.readuntil(b"{}")
                assert crowd.connections == 1
            assert parsed(await house.send(ASK)).headers["connection"] == "close"
        await settle()
        assert crowd.connections == 0


@pytest.mark.parametrize("plain_way", [True, False])
async def test_tls_listeners_hand_over_too(plain_way: bool, tmp_path: Path) -> None:
    """The rest of the connection goes on inside the same TLS session."""
    (tmp_path / "pair.pem").write_text(GOOD.key + GOOD.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    trusting = ssl.create_default_context(cadata=GOOD.certificate)
    async with serving(plain_way=plain_way, tls=context) as house:
        reader, writer = await asyncio.open_connection(
            house.host, house.port, ssl=trusting, server_hostname="localhost"
        )
        for request in (ASK, CHUNKED, ASK):
            writer.write(request)
            assert parsed(await response(reader, is_head=False)).status == 200
        writer.write(LAST)
        assert parsed(await reader.read()).status == 200
        writer.close()
        await writer.wait_closed()
