from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin import routes
from gateway.admin.routes import Admin, state
from gateway.admission.admission import Admission
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import Snapshot
from gateway.backends.calibration import Calibration
from gateway.domain import Outcome
from gateway.gate import Gate
from gateway.reporting.metrics import Metrics
from tests.shell import add_backend, settle, ticket


@dataclass
class House:
    """An admin port over a real gate with one backend."""

    gate: Gate
    metrics: Metrics
    client: TestClient = field(init=False)  # type: ignore[type-arg]
    snapshots: int = 0
    drains: list[bool] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        self.snapshots += 1
        return self.gate.snapshot()


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    metrics = Metrics(["m"], version="1", config_sha256="c", exceed_ratio_target=0.01)
    gate = Gate(Admission(AdmissionLimits()), asyncio.get_running_loop(), [metrics])
    add_backend(gate, "a")
    built = House(gate, metrics)
    admin = Admin(
        metrics=metrics,
        snapshot=built.snapshot,
        kinds=lambda: {"a": "vllm"},
        kv_layouts=lambda: {"a": Calibration("catalogue", "m", None, 1000, 800, "they differ")},
        is_draining=lambda: bool(built.drains),
        start_drain=lambda: built.drains.append(True),
    )
    async with TestClient(TestServer(admin.app())) as built.client:
        yield built


async def test_health_and_readiness_differ_while_draining() -> None:
    """A drain is started by a POST, and only by that."""
    async with house() as built:
        assert (await built.client.get("/ready")).status == 200
        assert (await built.client.get("/-/drain")).status == 405
        assert built.drains == []
        foreign = await built.client.post("/-/drain", headers={"Sec-Fetch-Site": "cross-site"})
        assert (foreign.status, built.drains) == (403, [])
        answer = await built.client.post("/-/drain")
        assert (answer.status, await answer.json()) == (202, {"status": "draining"})
        assert built.drains == [True]
        ready = await built.client.get("/ready")
        assert (ready.status, await ready.json()) == (503, {"status": "draining"})
        health = await built.client.get("/health")
        assert (health.status, await health.json()) == (200, {"status": "ok"})


async def test_the_state_is_the_snapshot_in_plain_words() -> None:
    """Backends with their kinds, queues with the names of their classes."""
    async with house() as built, built.gate.enter(ticket(built.gate, blocks=60)) as place:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(built.gate.admit(ticket(built.gate, blocks=60)))
            await settle()
            answer = await (await built.client.get("/api/v1/state")).json()
            waiting.cancel()
        (backend,) = answer["backends"]
        assert (backend["name"], backend["kind"], backend["state"], backend["telemetry"]) == (
            "a",
            "vllm",
            "ready",
            "fresh",
        )
        assert (backend["requests"], backend["reserved_tokens"], backend["capacity_tokens"]) == (1, 960, 1024)
        assert backend["kv_layout"] == {
            "described": "from catalogue m",
            "engine_tokens": 1000,
            "formula_tokens": 800,
            "ratio": 1.25,
            "warning": "they differ",
        }
        (queue,) = answer["queues"]
        assert (queue["model"], queue["priority"], queue["depth"]) == ("m", "interactive", 1)
        assert (answer["draining"], answer["double_releases"]) == (False, 0)
        place.end(Outcome.FINISHED)


async def test_a_backend_of_no_known_kind_is_auto() -> None:
    """Until its engine has been found out."""
    async with house() as built:
        shown = state(built.gate.snapshot(), {}, {})
        (backend,) = cast("list[dict[str, object]]", shown["backends"])
        assert (backend["kind"], backend["kv_layout"]) == ("auto", None)


async def test_metrics_are_a_page_that_scrapers_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made in a thread, from the state of this moment."""
    threads: list[threading.Thread] = []
    async with house() as built:
        render = built.metrics.render

        def noted(accept: str = "") -> tuple[bytes, str]:
            threads.append(threading.current_thread())
            return render(accept)

        monkeypatch.setattr(built.metrics, "render", noted)
        answer = await built.client.get("/metrics")
        assert answer.content_type == "text/plain"
        samples = {
            (sample.name, sample.labels.get("backend")): sample.value
            for family in text_string_to_metric_families(await answer.text())
            for sample in family.samples
        }
        assert samples["kvgate_backend_kv_capacity_tokens", "a"] == 1024
        assert samples["kvgate_build_info", None] == 1
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_metrics_page_is_made_once_per_second_and_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapers in a hurry get the same page again; one that wants another format gets its own."""
    async with house() as built:
        monkeypatch.setattr(routes, "RENDER_EVERY_S", 1_000.0)
        first = await (await built.client.get("/metrics")).read()
        assert await (await built.client.get("/metrics")).read() == first
        assert built.snapshots == 1
        open_metrics = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await built.client.get("/metrics", headers=open_metrics)
        assert answer.content_type == "application/openmetrics-text"
        assert built.snapshots == 2
        monkeypatch.setattr(routes, "RENDER_EVERY_S", 0.0)
        await built.client.get("/metrics", headers=open_metrics)
        assert built.snapshots == 3


async def test_nothing_else_is_served() -> None:
    """Not on this port, and not by another method."""
    async with house() as built:
        assert (await built.client.get("/v1/models")).status == 404
        assert (await built.client.post("/metrics")).status == 405
        assert isinstance(built.client.session, ClientSession)
