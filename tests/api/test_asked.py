"""A request looks the same to the endpoints, whoever read it."""

from __future__ import annotations

import json

import pytest

from gateway.request import COMPLETIONS
from tests.api.served import BODY, parsed, serving


@pytest.mark.parametrize("plain_way", [True, False])
async def test_what_is_asked_is_the_same_both_ways(plain_way: bool) -> None:
    """Path without its query, headers in whatever case they came, and the body to the last byte."""
    head = f"POST {COMPLETIONS}?a=b HTTP/1.1\r\nHost: x\r\nX-Request-ID: my-id\r\nX-STAINLESS-retry-count: 3\r\n"
    data = f"{head}Connection: close\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    async with serving(plain_way=plain_way) as house:
        reply = parsed(await house.send(data))
        (request,) = house.relay.requests
    assert (reply.status, reply.headers["x-request-id"]) == (200, "my-id")
    assert (request.endpoint, request.body, request.retry_count) == (COMPLETIONS, BODY, 3)


@pytest.mark.parametrize("plain_way", [True, False])
async def test_a_reply_is_the_same_both_ways(plain_way: bool) -> None:
    """With the status, the headers and the body that the endpoint gave it."""
    async with serving(plain_way=plain_way) as house:
        reply = parsed(await house.send(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    assert json.loads(reply.body)["error"]["code"] == "unknown_url"
