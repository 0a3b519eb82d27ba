"""What more processes bring: `kvgate serve` with one worker beside several, on one machine, in one run.

    python -m benchmarks.workers                     one worker, and as many as there are CPUs
    python -m benchmarks.workers --workers 1,2,4,8

Short requests over 64 connections for each worker, and streams; each figure is taken of each in turn, in several
rounds, and medians count. The mock engine and the load generator (C) need CPU too: beside them is told how much of the
machine they took, for where that is much, there is less left to be shared than CPUs. CPU time is that of all processes
of a gateway by the clock of the operating system; the owner's is told apart, as it is what bounds how far this scales.
Linux.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import Child, gateway
from benchmarks.native_load import Engine, Outcome, build, mock_engine, put_load, write_request
from benchmarks.peer_bench import ANSWER_BYTES_MIN, PROMPT_BYTES
from benchmarks.peer_servers import cpu_us

CONNECTIONS = 64
"""For each worker of the largest."""
STREAMS, TOKENS = 400, 50
RAMP_PER_S = 2000
READY_MAX_S = 20.0
IDLE_CPU_US = 50_000
"""In half a second; imports take all of it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of one gateway."""

    per_s: float
    """Requests, or tokens of streams."""
    cpu_us: float
    """Of all its processes, for each of these."""
    owner_us: float
    """Of these, of the process that decides."""
    busy_cpus: float
    """CPUs that the gateway kept busy."""
    load_cpus: float
    """CPUs that engine and generator took."""
    p99_us: float
    errors: int


def main() -> None:
    """Measures and prints tables; the exit status says nothing of the numbers."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--workers", default=f"1,{max(2, len(os.sched_getaffinity(0)))}")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2.0, help="of each figure of short requests")
    given = arguments.parse_args()
    counts = [int(count) for count in given.workers.split(",")]
    build()
    for name, samples in measure(counts, given.rounds, given.seconds).items():
        print(_table(name, samples))


def measure(counts: Sequence[int], rounds: int, seconds: float) -> dict[str, dict[int, list[Sample]]]:
    """Each figure's samples, by the number of workers."""
    figures: dict[str, dict[int, list[Sample]]] = {"short requests": {}, "tokens of streams": {}}
    with tempfile.TemporaryDirectory() as folder_, ExitStack() as stack:
        folder = Path(folder_)
        engine = stack.enter_context(mock_engine(interval_ms=20))
        short = write_request(folder / "short", {}, PROMPT_BYTES, output_tokens=16, stream=False)
        stream = write_request(folder / "stream", {}, PROMPT_BYTES, output_tokens=TOKENS, stream=True)
        connections = CONNECTIONS * max(counts)
        loads: dict[str, Callable[[int], Outcome]] = {
            "short requests": lambda port: put_load(
                port, short, connections=connections, seconds=seconds, bytes=ANSWER_BYTES_MIN
            ),
            "tokens of streams": lambda port: put_load(
                port, stream, connections=STREAMS, requests=STREAMS, rate=RAMP_PER_S, tokens=TOKENS
            ),
        }
        running: list[tuple[str, int, Child]] = []
        for figure, load in loads.items():  # Each has gateways of its own: what one teaches is not the other's.
            for count in counts:
                arguments = (f"http://127.0.0.1:{engine.port}", "--workers", str(count))
                child = stack.enter_context(gateway(folder, *arguments, name=f"{figure}-{count}"))
                _wait_for_workers(child, count)
                load(_port(child))
                running.append((figure, count, child))
                _say(f"{count} workers serve {figure}")
        for number in range(rounds):
            for figure, count, child in running:
                figures[figure].setdefault(count, []).append(_sample(child, engine, loads[figure]))
            _say(f"round {number + 1} of {rounds}")
    return figures


def _sample(running: Child, engine: Engine, load: Callable[[int], Outcome]) -> Sample:
    owner, workers = running.process.pid, _workers(running)
    before = (cpu_us(owner), sum(map(cpu_us, workers)), cpu_us(engine.pid))
    outcome = load(_port(running))
    owner_us, workers_us, engine_us = (
        after - earlier
        for after, earlier in zip((cpu_us(owner), sum(map(cpu_us, workers)), cpu_us(engine.pid)), before, strict=True)
    )
    done = max(1, outcome.tokens or outcome.requests)
    wall_us = max(outcome.seconds, 1e-6) * 1e6
    return Sample(
        per_s=done / wall_us * 1e6,
        cpu_us=(owner_us + workers_us) / done,
        owner_us=owner_us / done if workers else 0.0,
        busy_cpus=(owner_us + workers_us) / wall_us,
        load_cpus=(engine_us + outcome.cpu_us) / wall_us,
        p99_us=outcome.p99_us,
        errors=outcome.errors,
    )


def _port(running: Child) -> int:
    return int(running.url.rpartition(":")[2])


def _workers(running: Child) -> list[int]:
    pid = running.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_for_workers(running: Child, count: int) -> None:
    """They say nothing themselves: one that has begun to serve takes no more CPU for a while."""
    if count == 1:
        return
    until, spent = time.monotonic() + READY_MAX_S, 0.0
    while True:
        before, spent = spent, sum(map(cpu_us, workers := _workers(running)))
        if len(workers) == count and spent and spent - before < IDLE_CPU_US:
            return
        if time.monotonic() > until:
            raise RuntimeError("its workers do not start")
        time.sleep(0.5)


def _table(name: str, samples: dict[int, list[Sample]]) -> str:
    def median(count: int, of: Callable[[Sample], float]) -> float:
        return statistics.median(map(of, samples[count]))

    base = min(samples)
    head = ("workers", "per s", f"x {base} worker", "CPU us", "owner's us", "CPUs", "load's CPUs", "p99 ms", "errors")
    rows = [
        (
            str(count),
            f"{median(count, lambda one: one.per_s):,.0f}",
            f"{median(count, lambda one: one.per_s) / median(base, lambda one: one.per_s):.2f}",
            f"{median(count, lambda one: one.cpu_us):.1f}",
            f"{median(count, lambda one: one.owner_us):.1f}",
            f"{median(count, lambda one: one.busy_cpus):.2f}",
            f"{median(count, lambda one: one.load_cpus):.2f}",
            f"{median(count, lambda one: one.p99_us) / 1000:.1f}",
            str(sum(one.errors for one in samples[count])),
        )
        for count in sorted(samples)
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join((f"\n{name}", *lines))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
