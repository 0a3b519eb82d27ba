"""Spans by OpenTelemetry's SDK, which hands them to a thread of its own: a dead collector costs spans, never time.

A request is a server span; within it `kvgate.admission` (which holds `kvgate.queue` if it waited) and a client span for
each backend that it was sent to, which the engine goes on from.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway import __version__
from gateway.admission.commands import Admit
from gateway.reporting import span_attributes as said
from gateway.reporting.record import RequestRecord
from gateway.request import InferenceRequest, TraceContext

FLUSH_MAX_S = 5.0
"""How long a shutdown waits for a collector to take the last spans."""
PROTOCOL = "http/protobuf"
NS = 1_000_000_000

_EXPORTERS: dict[str, Callable[[], SpanExporter]] = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}
_W3C = TraceContextTextMapPropagator()

log = structlog.get_logger()


def provider_from_environment(environ: Mapping[str, str]) -> TracerProvider:
    """What the standard variables describe: exporters, sampler, batches, resource.

    Raises:
        ValueError: they ask for what is not here.
    """
    exporters = []
    for name in environ.get("OTEL_TRACES_EXPORTER", "").strip().split(",") or ["otlp"]:
        made = _EXPORTERS.get(name.strip() or "otlp")
        if made is None:
            raise ValueError(f"OTEL_TRACES_EXPORTER: {name.strip()!r} is none of {', '.join(_EXPORTERS)}, none")
        exporters.append(made)
    general = environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or PROTOCOL
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "").strip() or general
    if OTLPSpanExporter in exporters and protocol != PROTOCOL:
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL: only {PROTOCOL} is spoken (port 4318 of a collector)")
    resource = Resource.create({SERVICE_VERSION: __version__})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "kvgate"}))
    # Its own end at exit would wait half a minute for a dead collector.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for made in exporters:
        provider.add_span_processor(BatchSpanProcessor(made()))
    return provider


class OtelTracing:
    """Implements `tracing.Tracing`."""

    def __init__(self, provider: TracerProvider, scheme: str, flush_max_s: float = FLUSH_MAX_S) -> None:
        self._provider = provider
        self._scheme = scheme
        self._flush_max_s = flush_max_s
        self._tracer = provider.get_tracer("kvgate", __version__)

    def begin(self, endpoint: str, parent: TraceContext, ago_s: float = 0.0) -> OtelTrace:
        """A request came, so many seconds ago, with this place in its client's trace."""
        context = _W3C.extract({"traceparent": parent.parent, "tracestate": parent.state}, Context())
        came_ns = time.time_ns() - int(ago_s * NS)
        attributes = said.server_start(endpoint, self._scheme)
        name = f"POST {endpoint}"
        span = self._tracer.start_span(name, context, SpanKind.SERVER, attributes, start_time=came_ns)
        return OtelTrace(self._tracer, span, came_ns)

    async def aclose(self) -> None:
        """Send what is left. The SDK's own limit is longer, so a thread that nobody need wait for does it."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, self._flush_max_s)
        if ending.is_alive():
            log.warning("traces_lost", reason="the collector did not take the last spans", waited_s=self._flush_max_s)


class OtelTrace:
    """Implements `tracing.Trace`. Where the sampler said no it only says what the backend is told."""

    __slots__ = ("_asked_ns", "_came_ns", "_inside", "_server", "_tracer", "_upstream", "context")

    def __init__(self, tracer: Tracer, server: Span, came_ns: int) -> None:
        self._tracer = tracer
        self._server = server
        self._inside = set_span_in_context(server, Context())
        self._came_ns = came_ns
        self._asked_ns = came_ns
        """When admission was asked last."""
        self._upstream: _Upstream | None = None
        self.context = _written(self._inside)

    def admitted(self, decision: str, admit: Admit) -> None:
        """It got a place."""
        self._decide(said.admission_granted(decision, admit), admit.waited_s)

    def forwarded(self, request: InferenceRequest, kind: str, url: str) -> TraceContext:
        """It is about to be sent to a backend of this kind, which is to go on from what is returned."""
        if not self._server.is_recording():
            return self.context
        attributes = said.upstream_start(request, kind, url)
        self._upstream = _Upstream(
            self._tracer.start_span(said.upstream_name(request), self._inside, SpanKind.CLIENT, attributes)
        )
        return _written(set_span_in_context(self._upstream.span, Context()))

    def upstream_failed(self, reason: str) -> None:
        """The backend failed it. Whatever follows, this attempt is over."""
        if self._upstream is not None:
            self._upstream.span.set_attribute(said.ERROR_TYPE, reason)
            self._upstream.span.set_status(StatusCode.ERROR, reason)
            self._upstream.span.end()
            self._upstream = None
            self._asked_ns = time.time_ns()

    def answered(self) -> None:
        """The backend has said all it had to say; a slow client may take longer."""
        if self._upstream is not None:
            self._upstream.ended_ns = time.time_ns()

    def ended(self, record: RequestRecord) -> None:
        """It is over."""
        server = self._server
        if not server.is_recording():
            return
        if record.outcome in said.DENIED:
            self._decide(said.admission_denied(record), record.queue_wait_s)
        if self._upstream is not None:
            self._end_upstream(self._upstream, record)
        server.set_attributes(said.server_end(record))
        if record.code >= said.SERVER_ERROR:
            server.set_status(StatusCode.ERROR, record.error)
        server.end()

    def _decide(self, attributes: said.Attributes, waited_s: float) -> None:
        if not self._server.is_recording():
            return
        now_ns = time.time_ns()
        start = self._tracer.start_span
        admission = start(said.ADMISSION, self._inside, attributes=attributes, start_time=self._asked_ns)
        if waited_s > 0:
            since_ns = max(self._asked_ns, now_ns - int(waited_s * NS))
            within = set_span_in_context(admission, Context())
            start(said.QUEUE, within, start_time=since_ns).end(now_ns)
        admission.end(now_ns)

    def _end_upstream(self, upstream: _Upstream, record: RequestRecord) -> None:
        first_token_s = None
        if record.ttft_s is not None:
            first_token_s = max(0.0, record.ttft_s - (upstream.began_ns - self._came_ns) / NS)
        upstream.span.set_attributes(said.upstream_end(record, first_token_s))
        if record.error:
            upstream.span.set_status(StatusCode.ERROR, record.error)
        upstream.span.end(upstream.ended_ns)


class _Upstream:
    """An attempt that goes on."""

    __slots__ = ("began_ns", "ended_ns", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.began_ns = time.time_ns()
        self.ended_ns: int | None = None


def _written(context: Context) -> TraceContext:
    """The headers that lead to a context's span."""
    headers: dict[str, str] = {}
    _W3C.inject(headers, context)
    return TraceContext(headers["traceparent"], headers.get("tracestate", ""))
