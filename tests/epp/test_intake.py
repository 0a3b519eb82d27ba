"""What Envoy's requests may ask for, before anything is reserved."""

from __future__ import annotations

import asyncio

import pytest

from gateway.api.auth import KeyRing
from gateway.api.parse import DEFAULT_POLICY
from gateway.domain import Priority
from gateway.epp import intake
from gateway.epp.intake import IntakeSettings, is_listing, path_of, read_request
from gateway.epp.messages import Body, Head, Message, Side
from gateway.errors import ApiError
from gateway.request import CHAT, COMPLETIONS
from tests.epp.envoy_side import body_of
from tests.epp.test_stream import opened

SETTINGS = IntakeSettings(1_000, DEFAULT_POLICY)


def head(path: str = COMPLETIONS, **headers: str) -> Head:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(Side.REQUEST, {":path": path, ":method": "POST", **given})


@pytest.mark.parametrize(
    ("method", "path", "listing"),
    [
        ("POST", CHAT, False),
        ("POST", "/v1/estimate", False),
        ("GET", "/v1/models", True),
        ("GET", "/v1/models/org/m", True),
    ],
)
def test_what_is_served(method: str, path: str, listing: bool) -> None:
    assert is_listing(path, {":method": method}) == listing


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", CHAT, 405), ("POST", "/v1/models", 405), ("POST", "/v1/chat/completions/", 404), ("GET", "", 404)],
)
def test_what_is_not(method: str, path: str, status: int) -> None:
    """A path is served only if it is listed, and by one method."""
    with pytest.raises(ApiError) as caught:
        is_listing(path, {":method": method})
    assert caught.value.status == status
    assert ("allow" in caught.value.headers) == (status == 405)


def test_a_query_is_no_part_of_a_path() -> None:
    assert path_of(head("/v1/models?x=/v1/chat")) == "/v1/models"


async def test_headers_fill_in_what_the_body_does_not_say() -> None:
    given = head(x_kvgate_priority="batch", x_stainless_read_timeout="7", x_stainless_retry_count="2")
    async with opened(Body(Side.REQUEST, body_of(), last=True)) as (stream, _):
        taken = await read_request(stream, given, KeyRing(), SETTINGS, "r-1")
    inference = taken.inference
    assert (inference.request_id, inference.priority, inference.deadline_s) == ("r-1", Priority.BATCH, 7.0)
    assert (inference.retry_count, inference.endpoint, taken.has_trailers) == (2, COMPLETIONS, False)


@pytest.mark.parametrize("length", ["1001", "99999999999", "x", "-1"])
async def test_a_length_that_is_too_large_is_believed_at_once(length: str) -> None:
    """One that is none is left to what comes."""
    async with opened(Body(Side.REQUEST, body_of(), last=True)) as (stream, _):
        asking = read_request(stream, head(content_length=length), KeyRing(), SETTINGS, "r-1")
        if not length.isdigit():
            assert (await asking).inference.model == "m"
            return
        with pytest.raises(ApiError) as caught:
            await asking
        assert caught.value.status == 413


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for as long as by the HTTP surface."""
    monkeypatch.setattr(intake, "BODY_MAX_S", 0.01)
    silent: tuple[Message, ...] = (Body(Side.REQUEST, b"{", last=False),)
    async with opened(*silent) as (stream, _):
        with pytest.raises(ApiError) as caught:
            await asyncio.wait_for(read_request(stream, head(), KeyRing(), SETTINGS, "r-1"), 5.0)
    assert caught.value.status == 408
