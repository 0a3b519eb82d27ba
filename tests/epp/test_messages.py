"""Envoy's messages, read and made."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gateway.epp import wire
from gateway.epp.messages import (
    CHUNK_BYTES,
    Body,
    Head,
    ProtocolError,
    Side,
    Trailers,
    bodies,
    immediate,
    read,
    response_headers,
    route,
    trailers,
)
from tests.epp.envoy_side import CAME_TRAILERS, SENT_TRAILERS, answered, asked, came, sent, set_headers

NONE, BUFFERED = 0, 2
"""Of Envoy's `BodySendMode`."""


def test_heads() -> None:
    """Both ways in which Envoy writes values; of a name that comes twice the first counts."""
    pairs = [
        wire.HeaderValue(key="a", value="1"),
        wire.HeaderValue(key="b", raw_value=b"\xff"),
        wire.HeaderValue(key="a", value="2"),
    ]
    message = wire.ProcessingRequest(
        request_headers=wire.HttpHeaders(headers=wire.HeaderMap(headers=pairs), end_of_stream=True)
    )
    head = read(message)
    assert isinstance(head, Head)
    assert (head.side, head.headers, head.last) == (Side.REQUEST, {"a": "1", "b": "\xff"}, True)
    assert (head.subset, head.served, head.details, head.modes) == (None, "", "", None)
    assert head.is_full_duplex


@pytest.mark.parametrize(("mode", "fits"), [(wire.FULL_DUPLEX_STREAMED, True), (BUFFERED, False), (NONE, False)])
def test_how_bodies_come(mode: int, fits: bool) -> None:
    head = read(asked(mode=mode))
    assert isinstance(head, Head)
    assert head.is_full_duplex == fits


@pytest.mark.parametrize(
    ("hint", "subset"),
    [
        (["10.0.0.1:1", "10.0.0.2:1"], {"10.0.0.1:1", "10.0.0.2:1"}),
        ("10.0.0.1:1, 10.0.0.2:1", {"10.0.0.1:1", "10.0.0.2:1"}),
        ([], set()),
        ([7, "10.0.0.1:1"], {"10.0.0.1:1"}),
        (7, set()),
    ],
)
def test_subsets(hint: object, subset: set[str]) -> None:
    """A list or a text with commas; what is neither allows nothing."""
    head = read(asked(subset=hint))
    assert isinstance(head, Head)
    assert head.subset == frozenset(subset)


def test_what_is_told_of_an_answer() -> None:
    head = read(answered(503, served="10.0.0.1:1", details="via_upstream"))
    assert isinstance(head, Head)
    assert (head.side, head.headers[":status"]) == (Side.RESPONSE, "503")
    assert (head.served, head.details) == ("10.0.0.1:1", "via_upstream")


def test_bodies_and_trailers() -> None:
    assert read(sent(b"x", last=False)) == Body(Side.REQUEST, b"x", last=False)
    assert read(came(b"")) == Body(Side.RESPONSE, b"", last=True)
    assert read(SENT_TRAILERS) == Trailers(Side.REQUEST)
    assert read(CAME_TRAILERS) == Trailers(Side.RESPONSE)


def test_a_message_of_nothing() -> None:
    with pytest.raises(ProtocolError):
        read(wire.ProcessingRequest())


@given(st.integers(0, 4 * CHUNK_BYTES), st.booleans(), st.sampled_from(Side))
def test_bodies_are_cut(size: int, last: bool, side: Side) -> None:
    """No piece is too large, none is lost, an empty one still tells the end, and only the last one ends."""
    data = bytes(size)
    made = [wire.ProcessingResponse.FromString(reply.SerializeToString()) for reply in bodies(side, data, last=last)]  # type: ignore[attr-defined]
    pieces = [getattr(reply, f"{side.value}_body").response.body_mutation.streamed_response for reply in made]
    assert b"".join(piece.body for piece in pieces) == data
    assert max(len(piece.body) for piece in pieces) <= CHUNK_BYTES
    assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [last]


def test_replies() -> None:
    """Headers are set over what the client sent, or removed."""
    made = route("10.0.0.1:1", {"x": "y"}, ("z",))
    mutation = made.request_headers.response.header_mutation  # type: ignore[attr-defined]
    assert set_headers(mutation) == {"x-gateway-destination-endpoint": "10.0.0.1:1", "x": "y"}
    assert list(mutation.remove_headers) == ["z"]
    told = response_headers({"x": "y"})
    assert set_headers(told.response_headers.response.header_mutation) == {"x": "y"}  # type: ignore[attr-defined]
    own = immediate(429, {"retry-after": "1"}, b"{}", "full").immediate_response  # type: ignore[attr-defined]
    assert (own.status.code, own.body, own.details, set_headers(own.headers)) == (
        429,
        b"{}",
        "full",
        {"retry-after": "1"},
    )
    assert trailers(Side.RESPONSE).WhichOneof("response") == "response_trailers"  # type: ignore[attr-defined]
