"""KVGate for a long time under steady load with clients that leave: whether memory, descriptors or tasks creep upwards.

Run it as `python -m benchmarks.soak --minutes 20 --load 0.6 --cancels 0.2`. Slopes are least squares over samples once
the first part, in which caches fill, is left out. Tasks are those that asyncio knows (`benchmarks.counted_tasks`).
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks import children
from benchmarks.children import Child
from benchmarks.timed_requests import Pool, completion_request

CAPACITY_PER_S = 60.0
"""Of the simulated engine, in requests as they are sent here: 64 sequences of 64 tokens on average."""
ENGINE = ("--kv-tokens", "65536", "--max-num-seqs", "64", "--speed", "1")
OUTPUT_TOKENS = (8, 120)
PROMPT_TOKENS = (16, 512)
LEAVES_AFTER_S = (0.01, 1.0)
PATIENCE_S = 60.0
SAMPLE_S = 2.0
WARM_SHARE = 0.25
STREAMED_SHARE = 0.5
COUNTED = ("-m", "benchmarks.counted_tasks")
SETTLE_S = 8.0
"""Until a process is idle again: connections to the engine are kept for a while."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway's process at one moment."""

    at_s: float
    rss_kb: int
    fds: int
    tasks: int


def figures(*, minutes: float = 5.0, load: float = 0.6, cancels: float = 0.2, quick: bool = False) -> dict[str, float]:
    """Slopes per hour, by name."""
    duration_s = 20.0 if quick else minutes * 60
    with (
        tempfile.TemporaryDirectory() as name,
        children.engine(Path(name), *ENGINE) as engine,
        children.child(Path(name), "kvgate", [f"{name}/tasks", engine.url], python=COUNTED) as gateway,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        samples, ends = runner.run(_soak(gateway, Path(name) / "tasks", duration_s, load * CAPACITY_PER_S, cancels))
    kept = samples[int(WARM_SHARE * len(samples)) :]
    hours = [sample.at_s / 3600 for sample in kept]
    return {
        "minutes": duration_s / 60,
        "requests": float(sum(ends.values())),
        "clients that left": float(ends[0]),
        "answers but 200, 429": float(sum(count for status, count in ends.items() if status not in (0, 200, 429))),
        "RSS at the end, MB": kept[-1].rss_kb / 1024,
        "RSS slope, MB per hour": slope(hours, [sample.rss_kb / 1024 for sample in kept]),
        "descriptors slope, per hour": slope(hours, [sample.fds for sample in kept]),
        "tasks slope, per hour": slope(hours, [sample.tasks for sample in kept]),
        "descriptors when idle, more than before": samples[-1].fds - samples[0].fds,
        "tasks when idle, more than before": samples[-1].tasks - samples[0].tasks,
    }


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the straight line with the least squares through these points."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


async def _soak(
    gateway: Child, tasks: Path, duration_s: float, offered_per_s: float, cancels: float
) -> tuple[list[Sample], Counter[int]]:
    """Samples, of which the first and the last are of an idle process, and how requests ended."""
    loop = asyncio.get_running_loop()
    ends: Counter[int] = Counter()
    samples: list[Sample] = []
    source = random.Random(5)
    await asyncio.sleep(SETTLE_S)
    began = loop.time()

    async def watch() -> None:
        while True:
            samples.append(await asyncio.to_thread(_sample, gateway, tasks, loop.time() - began))
            await asyncio.sleep(SAMPLE_S)

    async def one(pool: Pool) -> None:
        request = completion_request(
            gateway.url,
            output_tokens=source.randint(*OUTPUT_TOKENS),
            prompt_tokens=source.randint(*PROMPT_TOKENS),
            stream=source.random() < STREAMED_SHARE,
            token=source.randrange(32_000),
        )
        leaves_after_s = source.uniform(*LEAVES_AFTER_S) if source.random() < cancels else PATIENCE_S
        ends[(await pool.ask(request, leaves_after_s)).status] += 1

    async with asyncio.TaskGroup() as watching:
        watcher = watching.create_task(watch())
        async with Pool(gateway.url) as pool, asyncio.TaskGroup() as group:
            due = began
            while (due := due + source.expovariate(offered_per_s)) < began + duration_s:
                await asyncio.sleep(max(0.0, due - loop.time()))
                group.create_task(one(pool))
        watcher.cancel()
    await asyncio.sleep(SETTLE_S)
    samples.append(_sample(gateway, tasks, loop.time() - began))
    return samples, ends


def _sample(gateway: Child, tasks: Path, at_s: float) -> Sample:
    return Sample(at_s, gateway.rss_kb(), gateway.fds(), int(tasks.read_text() or "0"))


def main() -> None:
    """Runs and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=20.0)
    arguments.add_argument("--load", type=float, default=0.6, help="of what the engine can serve")
    arguments.add_argument("--cancels", type=float, default=0.2, help="share of clients that leave early")
    arguments.add_argument("--json", action="store_true", help="one JSON object")
    given = arguments.parse_args()
    found = figures(minutes=given.minutes, load=given.load, cancels=given.cancels)
    children.print_figures(found, as_json=given.json)


if __name__ == "__main__":
    main()
