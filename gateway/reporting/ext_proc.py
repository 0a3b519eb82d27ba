"""What is told of the endpoint picker: the streams that Envoy opens to it."""

from __future__ import annotations

from gateway.reporting.families import EXT_PROC
from gateway.reporting.registry import Families


class ExtProcMetrics:
    """Exported once it is made: a gateway that serves HTTP has no such series."""

    def __init__(self, families: Families) -> None:
        families.add(EXT_PROC)
        self._in_flight = families.gauge("ext_proc_streams_in_flight")
        self._ended = {
            code: families.counter("ext_proc_streams_total", code) for code in ("OK", "CANCELLED", "UNAVAILABLE")
        }
        self._families = families

    def on_stream_started(self) -> None:
        """Envoy opened a stream."""
        self._in_flight.inc()

    def on_stream_ended(self, code: str) -> None:
        """A stream ended with this gRPC code, one of `families.GRPC_CODES`."""
        self._in_flight.dec()
        (self._ended.get(code) or self._families.counter("ext_proc_streams_total", code)).inc()
