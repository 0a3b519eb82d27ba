"""A body within a body: both are read as strictly as a request's own."""

from __future__ import annotations

import json

import pytest

from gateway.api.estimate import ESTIMATE, parse_estimate
from gateway.api.parse import ParsePolicy, parse_inference
from gateway.domain import Priority
from gateway.errors import ApiError
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS
from tests.api.served import KEYS, TENANT, error_of, serving
from tests.hostile_bodies import HOSTILE, JSON, MESSAGES, VALUE, Hostile

GOOD = {
    CHAT: f'{{"model":"m",{MESSAGES},"max_tokens":7}}',
    COMPLETIONS: '{"model":"m","prompt":[1,2,3],"n":2}',
    EMBEDDINGS: '{"model":"m","input":["a","b"]}',
}
POST = f"POST {ESTIMATE} HTTP/1.1"


def question(body: bytes, endpoint: str = CHAT) -> bytes:
    return b'{"endpoint":"%b","body":%b}' % (endpoint.encode(), body)


@pytest.mark.parametrize("endpoint", GOOD)
def test_it_is_read_as_if_it_came_by_itself(endpoint: str) -> None:
    body = GOOD[endpoint].encode()
    assert parse_estimate(question(body, endpoint)) == parse_inference(endpoint, body)


def test_the_policy_holds_inside_too() -> None:
    """Dropped fields are dropped."""
    body = f'{{"model":"m",{MESSAGES},"zzz":1}}'.encode()
    assert "zzz" not in parse_estimate(question(body), ParsePolicy(unknown_fields="drop")).fields


@pytest.mark.parametrize("row", HOSTILE, ids=str)
def test_hostile_bodies_are_hostile_here_too(row: Hostile) -> None:
    """The same error for the same field; what breaks out of the inner body breaks the outer one."""
    with pytest.raises(ApiError) as caught:
        parse_estimate(question(row.body, row.endpoint))
    error = caught.value
    assert error.status == (404 if row.code == "model_not_found" else 400)
    if row.code == JSON:
        assert error.code in (JSON, VALUE)
    else:
        assert (error.code, error.param) == (row.code, row.param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"{}", "invalid_value", "endpoint"),
        (b'{"endpoint":1,"body":{}}', "invalid_value", "endpoint"),
        (b'{"endpoint":null,"body":{}}', "invalid_value", "endpoint"),
        (b'{"endpoint":"/v1/estimate","body":{}}', "invalid_value", "endpoint"),
        (b'{"endpoint":"/v1/models","body":{}}', "invalid_value", "endpoint"),
        (b'{"endpoint":"chat","body":{}}', "invalid_value", "endpoint"),
        (b'{"endpoint":"/v1/chat/completions"}', "invalid_value", "body"),
        (b'{"endpoint":"/v1/chat/completions","body":null}', "invalid_value", "body"),
        (b'{"endpoint":"/v1/chat/completions","body":"{}"}', "invalid_value", "body"),
        (b'{"endpoint":"/v1/chat/completions","body":[{}]}', "invalid_value", "body"),
        (b'{"endpoint":"/v1/chat/completions","body":{}}', "invalid_value", "model"),
        (b'{"endpoint":"/v1/chat/completions","body":{},"more":1}', "unsupported_parameter", "more"),
        (b'{"endpoint":"/v1/chat/completions","endpoint":"/v1/embeddings","body":{}}', "duplicate_key", "endpoint"),
        (b'{"endpoint":"/v1/chat/completions","body":{},"body":{}}', "duplicate_key", "body"),
        (b'{"endpoint":"/v1/chat/completions","body":{"n":1,"n":2}}', "duplicate_key", "n"),
    ],
)
def test_the_outer_body_is_strict(body: bytes, code: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse_estimate(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)


async def test_it_is_served_with_the_key_and_the_headers_of_a_request() -> None:
    """The tenant's priority and the client's patience count, as they would."""
    async with serving(KEYS) as house:
        assert error_of(await house.ask(POST, body=question(GOOD[CHAT].encode())))["code"] == "invalid_api_key"
        headers = ("Authorization: Bearer secret", "X-Kvgate-Priority: batch", "X-Stainless-Read-Timeout: 3")
        reply = await house.ask(POST, *headers, body=question(GOOD[CHAT].encode()))
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert json.loads(reply.body) == {"decision": "admit"}
        (asked,) = house.relay.estimated
        assert (asked.endpoint, asked.tenant, asked.priority, asked.deadline_s) == (CHAT, TENANT, Priority.BATCH, 3.0)
        assert house.relay.requests == []


async def test_only_by_post_and_not_for_ever() -> None:
    """Too large, encoded, of another method: as everywhere. What is wrong with a question is no failed request."""
    async with serving() as house:
        assert (await house.ask(f"GET {ESTIMATE} HTTP/1.1")).status == 405
        assert (await house.ask(POST, body=question(b" " * 20_000))).status == 413
        assert (await house.ask(POST, "Content-Encoding: gzip", body=b"x")).status == 415
        assert error_of(await house.ask(POST, body=b"{"))["code"] == "invalid_json"
        assert house.relay.turned == []
