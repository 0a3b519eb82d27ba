"""KVGate under ten times the load that its engine can serve: what is still served, and what a refusal costs.

Run it as `python -m benchmarks.overload`; `--quick` for a look. Everything runs as it would for users: `kvgate serve`
with its defaults, a simulated engine behind vLLM's routes, clients that come at random (Poisson) and do not wait for
each other. Goodput counts answers within `PATIENCE_S`. Figures that are counts (CPU of the gateway's process,
kilobytes) hold on a busy machine; times seen by clients contain the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from openai import AsyncOpenAI, OpenAIError

from benchmarks import children
from benchmarks.children import START_MAX_S, Child
from benchmarks.idle_streams import idle_stream_kb
from benchmarks.peer_launch import MODEL as PEER_MODEL, Launch
from benchmarks.peer_servers import PEERS, running
from benchmarks.timed_requests import Asked, Pool, completion_request

OUTPUT_TOKENS = 16
SEQUENCES = 16
ENGINE = ("--kv-tokens", "65536", "--max-num-seqs", str(SEQUENCES), "--speed", "1")
PATIENCE_S = 10.0
REFUSALS = 2000
FACTORS = (1.0, 10.0)
FEW_SEQUENCES = 4
ANSWER_S = 0.2
"""Of an answer of `OUTPUT_TOKENS`, alone on the engine or with few."""
OVERLOAD_FACTOR = 2.0
"""For the clients that have to get through."""


@dataclass(slots=True)
class Phase:
    """What came of one load."""

    offered_per_s: float
    duration_s: float
    good: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    refusals_s: list[float] = field(default_factory=list)
    """What clients saw of refusals that did not wait."""
    rss_peak_kb: int = 0

    @property
    def goodput_per_s(self) -> float:
        """Answers in time per second."""
        return self.good / self.duration_s


def figures(*, quick: bool = False) -> dict[str, float]:
    """All figures by name."""
    duration_s = 8.0 if quick else 30.0
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        engine = stack.enter_context(children.engine(folder, *ENGINE))
        gateway = stack.enter_context(children.gateway(folder, engine.url))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            capacity = runner.run(_capacity_per_s(gateway, 3.0 if quick else 8.0))
            found["capacity per second"] = capacity
            phases = [runner.run(_load(gateway, capacity * factor, duration_s, PATIENCE_S)) for factor in FACTORS]
            for factor, phase in zip(FACTORS, phases, strict=True):
                found[f"goodput per second at {factor:.0f}x"] = phase.goodput_per_s
            found["goodput ratio"] = phases[1].good / max(1, phases[0].good)
            found["refused at 10x"] = float(len(phases[1].refusals_s))
            found |= _quantiles("refusal seen by clients at 10x, ms", phases[1].refusals_s, 1e3)
            found["RSS growth from 1x to 10x, MB"] = (phases[1].rss_peak_kb - phases[0].rss_peak_kb) / 1024
            found |= _decisions(gateway)
        found |= _refusal_cost(folder, REFUSALS // (4 if quick else 1))
        found["KB per idle stream"] = idle_stream_kb(folder, 200 if quick else 1000)
    return found | clients_through(quick=quick)


async def _capacity_per_s(gateway: Child, duration_s: float) -> float:
    """Answers per second where clients come again as soon as they are served, as many as the engine runs at once."""
    loop = asyncio.get_running_loop()
    request = completion_request(gateway.url, output_tokens=OUTPUT_TOKENS)
    served = 0
    async with Pool(gateway.url) as pool:
        began = loop.time()

        async def again() -> None:
            nonlocal served
            while loop.time() < began + duration_s:
                asked = await pool.ask(request, PATIENCE_S)
                served += asked.status == 200

        async with asyncio.TaskGroup() as group:
            for _ in range(2 * SEQUENCES):
                group.create_task(again())
        return served / (loop.time() - began)


async def _load(gateway: Child, offered_per_s: float, duration_s: float, patience_s: float) -> Phase:
    """Clients that come at random and leave for good when refused."""
    loop = asyncio.get_running_loop()
    phase = Phase(offered_per_s, duration_s)
    request = completion_request(gateway.url, output_tokens=OUTPUT_TOKENS)
    source = random.Random(7)
    began = loop.time()

    def note(asked: Asked) -> None:
        phase.statuses[asked.status] += 1
        # What ends within the time counts for it, so neither the beginning nor the end of the load is left out.
        phase.good += asked.status == 200 and loop.time() <= began + duration_s
        if asked.status == 429 and not asked.waited:
            phase.refusals_s.append(asked.duration_s)

    async def one() -> None:
        note(await pool.ask(request, patience_s))

    async with Pool(gateway.url) as pool, asyncio.TaskGroup() as group:
        due = began
        while (due := due + source.expovariate(offered_per_s)) < began + duration_s:
            await asyncio.sleep(max(0.0, due - loop.time()))
            group.create_task(one())
    phase.rss_peak_kb = gateway.rss_peak_kb()
    return phase


def _decisions(gateway: Child) -> dict[str, float]:
    """Upper ends of the buckets of the gateway's own histogram in which these quantiles lie, microseconds."""
    buckets = gateway.metric("kvgate_admission_decision_duration_seconds_bucket")
    counts = [(float(labels.split('le="')[1].split('"')[0]), count) for labels, count in buckets.items()]
    total = counts[-1][1]
    found = {}
    for name, share in (("p99", 0.99), ("p99.9", 0.999)):
        found[f"decision {name} below, us"] = next(end for end, count in counts if count >= share * total) * 1e6
    return found


def _refusal_cost(folder: Path, refusals: int) -> dict[str, float]:
    """What a refusal costs the gateway's process, and how long one takes for a client that asks alone."""
    full = ("--kv-tokens", "1024", "--max-num-seqs", "1", "--speed", "0.001")
    no_queue = {"KVGATE_ADMISSION__QUEUE__REQUESTS_MAX": "0"}
    with (
        children.engine(folder, *full, name="full") as engine,
        children.gateway(folder, engine.url, name="refusing", environ=no_queue) as gateway,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_refused_alone(gateway, refusals))


async def _refused_alone(gateway: Child, refusals: int) -> dict[str, float]:
    request = completion_request(gateway.url, output_tokens=OUTPUT_TOKENS, prompt_tokens=600)
    filling = completion_request(gateway.url, output_tokens=16, prompt_tokens=900, token=8)
    async with Pool(gateway.url) as pool, asyncio.TaskGroup() as group:
        holder = group.create_task(pool.ask(filling, 3600.0))
        async with asyncio.timeout(START_MAX_S):
            while not (await asyncio.to_thread(gateway.state))["backends"][0]["requests"]:
                pass
        before_us = gateway.cpu_us()
        asked = [await pool.ask(request, PATIENCE_S) for _ in range(refusals)]
        cpu_us = (gateway.cpu_us() - before_us) / refusals
        holder.cancel()
    assert all(each.status == 429 for each in asked), Counter(each.status for each in asked)
    found = {"CPU per refusal, us": cpu_us}
    return found | _quantiles("refusal round trip alone, ms", [each.duration_s for each in asked], 1e3)


def _quantiles(name: str, values: Sequence[float], scale: float) -> dict[str, float]:
    if len(values) < 100:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {f"{name} p50": cuts[49] * scale, f"{name} p99": cuts[98] * scale}


# ------------------------------------------------------------------------------------------ real clients


def clients_through(*, quick: bool = False) -> dict[str, float]:
    """Shares of clients that get their answer through an overload: by KVGate, and by a router that refuses.

    The router is told to let in as many as the engine runs at once and to refuse the others, as it can keep no queue
    that knows the engine; it says 429, and not when to come back.
    """
    duration_s = 8.0 if quick else 30.0
    offered_per_s = OVERLOAD_FACTOR * FEW_SEQUENCES / ANSWER_S
    few = ("--kv-tokens", "16384", "--max-num-seqs", str(FEW_SEQUENCES), "--model", PEER_MODEL)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        with (
            children.engine(Path(name), *few, name="few") as engine,
            children.gateway(Path(name), engine.url, name="patient") as gateway,
        ):
            found["clients through, KVGate"] = asyncio.run(_through(gateway.url, {}, offered_per_s, duration_s))
        router = PEERS["sglang-router"]
        if router.is_installed:
            limited = Launch(("--max-concurrent-requests", str(FEW_SEQUENCES), "--queue-size", "0"))
            with (
                children.engine(Path(name), *few, name="few") as engine,
                running(router, [int(engine.url.rpartition(":")[2])], more=limited) as server,
            ):
                url = f"http://127.0.0.1:{server.site.port}"
                share = asyncio.run(_through(url, server.headers, offered_per_s, duration_s))
                found["clients through, sglang-router"] = share
    return found


async def _through(url: str, headers: Mapping[str, str], offered_per_s: float, duration_s: float) -> float:
    """Share of clients that are served: the official one, with its default of two retries."""
    source = random.Random(11)
    loop = asyncio.get_running_loop()
    ends: Counter[str] = Counter()
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120.0, default_headers=dict(headers))
    async with client, asyncio.TaskGroup() as group:

        async def one() -> None:
            try:
                await client.completions.create(
                    model=PEER_MODEL, prompt="x", max_tokens=OUTPUT_TOKENS, extra_body={"ignore_eos": True}
                )
                ends["served"] += 1
            except OpenAIError as error:
                ends[type(error).__name__] += 1

        due = began = loop.time()
        while (due := due + source.expovariate(offered_per_s)) < began + duration_s:
            await asyncio.sleep(max(0.0, due - loop.time()))
            group.create_task(one())
    return ends["served"] / max(1, sum(ends.values()))


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="short phases, to see that it works")
    arguments.add_argument("--json", action="store_true", help="one JSON object")
    given = arguments.parse_args()
    found = figures(quick=given.quick)
    children.print_figures(found, as_json=given.json)


if __name__ == "__main__":
    main()
