"""No request runs that a strict reader of HTTP does not see: two framings, odd chunks, odd heads, upgrades."""

from __future__ import annotations

import re

from tests.e2e.stand import gateway
from tests.faults import FaultyEngine, response
from tests.smuggler import PROBE, answers, exchange, to
from tests.smuggling import HIDDEN, corpus, hidden

MODELS = response(b'{"data":[{"id":"m"}]}')


async def test_no_hidden_request_runs() -> None:
    """Whatever a payload is to the gateway: refused, or one request; and it is never a fault of the gateway's own."""
    payloads = corpus()
    assert len(payloads) >= 900
    async with (
        FaultyEngine((MODELS,)) as engine,
        gateway({"name": "b0", "url": engine.url, "kind": "openai"}) as stand,
    ):
        got = await answers(to(stand.running.api_url), payloads)
        ran = [request.body for request in engine.requests if b"hidden" in request.body]
        assert ran == []
        wrong = [str(payload) for payload in payloads if b"HTTP/1.1 5" in got[payload.number]]
        assert wrong == []
        assert stand.log_lines("internal_error") == []


async def test_a_request_in_plain_sight_runs() -> None:
    """The same request behind one that ends where all see it: otherwise the test above would show nothing."""
    plain = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    async with (
        FaultyEngine((MODELS,)) as engine,
        gateway({"name": "b0", "url": engine.url, "kind": "openai"}) as stand,
    ):
        answer = await exchange(to(stand.running.api_url), plain + hidden(7) + PROBE)
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"400", b"200", b"200"]
        (ran,) = (request for request in engine.requests if b"hidden" in request.body)
        assert ran.line == f"POST {HIDDEN} HTTP/1.1".encode()
        assert b"hidden-7" in ran.body
