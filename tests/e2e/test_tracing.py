"""One trace joins client, gateway and engine, whatever becomes of the request; seen by a collector that speaks OTLP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import aiohttp
import pytest

from gateway.simulation.server import RunningEngine, start_engine
from tests.e2e.collector import Collector, attributes, collecting
from tests.e2e.stand import SLOW, eventually, gateway
from tests.faults import Answer, FaultyEngine, Step, event, refusing_url, response, stream

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
SERVER = "POST /v1/completions"
UPSTREAM = "text_completion m"
ADMISSION = "kvgate.admission"
CANARY = "the-canary-sings-at-dawn"
LISTING = response(b'{"data":[{"id":"m"}]}')
USAGE = b'"usage":{"prompt_tokens":2,"completion_tokens":5,"total_tokens":7}'
ANSWER = response(b'{"choices":[{"index":0,"text":"%b","finish_reason":"length"}],%b}' % (CANARY.encode(), USAGE))
HOG: dict[str, object] = {"model": "m", "prompt": [7] * 100, "max_tokens": 900, "ignore_eos": True, "stream": True}
ERROR = 2
"""`STATUS_CODE_ERROR`"""


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """What it holds is complete once the gateway's block was left."""
    async with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SLOW) as running:
        yield running


def backend(engine: FaultyEngine) -> dict[str, object]:
    """An entry of the configuration."""
    return {"name": "b0", "url": engine.url, "kind": "openai"}


async def through(*played: Answer, stream: bool = False) -> tuple[int, FaultyEngine, dict[str, object]]:
    """The status of one traced request to an engine that plays this, what reached the engine, and the log's line."""
    async with FaultyEngine((LISTING,), *played) as engine:
        async with gateway(backend(engine), telemetry={"interval_s": 60}) as stand:
            body = {"model": "m", "prompt": CANARY, "max_tokens": 5, "stream": stream}
            async with stand.http.post("/v1/completions", json=body, headers=HEADERS) as got:
                with suppress(aiohttp.ClientPayloadError):
                    await got.read()
            (line,) = await stand.settled_log(1)
        return got.status, engine, line


def joined(collector: Collector, engine: FaultyEngine) -> None:
    """Client, gateway and engine are links of one chain."""
    (server,), (upstream,) = collector.named(SERVER), collector.named(UPSTREAM)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert server.parent_span_id.hex() == SPAN
    assert upstream.parent_span_id == server.span_id
    received = engine.requests[-1].headers
    assert received[b"traceparent"].decode() == f"00-{TRACE}-{upstream.span_id.hex()}-01"
    assert received[b"tracestate"] == b"vendor=1"


async def test_a_served_request(collector: Collector) -> None:
    """What it used and what was decided stand in its spans; what it said is in none."""
    status, engine, line = await through((ANSWER,))
    assert status == 200
    joined(collector, engine)
    assert line["trace_id"] == TRACE
    (upstream,), (admission,) = collector.named(UPSTREAM), collector.named(ADMISSION)
    told = attributes(upstream)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (2, 5)
    assert (told["gen_ai.request.model"], told["server.address"]) == ("m", "127.0.0.1")
    assert f":{told['server.port']}" in engine.url
    (reasons,) = [a.value.array_value for a in upstream.attributes if a.key == "gen_ai.response.finish_reasons"]
    assert [value.string_value for value in reasons.values] == ["length"]
    assert attributes(admission)["kvgate.decision"] == "admitted"
    assert collector.services == {"kvgate"}
    assert CANARY not in str(collector.spans)


@pytest.mark.parametrize(
    ("played", "streamed", "status"),
    [((Step.RESET,), False, 502), ((response(status=500),), False, 502), ((stream(event("a")),), True, 200)],
    ids=["reset", "error answer", "broken stream"],
)
async def test_an_engine_that_fails(collector: Collector, played: Answer, streamed: bool, status: int) -> None:
    """The chain holds; the attempt and the request are errors."""
    told, engine, _ = await through(played, stream=streamed)
    assert told == status
    joined(collector, engine)
    (server,), (upstream,) = collector.named(SERVER), collector.named(UPSTREAM)
    assert (server.status.code, upstream.status.code) == (ERROR, ERROR)
    assert attributes(server)["http.response.status_code"] == 502
    assert attributes(upstream)["error.type"] in ("reset", "http_5xx")


async def test_an_engine_that_cannot_be_reached(collector: Collector) -> None:
    """Nothing was sent, and the span of the attempt tells why."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FaultyEngine((LISTING,)))
        async with gateway(backend(engine), telemetry={"interval_s": 60}) as stand:
            await stack.aclose()
            assert (await stand.complete(HEADERS)).status == 502
    (upstream,) = collector.named(UPSTREAM)
    assert attributes(upstream)["error.type"] == "connect"


async def test_a_client_that_leaves(collector: Collector) -> None:
    """That is no error of anybody's; the spans end all the same."""
    async with FaultyEngine((LISTING,), (Step.STALL,)) as engine:
        async with gateway(backend(engine), telemetry={"interval_s": 60}) as stand:
            async with asyncio.TaskGroup() as group:
                request = group.create_task(stand.complete(HEADERS))
                await eventually(lambda: any(got.line.startswith(b"POST") for got in engine.requests))
                request.cancel()
            await stand.settled_log(1)
        joined(collector, engine)
    (server,), (upstream,) = collector.named(SERVER), collector.named(UPSTREAM)
    assert (server.status.code, upstream.status.code) == (0, 0)
    assert attributes(server)["kvgate.disconnect"] == "prefill"


async def test_one_that_waits_one_that_leaves_and_one_that_is_refused(
    collector: Collector, engine: RunningEngine
) -> None:
    """Each has the span of its decision, with the numbers; who waited has the wait in it."""
    async with gateway(engine.url, admission={"queue": {"requests_max": 1}}) as stand:
        async with stand.http.post("/v1/completions", json=dict(HOG)) as hog:
            await hog.content.readany()
            async with asyncio.TaskGroup() as group:
                leaver = group.create_task(stand.complete(HEADERS, prompt=[7] * 920, max_tokens=20))
                await stand.until(lambda state: state.waiting == 1)
                refused = await stand.complete(HEADERS, prompt=[7] * 920, max_tokens=20)
                leaver.cancel()
            await stand.until(lambda state: state.waiting == 0)
            waiter = asyncio.ensure_future(stand.complete(HEADERS, prompt=[7] * 920, max_tokens=2))  # noqa: TID251
            await stand.until(lambda state: state.waiting == 1)
        answers = (refused, await waiter)
        lines = await stand.settled_log(4)
    assert [answer.status for answer in answers] == [429, 200]
    spans = {str(attributes(span)["kvgate.decision"]): span for span in collector.named(ADMISSION)}
    assert spans.keys() == {"admitted", "refused", "left", "admitted_after_wait"}
    assert {span.parent_span_id for span in collector.named("kvgate.queue")} >= {
        spans["left"].span_id,
        spans["admitted_after_wait"].span_id,
    }
    told = attributes(spans["refused"])
    (line,) = [line for line in lines if line["code"] == 429]
    assert told["kvgate.reason"] == line["reason"] == "queue_full"
    assert (told["kvgate.need_tokens"], told["kvgate.headroom_tokens"]) == (
        line["need_tokens"],
        line["headroom_before"],
    )
    (left,) = [line for line in lines if line.get("disconnect") == "queued"]
    assert left["queue_wait_s"] == left["duration_s"]
    ours = {span.trace_id.hex() for span in collector.named(SERVER)}
    assert len(ours) == 2
    assert TRACE in ours


async def test_bad_input_is_in_the_clients_trace_too(collector: Collector, engine: RunningEngine) -> None:
    """It never came as far as a decision."""
    async with gateway(engine.url) as stand:
        assert (await stand.post("/v1/completions", b"{", HEADERS)).status == 400
        (line,) = await stand.settled_log(1)
    (server,) = collector.spans
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, SPAN)
    assert attributes(server)["error.type"] == line["error"]
    assert line["trace_id"] == TRACE


async def test_exemplars_point_at_traces_that_are_kept(collector: Collector, engine: RunningEngine) -> None:
    """Not at one that its client said is kept nowhere."""
    lost = "1" * 32
    async with gateway(engine.url) as stand:
        await stand.complete(HEADERS, max_tokens=2, stream=True)
        await stand.complete({"traceparent": f"00-{lost}-{SPAN}-00"}, max_tokens=40, stream=True)
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with stand.http.get(stand.running.admin_url + "/metrics", headers=accept) as page:
            text = await page.text()
    assert TRACE in text
    assert lost not in text
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


async def test_a_dead_collector_costs_spans_alone(
    monkeypatch: pytest.MonkeyPatch, engine: RunningEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are served as ever, and the end of the gateway has its limit."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", refusing_url())
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with caplog.at_level(logging.ERROR, "opentelemetry"):
        async with gateway(engine.url) as stand:
            for _ in range(5):
                assert (await stand.complete(HEADERS, max_tokens=2)).status == 200


async def test_off_the_clients_own_trace_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both headers, as they came."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    _, engine, line = await through((ANSWER,))
    headers = engine.requests[-1].headers
    assert headers[b"traceparent"].decode() == HEADERS["traceparent"]
    assert headers[b"tracestate"] == b"vendor=1"
    assert line["trace_id"] == TRACE
