"""Envoy's ext_proc messages: read into plain words, and made from plain values. Only this file knows their fields."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from google.protobuf.struct_pb2 import ListValue

from gateway.epp import wire

DESTINATION = "x-gateway-destination-endpoint"
"""Header to the data plane, and key of the same value in the metadata: `ip:port`."""
SUBSET = "x-gateway-destination-endpoint-subset"
SERVED = "x-gateway-destination-endpoint-served"
LB_NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
CODE_DETAILS = "response.code_details"
"""An attribute that Envoy adds if it is told to: who made the answer, and why."""
CHUNK_BYTES = 60_000
"""Of a body in one message: some data planes take no more than 64 KB."""

Reply: TypeAlias = object
"""A ProcessingResponse, for everybody but this file."""


class Side(enum.Enum):
    """Of which half of an exchange a message tells."""

    REQUEST = "request"
    RESPONSE = "response"


class ProtocolError(Exception):
    """Envoy sent what it must not send, mostly because it is configured for another way of processing."""


@dataclass(frozen=True, slots=True)
class Head:
    """The headers of a request or an answer."""

    side: Side
    headers: Mapping[str, str]
    """Names in lower case; of a name that came twice the first value."""
    last: bool = False
    """There is no body."""
    subset: frozenset[str] | None = None
    """Endpoints that are allowed for this request; None: all."""
    served: str = ""
    """The endpoint that gave the answer, where the data plane tells."""
    details: str = ""
    """Envoy's `response.code_details`, where it tells; `via_upstream` for an answer that an engine gave."""
    modes: tuple[int, int] | None = None
    """How bodies are sent, in the first message of a stream."""

    @property
    def is_full_duplex(self) -> bool:
        """Whether both bodies come as this room needs them; a data plane that does not tell is believed."""
        return self.modes is None or set(self.modes) == {wire.FULL_DUPLEX_STREAMED}


@dataclass(frozen=True, slots=True)
class Body:
    """A piece of a body."""

    side: Side
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Trailers:
    """The end of a body that has trailers."""

    side: Side


Message: TypeAlias = Head | Body | Trailers


def read(message: Any) -> Message:
    """A ProcessingRequest in plain words.

    Raises:
        ProtocolError: there is nothing in it.
    """
    kind = message.WhichOneof("request")
    if kind is None:
        raise ProtocolError("a message without content")
    side = Side.REQUEST if kind.startswith("request") else Side.RESPONSE
    part = getattr(message, kind)
    if kind.endswith("_body"):
        return Body(side, part.body, part.end_of_stream)
    if kind.endswith("_trailers"):
        return Trailers(side)
    known = message.metadata_context.filter_metadata
    return Head(
        side,
        _headers(part.headers),
        part.end_of_stream,
        subset=_subset(known[SUBSET_NAMESPACE]) if SUBSET_NAMESPACE in known else None,
        served=_text(known[LB_NAMESPACE], SERVED) if LB_NAMESPACE in known else "",
        details=_details(message.attributes),
        modes=_modes(message),
    )


def route(endpoint: str, more: Mapping[str, str], removed: tuple[str, ...]) -> Reply:
    """The answer to a request's headers: where it goes, in both of the places where data planes look."""
    reply = wire.ProcessingResponse(request_headers=_mutated({DESTINATION: endpoint, **more}, removed))
    reply.dynamic_metadata.get_or_create_struct(LB_NAMESPACE)[DESTINATION] = endpoint
    return reply


def response_headers(more: Mapping[str, str], removed: tuple[str, ...] = ()) -> Reply:
    """The answer to the headers of an engine's answer."""
    return wire.ProcessingResponse(response_headers=_mutated(more, removed))


def bodies(side: Side, data: bytes, *, last: bool) -> Iterator[Reply]:
    """A body, or a piece of one, in as many messages as it takes."""
    for start in range(0, len(data), CHUNK_BYTES) or range(1):
        end = start + CHUNK_BYTES
        piece = wire.StreamedBodyResponse(body=data[start:end], end_of_stream=last and end >= len(data))
        mutation = wire.BodyMutation(streamed_response=piece)
        body = wire.BodyResponse(response=wire.CommonResponse(body_mutation=mutation))
        yield wire.ProcessingResponse(**{f"{side.value}_body": body})


def trailers(side: Side) -> Reply:
    """Trailers pass as they are."""
    return wire.ProcessingResponse(**{f"{side.value}_trailers": wire.TrailersResponse()})


def immediate(status: int, headers: Mapping[str, str], body: bytes, details: str) -> Reply:
    """An answer of our own in place of an engine's."""
    return wire.ProcessingResponse(
        immediate_response=wire.ImmediateResponse(
            status=wire.HttpStatus(code=status), headers=_mutation(headers, ()), body=body, details=details
        )
    )


def _mutated(headers: Mapping[str, str], removed: tuple[str, ...]) -> Any:
    return wire.HeadersResponse(response=wire.CommonResponse(header_mutation=_mutation(headers, removed)))


def _mutation(headers: Mapping[str, str], removed: tuple[str, ...]) -> Any:
    replace = wire.OVERWRITE_IF_EXISTS_OR_ADD
    set_headers = [
        wire.HeaderValueOption(header=wire.HeaderValue(key=name, raw_value=value.encode()), append_action=replace)
        for name, value in headers.items()
    ]
    return wire.HeaderMutation(set_headers=set_headers, remove_headers=removed)


def _headers(sent: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for header in sent.headers:
        headers.setdefault(header.key, header.value or header.raw_value.decode("latin-1"))
    return headers


def _subset(hint: Any) -> frozenset[str] | None:
    """A list of endpoints, or one text with commas: both are met."""
    if SUBSET not in hint:
        return None
    value = hint[SUBSET]
    values = value if isinstance(value, ListValue) else (value,)
    texts = [text for text in values if isinstance(text, str)]
    return frozenset(endpoint.strip() for text in texts for endpoint in text.split(",") if endpoint.strip())


def _text(values: Any, key: str) -> str:
    value = values[key] if key in values else ""  # noqa: SIM401  # a Struct has no get
    return value if isinstance(value, str) else ""


def _details(attributes: Any) -> str:
    return next((found for values in attributes.values() if (found := _text(values, CODE_DETAILS))), "")


def _modes(message: Any) -> tuple[int, int] | None:
    if not message.HasField("protocol_config"):
        return None
    config = message.protocol_config
    return config.request_body_mode, config.response_body_mode
