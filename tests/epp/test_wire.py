"""The protocol on the wire: bytes that Envoy's own definitions gave for messages with these contents."""

from __future__ import annotations

from typing import Any

from gateway.epp import messages, wire
from gateway.epp.messages import Head, Side

ASKED = (
    "12120a0e0a0c0a053a706174681a032f7631180142180a160a08656e766f792e6c62120a0a080a016b12031a01764a2e0a016612290a270a1572"
    "6573706f6e73652e636f64655f64657461696c73120e1a0c7669615f757073747265616d50015a0408041004"
)
"""Headers with a path and no body, metadata, an attribute, both modes; and `observability_mode`, not known here."""
ROUTED = "0a130a11120f0a0a0a060a01611a01621802120163421a0a180a08656e766f792e6c62120c2a0a0a080a016412031a0165"
BODY = "220d0a0b1a091a070a0378797a1001"
IMMEDIATE = "3a1d0a0308ad03120c0a0a0a060a01611a016218021a026e6f2a0466756c6c"
TRAILERS = "2a00"


def made(reply: Any) -> str:
    return str(reply.SerializeToString(deterministic=True).hex())


def test_what_envoy_sends_is_read() -> None:
    request = wire.ProcessingRequest.FromString(bytes.fromhex(ASKED))
    assert request.metadata_context.filter_metadata["envoy.lb"]["k"] == "v"
    head = messages.read(request)
    assert head == Head(Side.REQUEST, {":path": "/v1"}, last=True, details="via_upstream", modes=(4, 4))
    assert head.is_full_duplex


def test_a_route_is_what_envoy_reads() -> None:
    """Compared field by field, as one of ours has more in it than one can read."""
    known = wire.ProcessingResponse.FromString(bytes.fromhex(ROUTED))
    assert known.dynamic_metadata["envoy.lb"]["d"] == "e"
    ours: Any = messages.route("e", {}, ("c",))
    reply: Any
    for reply in (known, ours):
        reply.dynamic_metadata.Clear()
        reply.request_headers.response.header_mutation.ClearField("set_headers")
    assert made(ours) == made(known)
    assert made(messages.response_headers({"a": "b"}, ("c",))) == "12" + ROUTED[2:42]


def test_bodies_trailers_and_answers_of_our_own() -> None:
    assert [made(reply) for reply in messages.bodies(Side.RESPONSE, b"xyz", last=True)] == [BODY]
    assert made(messages.trailers(Side.REQUEST)) == TRAILERS
    assert made(messages.immediate(429, {"a": "b"}, b"no", "full")) == IMMEDIATE
