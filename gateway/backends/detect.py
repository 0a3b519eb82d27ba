"""Finds out what kind of engine answers at a URL, from pages that only that kind has."""

from __future__ import annotations

from gateway.backends import sglang
from gateway.backends.engine import OK, Fault, Fetch, TelemetryError, listing_of
from gateway.backends.settings import EngineKind

KEY_REFUSED = (401, 403)
NOT_READY = 500
"""From this status on an answer says only that the engine is not ready: which kind it is shows later."""
NOT_IMPLEMENTED = 501
"""llama.cpp's answer for a page that its command line switched off."""


async def detect(fetch: Fetch) -> EngineKind:
    """Ask for at most three pages. A server that has none of the engines' own pages but models is a provider.

    Raises:
        UpstreamFailure: nobody answers.
        TelemetryError: the server is not ready, or is none that this gateway knows.
    """
    metrics = await _page(fetch, "/metrics")
    if b"\nvllm:" in metrics:
        return "vllm"
    if any(b"\n" + prefix in metrics for prefix in sglang.PREFIXES):
        return "sglang"
    if b'"total_slots"' in await _page(fetch, "/props"):
        return "llamacpp"
    status, body = await fetch("/v1/models")
    if status == OK:
        listing_of(body)
    elif status not in KEY_REFUSED:
        raise TelemetryError(Fault.MISSING_METRIC, f"no known engine: GET /v1/models answered {status}; set its kind")
    return "openai"


async def _page(fetch: Fetch, path: str) -> bytes:
    status, body = await fetch(path)
    if status >= NOT_READY and status != NOT_IMPLEMENTED:
        raise TelemetryError(Fault.MISSING_METRIC, f"not ready: GET {path} answered {status}")
    return b"\n" + body if status == OK else b""
