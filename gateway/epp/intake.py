"""What Envoy's requests ask for: an inference, or a page that needs no engine. Checked as by the HTTP surface."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.api.auth import PRIORITY_HEADER, KeyRing, requested_priority
from gateway.api.body_limits import BODY_MAX_S, too_large, too_slow
from gateway.api.estimate import ESTIMATE, parse_estimate
from gateway.api.models import MODELS
from gateway.api.parse import ParsePolicy, parse_inference
from gateway.api.request_headers import apply_headers, reject_encoded_body
from gateway.epp.messages import Head
from gateway.epp.stream import Stream
from gateway.errors import ApiError
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest

_POSTS = frozenset((CHAT, COMPLETIONS, EMBEDDINGS, ESTIMATE))


@dataclass(frozen=True, slots=True)
class IntakeSettings:
    """What requests may bring."""

    body_bytes_max: int
    policy: ParsePolicy


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that passed every check."""

    inference: InferenceRequest
    has_trailers: bool
    """Its body ended with trailers, which pass as well."""


def path_of(head: Head) -> str:
    """The path as it was sent, without a query."""
    return head.headers.get(":path", "").partition("?")[0]


def is_listing(path: str, headers: Mapping[str, str]) -> bool:
    """Whether it asks for models.

    Raises:
        ApiError: 404 or 405, nothing here is asked for this way.
    """
    listing = path == MODELS or path.startswith(f"{MODELS}/")
    if not listing and path not in _POSTS:
        raise ApiError(404, "unknown_url", "This path does not exist here.")
    method = "GET" if listing else "POST"
    if headers.get(":method") != method:
        error = ApiError(405, "method_not_allowed", f"Use {method} here.")
        error.headers = {"allow": method}
        raise error
    return listing


async def read_request(stream: Stream, head: Head, keys: KeyRing, settings: IntakeSettings, request_id: str) -> Taken:
    """Everything that can be wrong with a request by itself is found here, before anything is reserved for it.

    Raises:
        ApiError: what is wrong with it.
        GoneError: its client left before its end.
        ProtocolError: Envoy sent what it must not send.
    """
    headers, path = head.headers, path_of(head)
    tenant = keys.tenant_for(headers.get("authorization"))
    priority = requested_priority(headers.get(PRIORITY_HEADER), tenant)
    reject_encoded_body(headers)
    body, has_trailers = (b"", False) if head.last else await _body(stream, headers, settings.body_bytes_max)
    inference = (
        parse_estimate(body, settings.policy) if path == ESTIMATE else parse_inference(path, body, settings.policy)
    )
    apply_headers(inference, headers)
    inference.request_id = request_id
    inference.tenant = tenant
    inference.priority = priority
    return Taken(inference, has_trailers)


async def _body(stream: Stream, headers: Mapping[str, str], limit: int) -> tuple[bytes, bool]:
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(BODY_MAX_S):
            found = await stream.request_body(limit)
    except TimeoutError:
        raise too_slow() from None
    if found is None:
        raise too_large(limit)
    return found
