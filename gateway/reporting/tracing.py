"""Distributed tracing, on or off: what is told of a request on its way, and whether somebody wants to hear it.

Off, which is the default, costs one comparison a request; OpenTelemetry is imported by the start of tracing alone. What
turns it on are OpenTelemetry's own environment variables.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from gateway.admission.commands import Admit
from gateway.errors import ApiError
from gateway.reporting.record import RequestRecord
from gateway.request import InferenceRequest, TraceContext

log = structlog.get_logger()

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_REMEDY = "pip install 'kvgate[otel]', or unset OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_ENDPOINT"


class Trace(Protocol):
    """The spans of one request."""

    @property
    def context(self) -> TraceContext:
        """Of the request as a whole."""

    def admitted(self, decision: str, admit: Admit) -> None:
        """It got a place; `decision` is in the words of `x-kvgate-decision`."""

    def forwarded(self, request: InferenceRequest, kind: str, url: str) -> TraceContext:
        """It is about to be sent to a backend of this kind, which is to go on from what is returned."""

    def upstream_failed(self, reason: str) -> None:
        """The backend failed it; `reason` is one of `families.UPSTREAM_REASONS`."""

    def answered(self) -> None:
        """The backend has said all it had to say."""

    def ended(self, record: RequestRecord) -> None:
        """It is over, and this is what is known of it."""


class Tracing(Protocol):
    """Makes traces."""

    def begin(self, endpoint: str, parent: TraceContext, ago_s: float = 0.0) -> Trace:
        """A request came, so many seconds ago, with this place in its client's trace."""

    async def aclose(self) -> None:
        """Send what is left, for so long at most as a shutdown may take."""


def record_of_unread(
    tracing: Tracing | None, endpoint: str, request_id: str, error: ApiError, duration_s: float, came_in: TraceContext
) -> RequestRecord:
    """What is known of a request with which something was wrong by itself; its trace, if there is one, is ended."""
    trace = None if tracing is None else tracing.begin(endpoint, came_in, duration_s)
    context = came_in if trace is None else trace.context
    record = RequestRecord(
        request_id,
        endpoint,
        "",
        error.status,
        duration_s,
        error=error.code,
        trace_id=context.trace_id,
        is_sampled=context.is_sampled,
    )
    if trace is not None:
        trace.ended(record)
    return record


@asynccontextmanager
async def open_tracing(scheme: str) -> AsyncIterator[Tracing | None]:
    """Tracing of a server of this scheme while the block runs, or None: nobody asked for it, or it cannot be had, which
    the log then says."""
    if not is_wanted(os.environ):
        yield None
        return
    tracing = await asyncio.to_thread(_start, scheme)
    try:
        yield tracing
    finally:
        if tracing is not None:
            await tracing.aclose()


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces: an exporter is named, or there is an endpoint to send them to."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    return exporter != "none" if exporter else any(environ.get(name, "").strip() for name in _ENDPOINTS)


def _start(scheme: str) -> Tracing | None:
    try:
        from gateway.reporting.otel import OtelTracing, provider_from_environment  # noqa: PLC0415  # an extra, and slow to load
    except ImportError as error:
        log.warning("tracing_not_installed", missing=error.name, remedy=_REMEDY)
        return None
    try:
        tracing = OtelTracing(provider_from_environment(os.environ), scheme)
    except (ValueError, OSError) as error:
        log.warning("tracing_not_started", trouble=str(error))
        return None
    log.info("tracing_started")
    return tracing
