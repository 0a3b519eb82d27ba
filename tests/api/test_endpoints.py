from __future__ import annotations

import asyncio
import json

import openai
import pytest
from structlog.testing import capture_logs

from gateway.api import endpoints
from gateway.domain import Priority
from gateway.errors import upstream_error
from gateway.passage import Sink
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS
from tests.api.served import BODY, KEYS, POST, TENANT, error_of, parsed, serving
from tests.faults import LAST_CHUNK, chunk, event

BODIES = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"model": "m", "prompt": "hi"},
    EMBEDDINGS: {"model": "m", "input": "hi"},
}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
async def test_each_endpoint_carries_what_its_parser_reads(path: str) -> None:
    """With everything that its headers said."""
    async with serving() as house:
        reply = await house.ask(
            f"POST {path}?a=b HTTP/1.1",
            "x-request-id: my-id",
            "x-kvgate-priority: batch",
            "x-stainless-read-timeout: 12",
            body=json.dumps(BODIES[path]).encode(),
        )
        assert (reply.status, reply.body) == (200, b"{}")
        assert (reply.headers["x-request-id"], reply.headers["x-kvgate-backend"]) == ("my-id", "a")
        (request,) = house.relay.requests
        assert (request.endpoint, request.model, request.request_id) == (path, "m", "my-id")
        assert (request.priority, request.deadline_s, request.tenant.name) == (Priority.BATCH, 12.0, "")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//v1/models",
        "/v1//models",
        "/v1/%6dodels",
        "/%2e/v1/models",
        "/./v1/models",
        "/x/../v1/models",
        "/v1/models;a",
        "/v1/models%00",
        "/V1/models",
        "/v1/completions/",
        "/v1/models#x",
        "http://x/v1/models",
        "http://x@y/health",
        "/metrics",
        "/docs",
        "*",
    ],
)
async def test_only_listed_paths_exist(target: str) -> None:
    """Compared as they were sent: nothing is decoded, joined or taken apart."""
    async with serving() as house:
        reply = await house.ask(f"GET {target} HTTP/1.1")
        error = error_of(reply)
        assert (reply.status, error["code"]) in [(404, "unknown_url"), (400, "invalid_http")]
        assert reply.status == 404 or target == "*"


@pytest.mark.parametrize(
    "target", ["/v1/models/..", "/v1/models/", "/v1/models/%2e%2e/health", "/v1/models/M", "/v1/models/../../health"]
)
async def test_only_listed_models_exist(target: str) -> None:
    """A name is a name, whatever it looks like."""
    async with serving() as house:
        reply = await house.ask(f"GET {target} HTTP/1.1")
        assert (reply.status, error_of(reply)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (f"GET {CHAT}", "POST"),
        (f"HEAD {CHAT}", "POST"),
        (f"OPTIONS {CHAT}", "POST"),
        ("POST /v1/models", "GET"),
        ("DELETE /v1/models/m", "GET"),
        ("PUT /health", "GET"),
        ("TRACE /ready", "GET"),
    ],
)
async def test_other_methods_are_told_which_is_right(line: str, allowed: str) -> None:
    """As HTTP wants it: 405 names what is allowed."""
    async with serving() as house:
        reply = await house.ask(f"{line} HTTP/1.1")
        assert (reply.status, reply.headers["allow"]) == (405, allowed)
        if not line.startswith("HEAD"):
            assert error_of(reply)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"POST " + COMPLETIONS.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
async def test_what_is_no_http_is_an_error_like_all_others(data: bytes) -> None:
    """The server's own parser finds it; its answer quotes nothing of it, and closes."""
    async with serving() as house:
        reply = parsed(await house.send(data))
        assert (reply.status, error_of(reply)["code"]) == (400, "invalid_http")
        assert reply.headers["connection"] == "close"


async def test_a_bug_is_an_error_like_all_others() -> None:
    """It tells nothing of itself to the client, and all to the log."""

    async def bug(sink: Sink) -> None:
        raise ZeroDivisionError("a secret")

    async with serving() as house:
        house.relay.play = bug
        with capture_logs() as logs:
            reply = await house.ask(POST, body=BODY)
        error = error_of(reply)
        assert (reply.status, error["code"], error["type"]) == (500, "internal_error", "server_error")
        assert b"secret" not in reply.body
        assert [(entry["event"], entry["log_level"]) for entry in logs] == [("internal_error", "error")]


async def test_a_bug_before_the_relay_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a 500 of that endpoint."""

    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(endpoints, "parse_inference", bug)
    async with serving() as house:
        with capture_logs():
            reply = await house.ask(POST, body=BODY)
        assert reply.status == 500
        assert [code for _, _, code in house.relay.turned] == ["internal_error"]


async def test_a_bug_within_a_stream_cuts_it() -> None:
    """No second answer is mixed into the first, and it does not look complete."""

    async def bug(sink: Sink) -> None:
        await sink.start_stream({}, event("a"))
        raise ZeroDivisionError

    async with serving() as house:
        house.relay.play = bug
        with capture_logs() as logs:
            reply = await house.ask(POST, body=BODY)
        assert (reply.status, reply.body) == (200, chunk(event("a")))
        assert [entry["event"] for entry in logs] == ["internal_error"]


async def test_a_client_that_vanished_is_no_bug() -> None:
    """The relay says so; the connection is cut and nothing is logged."""

    async def gone(sink: Sink) -> None:
        await sink.start_stream({}, event("a"))
        raise ConnectionAbortedError

    async with serving() as house:
        house.relay.play = gone
        with capture_logs() as logs:
            data = await house.send(f"{POST}\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        assert not data.endswith(LAST_CHUNK)
        assert logs == []


async def test_errors_of_the_relay_are_rendered() -> None:
    """With their status, and what they say of a retry."""

    async def refuse(sink: Sink) -> None:
        raise upstream_error("The engine is away.", should_retry=True)

    async with serving() as house:
        house.relay.play = refuse
        reply = await house.ask(POST, body=BODY)
        assert (reply.status, error_of(reply)["message"]) == (502, "The engine is away.")
        assert reply.headers["x-should-retry"] == "true"
        assert house.relay.turned == []


@pytest.mark.parametrize("line", [POST, "GET /v1/models HTTP/1.1", "GET /v1/models/m HTTP/1.1"])
@pytest.mark.parametrize(("key", "status"), [("Bearer secret", 200), ("Bearer wrong", 401), ("", 401)])
async def test_keys_open_every_endpoint_but_health(line: str, key: str, status: int) -> None:
    """Before a body is read."""
    async with serving(KEYS) as house:
        headers = (f"Authorization: {key}",) if key else ()
        reply = await house.ask(line, *headers, body=BODY if line == POST else b"")
        assert reply.status == status
        if status == 401:
            assert error_of(reply)["code"] == "invalid_api_key"
        elif line == POST:
            assert (house.relay.requests[0].tenant, house.relay.requests[0].priority) == (TENANT, Priority.STANDARD)
        assert (await house.ask("GET /health HTTP/1.1")).status == 200


async def test_models_are_listed_and_shown() -> None:
    """As the client library of OpenAI reads them, names with a slash included."""
    async with (
        serving() as house,
        openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="k", max_retries=0) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["m", "org/big"]
        model = await client.models.retrieve("org/big")
        assert (model.id, model.created, model.owned_by) == ("org/big", 1_700_000_000, "kvgate")
        shown = json.loads((await house.ask("GET /v1/models/m HTTP/1.1")).body)
        assert shown["max_model_len"] == 4096
        assert json.loads((await house.ask("GET /v1/models/org%2Fbig HTTP/1.1")).body)["id"] == "org/big"


async def test_health_and_readiness_differ_while_draining() -> None:
    """A draining gateway is healthy, and gets no new work."""
    async with serving() as house:
        assert json.loads((await house.ask("GET /ready HTTP/1.1")).body) == {"status": "ready"}
        house.draining = True
        reply = await house.ask("GET /ready HTTP/1.1")
        assert (reply.status, error_of(reply)["code"]) == (503, "draining")
        assert json.loads((await house.ask("GET /health HTTP/1.1")).body) == {"status": "ok"}


async def test_a_client_that_leaves_cancels_its_request() -> None:
    """What it holds must not be held for nobody."""
    came, left = asyncio.Event(), asyncio.Event()

    async def stand_still(sink: Sink) -> None:
        came.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            left.set()

    async with serving() as house:
        house.relay.play = stand_still
        async with house.connection() as (_, writer):
            writer.write(f"{POST}\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
            await came.wait()
        await left.wait()
