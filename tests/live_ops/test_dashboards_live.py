"""Every query of every dashboard, asked of a real Prometheus that scrapes a real gateway under load."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.simulation.server import EngineOptions, start_engine
from tests.e2e.stand import Stand, gateway
from tests.grafana.dashboards import NAMES, Asked, filled_in, load, queries
from tests.live_ops.prometheus import Prometheus, prometheus

pytestmark = [
    pytest.mark.ops,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package `prometheus`"),
]

RULES = Path(__file__).parent.parent.parent / "deploy" / "prometheus" / "recording.yml"
LOAD_S = 12.0
SHOWN_S = 12.0
AT_ONCE = 48
VALUES = {
    "__rate_interval": "10s",
    "__range": "30s",
    "job": ".+",
    "model_name": ".*",
    "backend": "(b0|b1)",
    "tenant": ".*",
}
"""What Grafana puts in for the variables, with "All" chosen."""

EMPTY = {
    ("overview", "Which alerts fire?"): "no alert is loaded",
    ("overview", "How much of that is the engine's?", "B"): "the simulated engine has no histogram of first tokens",
    ("overview", "Do replicas share one ledger?"): "one gateway shares with nobody",
    ("overview", "Does the ledger's store answer?"): "the same",
    ("overview", "How long does the store take?"): "the same",
    ("overview", "How many leases run out?"): "the same",
    ("overview", "How many requests does Envoy wait for?"): "no endpoint picker here",
    ("overview", "How do Envoy's streams end?"): "the same",
    ("overview", "When do certificates run out?"): "no TLS here",
    ("capacity", "Is it fuller than a week ago?", "B"): "the test has no last week",
    ("capacity", "How much of the hosted quota is left?"): "no hosted backend here",
    ("capacity", "How much does the prefix cache save?", "B"): "the simulated engine never looks into its cache",
    ("capacity", "Does our formula agree with the engine?"): "the simulated engine has no model behind it",
    ("backend", "How does it fail?"): "engines do not fail here; zeros are not drawn",
    ("backend", "How much GPU memory is used?"): "no GPU here",
    ("backend", "Who else holds GPU memory?"): "no GPU here",
    ("backend", "Is the GPU busy?"): "no GPU here",
}
"""Queries that may stay without data, by dashboard, panel and, where it is only one of several, letter."""


async def load_for(stand: Stand, seconds: float) -> None:
    """Keep more requests under way than fit: some wait, some are refused, some leave."""
    chance = random.Random(5)
    end = asyncio.get_running_loop().time() + seconds

    async def client(number: int) -> None:
        while asyncio.get_running_loop().time() < end:
            body = {
                "prompt": [number] * chance.randint(1, 100),
                "max_tokens": chance.randint(1, 200),
                "stream": chance.random() < 0.7,
            }
            headers = {"authorization": f"Bearer key-{number % 2}"}
            answer = await stand.complete(headers, **body)
            assert answer.status in {200, 429, 503}, answer
            if answer.status != 200:
                await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(client(number))


@pytest.fixture
async def seen(tmp_path: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that has watched the load until now."""
    options = EngineOptions(model="m", kv_tokens=1024, speed=2.0, output_tokens_mean=40)
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(start_engine(options)) for _ in range(2)]
        urls = [engine.url for engine in engines]
        environ = {f"KEY_{number}": f"key-{number}" for number in range(2)}
        stand = await stack.enter_async_context(
            gateway(
                *urls,
                environ=environ,
                admission={"queue": {"requests_max": 8, "wait_max_s": 1.0}},
                tenants=[{"name": f"team-{number}", "keys": [f"env:KEY_{number}"]} for number in range(2)],
                metrics={"tenants": True},
            )
        )
        targets = {"kvgate": [stand.running.admin_url], "vllm": urls}
        server = await stack.enter_async_context(prometheus(tmp_path, targets, [RULES]))
        await server.until("kvgate_build_info and on (job) up")
        await load_for(stand, LOAD_S)
        yield server


def may_be_empty(asked: Asked) -> bool:
    """Whether it is on the list."""
    whole = (asked.dashboard, asked.panel.title)
    return whole in EMPTY or (*whole, asked.target.ref_id) in EMPTY


async def test_every_query_has_data(seen: Prometheus) -> None:
    """None is refused by Prometheus, and each has a number to show, but for those of which it is known why not."""
    end = time.time()  # noqa: TID251  # Prometheus stamps what it scrapes with the wall clock
    empty: set[str] = set()
    for asked in queries():
        expr = filled_in(asked.target.expr, VALUES)
        found = await (seen.now(expr) if asked.target.instant else seen.over(expr, end - SHOWN_S, end))
        if not any(series.numbers for series in found) and not may_be_empty(asked):
            empty.add(f"{asked}: {expr}")
    assert not empty, "\n".join(sorted(empty))
    for name in NAMES:
        for annotation in load(name).annotations.entries:
            await seen.over(filled_in(annotation.expr, VALUES), end - SHOWN_S, end)


def test_the_list_of_empty_queries_names_what_exists() -> None:
    """A panel that is gone or renamed leaves the list too."""
    known = {(asked.dashboard, asked.panel.title) for asked in queries()}
    lettered = {(*pair, asked.target.ref_id) for asked in queries() for pair in [(asked.dashboard, asked.panel.title)]}
    assert set(EMPTY) <= set(itertools.chain(known, lettered))
