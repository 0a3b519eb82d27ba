"""Spans as OpenTelemetry's own exporter in memory sees them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from estimator.demand import Shape
from gateway.admission.commands import Admit
from gateway.domain import Reason
from gateway.reporting.otel import NS, OtelTracing, provider_from_environment
from gateway.request import CHAT, UNTRACED, InferenceRequest, TraceContext
from tests.reporting.samples import record

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CLIENT = TraceContext(f"00-{TRACE}-{SPAN}-01", "vendor=1")
REQUEST = InferenceRequest(CHAT, "m", b"", {}, Shape(10, max_tokens=20))
URL = "http://10.0.0.1:8000"
ADMIT = Admit(1, "b", Reason.OK, kv_tokens=64)


class House:
    """Tracing into memory."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = OtelTracing(provider, "http")

    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that have ended, by name, in their order."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    """Trace, parent (empty: none) and the span itself."""
    context = span.get_span_context()
    assert context is not None
    parent = "" if span.parent is None else f"{span.parent.span_id:016x}"
    return f"{context.trace_id:032x}", parent, f"{context.span_id:016x}"


def said(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_served_request_is_three_spans() -> None:
    """All in the client's trace; the engine goes on from the client span, and the client's `tracestate` passes."""
    house = House()
    trace = house.tracing.begin(CHAT, CLIENT)
    trace.admitted("admitted", ADMIT)
    sent = trace.forwarded(REQUEST, "vllm", URL)
    trace.answered()
    trace.ended(record(decision="admitted", outcome="admitted", trace_id=TRACE, prompt_tokens=3, output_tokens=5))
    spans = house.spans()
    assert list(spans) == ["kvgate.admission", "chat m", f"POST {CHAT}"]
    admission, upstream, server = spans.values()
    assert ids(server)[:2] == (TRACE, SPAN)
    assert ids(admission)[:2] == ids(upstream)[:2] == (TRACE, ids(server)[2])
    assert sent == TraceContext(f"00-{TRACE}-{ids(upstream)[2]}-01", "vendor=1")
    assert (trace.context.trace_id, trace.context.is_sampled) == (TRACE, True)
    assert (server.kind, admission.kind, upstream.kind) == (SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT)
    assert said(admission)["kvgate.decision"] == "admitted"
    assert said(upstream)["gen_ai.usage.output_tokens"] == 5
    assert said(server)["http.response.status_code"] == 200
    assert {span.status.status_code for span in spans.values()} == {StatusCode.UNSET}


def test_without_a_client_that_traces_the_trace_is_our_own() -> None:
    house = House()
    trace = house.tracing.begin(CHAT, UNTRACED)
    trace.ended(record())
    (server,) = house.spans().values()
    assert server.parent is None
    assert trace.context.trace_id == ids(server)[0] != "0" * 32
    assert trace.context.state == ""


def test_a_wait_is_a_span_within_the_decision() -> None:
    """It ends with the decision and never begins before the request."""
    for waited_s in (1e-6, 100.0):
        house = House()
        trace = house.tracing.begin(CHAT, CLIENT)
        trace.admitted("admitted_after_wait", Admit(1, "b", Reason.OK_AFTER_WAIT, kv_tokens=64, waited_s=waited_s))
        spans = house.spans()
        queue, admission = spans["kvgate.queue"], spans["kvgate.admission"]
        assert ids(queue)[1] == ids(admission)[2]
        assert queue.end_time == admission.end_time
        assert queue.start_time is not None
        assert admission.start_time is not None
        assert admission.start_time <= queue.start_time


@pytest.mark.parametrize(
    ("outcome", "disconnect", "decision", "code"),
    [("rejected", None, "refused", 429), ("evicted", None, "refused", 429), ("evicted", "queued", "left", 499)],
)
def test_a_request_without_a_place(outcome: str, disconnect: str | None, decision: str, code: int) -> None:
    """Its numbers stand in the span of the decision; that it was refused is no error of the gateway."""
    house = House()
    trace = house.tracing.begin(CHAT, CLIENT)
    trace.ended(record(backend="", outcome=outcome, disconnect=disconnect, code=code, need_tokens=512))
    spans = house.spans()
    assert list(spans) == ["kvgate.admission", f"POST {CHAT}"]
    assert said(spans["kvgate.admission"])["kvgate.decision"] == decision
    assert said(spans["kvgate.admission"])["kvgate.need_tokens"] == 512
    assert spans[f"POST {CHAT}"].status.status_code is StatusCode.UNSET


def test_a_failure_and_the_second_try() -> None:
    """Each attempt has its span and its decision; only the failed one is an error."""
    house = House()
    trace = house.tracing.begin(CHAT, CLIENT)
    trace.admitted("admitted", ADMIT)
    trace.forwarded(REQUEST, "vllm", URL)
    trace.upstream_failed("connect")
    trace.upstream_failed("connect")
    trace.admitted("admitted", ADMIT)
    trace.forwarded(REQUEST, "sglang", URL)
    trace.ended(record(decision="admitted", outcome="admitted"))
    first, failed, second, served, server = house.exporter.get_finished_spans()
    assert [span.name for span in (first, second)] == ["kvgate.admission"] * 2
    assert second.start_time is not None
    assert failed.end_time is not None
    assert second.start_time >= failed.end_time
    assert (said(failed)["error.type"], failed.status.status_code) == ("connect", StatusCode.ERROR)
    assert said(served)["gen_ai.provider.name"] == "sglang"
    assert served.status.status_code is server.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("code", "is_ours"), [(502, True), (400, False)])
def test_an_error_answer(code: int, is_ours: bool) -> None:
    """For the span of the backend any error is one; for the server's only what is not the client's own doing."""
    house = House()
    trace = house.tracing.begin(CHAT, CLIENT)
    trace.admitted("admitted", ADMIT)
    trace.forwarded(REQUEST, "vllm", URL)
    trace.ended(record(outcome="admitted", code=code, error="upstream_error"))
    spans = house.spans()
    assert spans["chat m"].status.status_code is StatusCode.ERROR
    assert spans[f"POST {CHAT}"].status.status_code is (StatusCode.ERROR if is_ours else StatusCode.UNSET)
    assert said(spans[f"POST {CHAT}"])["error.type"] == "upstream_error"


def test_one_that_was_turned_away_began_before() -> None:
    """Its span is made when all is over, and is as long as it took."""
    house = House()
    house.tracing.begin(CHAT, CLIENT, 2.0).ended(record(code=400, backend="", error="invalid_json"))
    (server,) = house.spans().values()
    assert server.end_time is not None
    assert server.start_time is not None
    assert server.end_time - server.start_time >= 2 * NS


@pytest.mark.parametrize("sampler", [TraceIdRatioBased(0.0), ParentBased(ALWAYS_ON)], ids=["ratio", "the client's"])
def test_what_the_sampler_left_out_is_passed_on_as_such(sampler: Sampler) -> None:
    """The engine learns that nobody keeps this trace, and nothing is exported, or pointed at."""
    house = House(sampler)
    trace = house.tracing.begin(CHAT, TraceContext(f"00-{TRACE}-{SPAN}-00"))
    trace.admitted("admitted", ADMIT)
    sent = trace.forwarded(REQUEST, "vllm", URL)
    trace.upstream_failed("reset")
    trace.answered()
    trace.ended(record(outcome="admitted"))
    assert house.spans() == {}
    assert (sent.trace_id, sent.is_sampled, trace.context.is_sampled) == (TRACE, False, False)


class Stuck(SpanExporter):
    """A collector that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.go.wait(20)
        return SpanExportResult.SUCCESS


async def test_a_shutdown_does_not_wait_for_a_dead_collector() -> None:
    """It gives up after its limit, and says so."""
    stuck = Stuck()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(stuck))
    tracing = OtelTracing(provider, "http", flush_max_s=0.05)
    tracing.begin(CHAT, CLIENT).ended(record())
    with capture_logs() as lines:
        await tracing.aclose()
    stuck.go.set()
    assert [line["event"] for line in lines] == ["traces_lost"]


@pytest.mark.parametrize(
    ("name", "value", "service"),
    [
        ("OTEL_TRACES_EXPORTER", "otlp", "kvgate"),
        ("OTEL_SERVICE_NAME", "gate-7", "gate-7"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=gate-8", "gate-8"),
    ],
)
def test_the_service_has_a_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str, service: str) -> None:
    """The operator's, or ours."""
    monkeypatch.setenv(name, value)
    provider = provider_from_environment({"OTEL_TRACES_EXPORTER": "otlp"})
    assert provider.resource.attributes["service.name"] == service
    provider.shutdown()
