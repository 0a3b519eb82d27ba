"""A real Prometheus reads the page of a real gateway, and keeps the trace ids on latencies."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from gateway.simulation.server import start_engine
from tests.deploy.tools import said, tool
from tests.e2e.stand import SMALL, gateway
from tests.live_ops.prometheus import Prometheus, prometheus

pytestmark = [pytest.mark.ops, pytest.mark.timeout(120)]

TRACE = "0af7651916cd43dd8448eb211c80319c"
KEPT_MAX_S = 30.0


class Exemplar(msgspec.Struct):
    labels: dict[str, str]


class Found(msgspec.Struct):
    exemplars: list[Exemplar]


class Answer(msgspec.Struct):
    data: list[Found]


async def traces(server: Prometheus, histogram: str) -> set[str]:
    """Trace ids on the buckets of a histogram."""
    now = time.time()  # noqa: TID251  # Prometheus stamps what it scrapes with the wall clock
    form = {"query": f"{histogram}_bucket", "start": f"{now - 300:.0f}", "end": f"{now + 60:.0f}"}
    async with server.http.post(f"{server.url}/api/v1/query_exemplars", data=form) as response:
        answer = msgspec.json.decode(await response.read(), type=Answer)
    return {exemplar.labels["trace_id"] for found in answer.data for exemplar in found.exemplars}


async def test_promtool_finds_nothing_to_complain_of() -> None:
    """On the page of a gateway that has served and refused."""
    async with start_engine(SMALL) as engine, gateway(engine.url) as stand:
        assert (await stand.complete(max_tokens=5)).status == 200
        assert (await stand.complete(max_tokens=5000)).status == 400
        page = (await stand.admin("/metrics")).body.decode()
    assert said(tool("promtool"), "check", "metrics", text=page) == ""


async def test_a_latency_leads_to_its_trace(tmp_path: Path) -> None:
    """From the client's `traceparent` to Prometheus' exemplars."""
    async with start_engine(SMALL) as engine, gateway(engine.url) as stand:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        answer = await stand.complete(headers, max_tokens=5, stream=True)
        assert answer.status == 200
        async with (
            prometheus(tmp_path, {"kvgate": [stand.running.admin_url]}) as server,
            asyncio.timeout(KEPT_MAX_S),
        ):
            for histogram in ("kvgate_request_duration_seconds", "kvgate_time_to_first_token_seconds"):
                while not (found := await traces(server, histogram)):  # noqa: ASYNC110  # it has no event for that
                    await asyncio.sleep(0.2)
                assert found == {TRACE}
