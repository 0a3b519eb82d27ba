"""What KVGate costs: CPU of its process per request and per streamed chunk, beside a bare aiohttp pass-through.

Run it as `python -m benchmarks.overhead`. Both stand in front of the same mock engine (vLLM's routes; nothing ever
waits) and get the same load from this process, in turns, so that a machine that is slower for a while is so for both.
KVGate runs as `kvgate serve` does, with every default: telemetry, metrics and a log line per request. What is measured
is CPU time by the operating system's clock of the process, all threads, kernel included; not latency. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from benchmarks.children import end
from benchmarks.raw_load import LoadError, ShortClient, StreamClient, chat_request, connected, each, first

ROOT = Path(__file__).parents[1]
START_MAX_S = 20.0
STOP_MAX_S = 5.0
SETTLE_S = 0.3
ROUNDS_MAX_S = 60.0
"""No round begins after this: on a busy machine there are fewer."""
CONFIG = """\
listen: {{host: 127.0.0.1, port: 0, admin_host: 127.0.0.1, admin_port: 0}}
backends:
  - {{name: mock, url: "{engine}"}}
"""
COLUMNS = (
    "request, 1 KB in, 1 KB out, 1 connection",
    "request, 1 KB in, 1 KB out, {connections} connections",
    "chunk of 200 B, {streams} streams at once",
    "stream of {events} chunks, from request to end",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    short_s: float
    connections: int
    streams: int
    events: int
    idle_s: float


FULL = Plan(rounds=5, short_s=1.2, connections=64, streams=200, events=100, idle_s=1.5)
QUICK = Plan(rounds=1, short_s=0.4, connections=64, streams=50, events=30, idle_s=1.0)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the engine."""

    name: str
    url: str
    pid: int

    def cpu_us(self) -> float:
        """CPU microseconds of its process so far."""
        # Linux: a negative clock id names the CPU clock of a process, to the nanosecond; /proc counts in 10 ms.
        return time.clock_gettime((~self.pid << 3) | 2) * 1e6


def main() -> None:
    """Measures and prints a table; the exit status says nothing of the numbers."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    arguments.add_argument("--hold", action="store_true", help="load KVGate with streams until stopped, to profile it")
    given = arguments.parse_args()
    plan = QUICK if given.quick else FULL
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        engine, ways = _start_all(stack, Path(name))
        print(f"Engine {engine}; " + "; ".join(f"{way.name} {way.url}, process {way.pid}" for way in ways), flush=True)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if given.hold:
                _hold(runner, ways[-1], plan)
            else:
                _print_table(plan, ways, _measure(runner, ways, plan))


def _hold(runner: asyncio.Runner, way: Way, plan: Plan) -> None:
    while True:
        print(
            runner.run(_measure_streams(way, plan)), runner.run(_measure_short(way, plan.connections, 5.0)), flush=True
        )


def _measure(runner: asyncio.Runner, ways: Sequence[Way], plan: Plan) -> dict[str, list[tuple[float, ...]]]:
    """For each way a row of figures per round; the round that warms up is left out."""
    rows: dict[str, list[tuple[float, ...]]] = {way.name: [] for way in ways}
    for way in ways:
        runner.run(_round(way, QUICK))
    until = time.monotonic() + ROUNDS_MAX_S
    for number in range(plan.rounds):
        if time.monotonic() > until:
            break
        # Whoever comes second in one round comes first in the next.
        for way in ways if number % 2 == 0 else reversed(ways):
            rows[way.name].append(runner.run(_round(way, plan)))
    return rows


async def _round(way: Way, plan: Plan) -> tuple[float, ...]:
    return (
        await _measure_short(way, 1, plan.short_s),
        await _measure_short(way, plan.connections, plan.short_s),
        *await _measure_streams(way, plan),
        await _measure_idle(way, plan.idle_s),
    )


async def _measure_short(way: Way, connections: int, seconds: float) -> float:
    """CPU microseconds per request."""
    request = chat_request(way.url, stream=False, max_tokens=16)
    until = asyncio.get_running_loop().time() + seconds
    async with connected(way.url, lambda: ShortClient(request, until), connections) as clients:
        before = way.cpu_us()
        for client in clients:
            client.start()
        await each([client.done for client in clients])
        return (way.cpu_us() - before) / sum(client.answers for client in clients)


async def _measure_streams(way: Way, plan: Plan) -> tuple[float, float]:
    """CPU microseconds per chunk while all streams run, and per stream with its beginning and end."""
    request = chat_request(way.url, stream=True, max_tokens=plan.events)
    async with connected(way.url, lambda: StreamClient(request), plan.streams) as clients:
        start_us = way.cpu_us()
        for client in clients:
            client.start()
        await each([client.began for client in clients])
        before_us, before = way.cpu_us(), sum(client.events for client in clients)
        await first([client.done for client in clients])
        after_us, after = way.cpu_us(), sum(client.events for client in clients)
        await each([client.done for client in clients])
        assert all(client.events > plan.events for client in clients), "events were lost"  # [DONE] counts too
        if after == before:
            raise LoadError("the streams did not run together: this machine is too busy to measure anything")
        return (after_us - before_us) / (after - before), (way.cpu_us() - start_us) / plan.streams


async def _measure_idle(way: Way, seconds: float) -> float:
    """CPU microseconds per second without a request, once those of before are forgotten."""
    await asyncio.sleep(SETTLE_S)
    before = way.cpu_us()
    await asyncio.sleep(seconds)
    return (way.cpu_us() - before) / seconds


def _print_table(plan: Plan, ways: Sequence[Way], rows: dict[str, list[tuple[float, ...]]]) -> None:
    theirs, ours = (list(zip(*rows[way.name], strict=True)) for way in ways)
    print(f"\n| CPU microseconds per ... | {' | '.join(way.name for way in ways)} | ratio (lowest to highest) |")
    print("|---|---|---|---|")
    for title, bare, kvgate in zip(COLUMNS, theirs, ours, strict=False):
        named = title.format(connections=plan.connections, streams=plan.streams, events=plan.events)
        ratios = [own / least for own, least in zip(kvgate, bare, strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {named} | {median(bare):,.1f} | {median(kvgate):,.1f} | {spread} |")
    idle = f"Without requests: {median(theirs[-1]) / 1e3:.1f} and {median(ours[-1]) / 1e3:.1f} ms of CPU per second."
    python = ".".join(map(str, sys.version_info[:3]))
    machine = f"Python {python}, uvloop, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    print(f"\nMedians of {len(theirs[0])} rounds. {idle} {machine}.")


def _start_all(stack: ExitStack, folder: Path) -> tuple[str, list[Way]]:
    engine = stack.enter_context(_running("mock_engine", ["-m", "benchmarks.mock_engine"], folder))
    (folder / "kvgate.yaml").write_text(CONFIG.format(engine=engine.url))
    bare = ["-m", "benchmarks.passthrough", engine.url]
    kvgate = ["-m", "gateway", "serve", "-c", str(folder / "kvgate.yaml"), "--json"]
    ways = [("pass-through", bare), ("KVGate", kvgate)]
    return engine.url, [stack.enter_context(_running(name, command, folder)) for name, command in ways]


@contextmanager
def _running(name: str, command: Sequence[str], folder: Path) -> Iterator[Way]:
    """A child process that prints a JSON object with its URL under "api" once it serves.

    Raises:
        RuntimeError: it does not.
    """
    out, errors = folder / f"{name}.out", folder / f"{name}.log"
    with out.open("wb") as to, errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=to, stderr=log
        )
    try:
        until = time.monotonic() + START_MAX_S
        while (url := _url_in(out)) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{name} does not serve: {errors.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Way(name, url, process.pid)
    finally:
        end(process, STOP_MAX_S)


def _url_in(out: Path) -> str | None:
    try:
        url = json.loads(out.read_text())["api"]
    except ValueError:
        return None
    assert isinstance(url, str)
    return url


if __name__ == "__main__":
    main()
