"""Faults of real engines behind a real gateway reach who is on call, and so does their end.

Everything is real but the engines' GPUs and the clock of the rules: windows are seconds instead of hours.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway.app import Running, run
from gateway.config import load_config
from gateway.simulation.exposition import MetricsFault
from gateway.simulation.server import EngineOptions, RunningEngine, start_engine
from tests.e2e.provider import Provider, hosting
from tests.e2e.stand import logs_into
from tests.live_ops.alertmanager import Alert, Webhook, alertmanager
from tests.live_ops.prometheus import prometheus

pytestmark = [pytest.mark.ops, pytest.mark.timeout(300)]

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = (DEPLOY / "prometheus" / "recording.yml", DEPLOY / "prometheus" / "alerts.yml")
TOLD_MAX_S = 80.0
"""A machine that is busy with other things may take so long; a free one takes a few seconds."""
QUICKER = {"KVGateTelemetryStale": ("> 30", "> 3"), "KVGateQueueWaitHigh": ("> 5", "> 0.2")}
"""Thresholds in seconds, which the other times go by."""
KEY = "sk-provider"
ENGINES = ("crowded", "dead", "mute", "shared", "deaf")
WHEN_FAULTY = {
    *("KVGateHeadroomLow", "KVGateHeadroomExhausted", "KVGateQueueWaitHigh", "KVGateErrorBudgetBurn"),
    "KVGateExhaustionPredicted",
    *("KVGateBackendDown", "KVGateNoHealthyBackend", "KVGateTelemetryStale"),
    *("KVGateExternalTraffic", "KVGatePreemptionsDespiteAdmission", "KVGateLedgerLeak", "KVGateConfigDrift"),
    "KVGateHostedQuotaLow",
}


def quickened(path: Path, folder: Path) -> Path:
    """The same rules with windows of ten seconds, of which two must show it."""
    tree = yaml.safe_load(path.read_text("utf-8"))
    for group in tree["groups"]:
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[\d+[smhd]\]", "[10s]", rule["expr"])
            if rule.get("alert") in QUICKER:
                rule["expr"] = rule["expr"].replace(*QUICKER[rule["alert"]])
            if "for" in rule:
                rule["for"] = "2s"
    folder.mkdir(exist_ok=True)
    copy = folder / path.name
    copy.write_text(yaml.safe_dump(tree))
    return copy


@asynccontextmanager
async def serving(*backends: Mapping[str, object], admin_port: int = 0, **more: object) -> AsyncIterator[str]:
    """Run a gateway while the block runs; the URL of its admin port."""
    async with running(*backends, admin_port=admin_port, **more) as gateway:
        yield gateway.admin_url


@asynccontextmanager
async def running(*backends: Mapping[str, object], admin_port: int = 0, **more: object) -> AsyncIterator[Running]:
    """A gateway while the block runs."""
    tree = {"listen": {"port": 0, "admin_port": admin_port}, "telemetry": {"interval_s": 0.1}, "backends": backends}
    async with run(load_config(overrides=tree | more, environ={"KEY": KEY}), logs_into(io.StringIO())) as gateway:
        yield gateway


@dataclass(frozen=True, slots=True)
class House:
    """A gateway in front of one engine for each kind of fault."""

    engines: Mapping[str, RunningEngine]
    gateway: Running
    http: aiohttp.ClientSession
    """Of the gateway's API."""
    later: AsyncExitStack
    """Engines that are started anew."""

    async def ask(self, model: str, prompt_tokens: int, max_tokens: int) -> int:
        """A request whose length is certain; its status."""
        return await completion(self.http, model, prompt_tokens, max_tokens)


async def completion(http: aiohttp.ClientSession, model: str, prompt_tokens: int, max_tokens: int) -> int:
    """Ask for exactly so many tokens; the status."""
    body = {"model": model, "prompt": [7] * prompt_tokens, "max_tokens": max_tokens, "ignore_eos": True}
    async with http.post("/v1/completions", json=body) as response:
        await response.read()
        return response.status


def options(model: str) -> EngineOptions:
    """A slow engine with little room; slower than any machine that runs this test, where it is to be overloaded."""
    return EngineOptions(model=model, kv_tokens=2048, speed=0.15 if model == "crowded" else 0.5, sequences_max=512)


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        engines = {name: await stack.enter_async_context(start_engine(options(name))) for name in ENGINES}
        backends: list[Mapping[str, object]] = [
            {"name": name, "url": engine.url, "kind": "vllm"} for name, engine in engines.items()
        ]
        provider = await stack.enter_async_context(hosting(Provider(KEY, model="hosted")))
        limits = {"requests_per_minute": 12}
        backends += [{"name": "hosted", "url": provider.url, "kind": "openai", "api_key": "env:KEY", "limits": limits}]
        queue = {"queue": {"requests_max": 20, "wait_max_s": 1.0}}
        gateway = await stack.enter_async_context(running(*backends, admission=queue))
        http = await stack.enter_async_context(
            aiohttp.ClientSession(gateway.api_url, connector=aiohttp.TCPConnector(limit=0))
        )
        async with asyncio.timeout(TOLD_MAX_S):
            for looked in gateway.first_looks.values():
                await looked.wait()
        yield House(engines, gateway, http, stack)


# Faults: each goes on until it is cancelled


async def again_and_again(ask: Callable[[], Awaitable[int]]) -> None:
    """A client who does not take no for an answer."""
    while True:
        if await ask() != 200:
            await asyncio.sleep(0.5)


async def overload(house: House) -> None:
    """64 small requests fit for a second and a half, 20 may wait, and 26 are turned away, again and again."""
    async with asyncio.TaskGroup() as group:
        for _ in range(110):
            group.create_task(again_and_again(lambda: house.ask("crowded", 16, 16)))


async def bypass(house: House) -> None:
    """Somebody talks to an engine directly, and asks for more than fits."""
    async with aiohttp.ClientSession(house.engines["shared"].url) as http, asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(again_and_again(lambda: completion(http, "shared", 64, 300)))


async def use_up(house: House) -> None:
    """A provider is asked for more than it allows per minute."""
    body = {"model": "hosted", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 20}

    async def ask() -> int:
        async with house.http.post("/v1/chat/completions", json=body) as response:
            await response.read()
            return response.status

    await again_and_again(ask)


async def abandon(house: House) -> None:
    """A client leaves, and its engine does not hear of it."""
    house.engines["deaf"].ignore_aborts()
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(house.ask("deaf", 64, 600), 1.0)
        await asyncio.sleep(15)


@asynccontextmanager
async def faults(house: House) -> AsyncIterator[None]:
    """All at once while the block runs; then the engines are as before."""
    dead = house.engines["dead"]
    port = int(dead.url.rpartition(":")[2])
    house.engines["mute"].break_metrics(MetricsFault.ERROR)
    await dead.die()
    async with asyncio.TaskGroup() as group:
        going_on = [group.create_task(fault(house)) for fault in (overload, bypass, use_up, abandon)]
        yield
        for task in going_on:
            task.cancel()
    house.engines["mute"].break_metrics()
    await house.later.enter_async_context(start_engine(options("dead"), port=port))


def assert_says_what_to_do(alert: Alert) -> None:
    """Words without holes, and a place in the runbook that exists."""
    for text in alert.annotations.values():
        assert "<no value>" not in text, text
        assert "<error" not in text, text
    assert alert.annotations["runbook"] == f"deploy/RUNBOOK.md#{alert.name.lower()}"
    assert f"## {alert.name}\n" in (DEPLOY / "RUNBOOK.md").read_text("utf-8")


async def told(webhook: Webhook, names: set[str]) -> None:
    """Wait until each of these has fired."""
    await webhook.until(lambda: names <= webhook.names("firing"), TOLD_MAX_S, lambda: names - webhook.names("firing"))


async def resolved(webhook: Webhook, names: set[str]) -> None:
    """Wait until none of these fires. Others may, on a machine that is busy: the event loop's lag."""
    await webhook.until(lambda: not webhook.unresolved() & names, TOLD_MAX_S, webhook.unresolved)


async def test_faults_are_told_and_so_is_their_end(tmp_path: Path) -> None:
    """Faults of engines, clients and configurations; then of all gateways at once."""
    rules = [quickened(path, tmp_path / "rules") for path in RULES]
    async with AsyncExitStack() as stack:
        alerts_url, webhook = await stack.enter_async_context(alertmanager(tmp_path))
        gateways = await stack.enter_async_context(AsyncExitStack())
        built = await gateways.enter_async_context(house())
        other = await gateways.enter_async_context(AsyncExitStack())
        urls = [built.gateway.admin_url, await other.enter_async_context(serving())]
        server = await stack.enter_async_context(prometheus(tmp_path, {"kvgate": urls}, rules, alerts_url))
        await server.until("count(kvgate_build_info) == 2")
        async with faults(built):
            await told(webhook, WHEN_FAULTY)
        await other.aclose()
        await resolved(webhook, WHEN_FAULTY)
        await gateways.aclose()
        await told(webhook, {"KVGateDown"})
        await stack.enter_async_context(serving(admin_port=int(urls[0].rpartition(":")[2])))
        await resolved(webhook, {"KVGateDown"})
    assert webhook.names("resolved") >= WHEN_FAULTY | {"KVGateDown"}
    for alert in webhook.told:
        assert_says_what_to_do(alert)
