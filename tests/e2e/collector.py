"""A collector of traces: takes OTLP over HTTP, as the real ones do, and keeps what it was sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATH = "/v1/traces"


@dataclass(slots=True)
class Collector:
    """What came."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    async def take(self, request: web.Request) -> web.Response:
        """One export."""
        export = ExportTraceServiceRequest.FromString(await request.read())
        for resource in export.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans += scope.spans
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")

    def named(self, name: str) -> list[Span]:
        """Spans of a name, in the order in which they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time_unix_nano)


def attributes(span: Span) -> dict[str, str | int | float | bool]:
    """Those of one value each."""
    found: dict[str, str | int | float | bool] = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        if kind not in (None, "array_value"):
            found[attribute.key] = getattr(attribute.value, kind)
    return found


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """One on loopback while the block lasts."""
    collector = Collector()
    app = web.Application()
    app.router.add_post(PATH, collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        collector.url = f"http://{host}:{port}"
        yield collector
    finally:
        await runner.cleanup()
