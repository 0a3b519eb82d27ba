"""What a gateway costs beside others: CPU per request and per chunk, latency, memory; all on one machine, in one run.

    python -m benchmarks.peers --quick       KVGate, bare aiohttp, nginx, HAProxy, Envoy and the Rust routers: 3 minutes
    python -m benchmarks.peers               three rounds, Portkey and LiteLLM too: 10 to 15 minutes

Others are installed if they are not there, and left out where that cannot be done (`benchmarks.peer_servers`).

Mock engine and load generator (C) share one CPU, each gateway has the other to itself, one worker each. Every figure
is taken of each in turn, in several rounds, so that a machine that is slower for a while is so for all; medians count.
What counts most is the CPU time of a gateway's processes by the clock of the operating system, kernel included, and
their instructions where the machine can count them. Linux, two CPUs. KVGate runs on the Python that runs this, which
makes a difference: pyenv's, compiled without a profile, takes more than that of a distribution.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic, sleep

from benchmarks import peer_report
from benchmarks.native_load import HOUR_MS, LoadFailedError, build, held_streams, mock_engine
from benchmarks.peer_bench import (
    FULL,
    FULL_POOL_BLOCKS,
    INTERVAL_MS,
    QUICK,
    RAMP_PER_S,
    SLOW_PART,
    TTFT_RATE_MAX,
    TTFT_TOKENS,
    Bench,
    Plan,
    Target,
    cpus,
    target_of,
)
from benchmarks.peer_report import Figures, Results, Sample
from benchmarks.peer_servers import PEERS, Peer, install_missing, running


def main() -> None:
    """Measures and prints tables; the exit status says nothing of the numbers."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", help=f"some of {','.join(PEERS)}; default: all")
    arguments.add_argument("--rounds", type=int, help="default: 3")
    arguments.add_argument("--quick", action="store_true", help="one short round, without the slow ones")
    arguments.add_argument("--json", type=Path, help="file for all that was seen")
    given = arguments.parse_args()
    plan = QUICK if given.quick else FULL
    every = [name for name, peer in PEERS.items() if plan.with_slow or not peer.is_slow]
    peers = [PEERS[name] for name in (given.only.split(",") if given.only else every)]
    installed = install_missing(peers)
    _say(f"not installed: {', '.join(peer.name for peer in peers if peer not in installed) or 'none'}")
    build()
    began = monotonic()
    results = measure(installed, plan, given.rounds or plan.rounds)
    print(f"Python {sys.version}\n")
    print(peer_report.text(results, plan.streams, {peer.name for peer in peers if peer.is_router}))
    _say(f"{monotonic() - began:.0f} s")
    if given.json:
        given.json.write_text(json.dumps({name: asdict(figures) for name, figures in results.items()}, indent=1))


def measure(peers: Sequence[Peer], plan: Plan, rounds: int) -> Results:
    """All figures of all peers, and of the engine without any of them."""
    ours = cpus()
    results: Results = {"direct": Figures()}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engine = stack.enter_context(mock_engine(cpu=ours.load, interval_ms=INTERVAL_MS))
        bench = Bench(plan, ours, engine)
        for peer in peers:
            with _failing(peer.name, "memory"):
                results[peer.name] = Figures()
                _measure_memory(bench, peer, results[peer.name], Path(folder))
            with _failing(peer.name, "refusals"):
                results[peer.name].refusal = _measure_refusals(bench, peer, Path(folder))
        targets = [target_of(plan, "direct", engine.port, lambda: [engine.pid], {}, Path(folder))]
        for peer in peers:
            with _failing(peer.name, "start"):
                server = stack.enter_context(running(peer, [engine.port], cpu=ours.gateway))
                targets.append(target_of(plan, peer.name, server.site.port, server.pids, server.headers, Path(folder)))
        _measure_rounds(bench, targets, results, rounds)
        for target in targets[1:]:
            with _failing(target.name, "first token"):
                _measure_first_token(bench, targets[0], target, results[target.name])
    return results


def _measure_rounds(bench: Bench, targets: Sequence[Target], results: Results, rounds: int) -> None:
    """Requests first, streams when all of those are done.

    The mock engine answers a request at once, and takes its time for a stream. Whoever learns from streams how fast an
    engine is would then hold requests back, that is measure its queue.
    """
    figures = bench.figures()
    streams = [name for name in figures if name.startswith("streams")]
    for names in ([name for name in figures if name not in streams], streams):
        for target in targets:
            for name in names[-2:]:
                with _failing(target.name, f"warm-up, {name}"):
                    figures[name](target)
            target.start_counter()
        for number in range(rounds):
            for name in names:
                _say(f"round {number + 1} of {rounds}: {name}")
                # Whoever comes first in one round comes last in the next.
                for target in targets if number % 2 == 0 else reversed(targets):
                    with _failing(target.name, name):
                        sample = figures[name](target)
                        results[target.name].samples.setdefault(name, []).append(sample)
                        if sample.outcome.errors:
                            _say(f"{target.name}, {name}: {sample.outcome.errors} errors: {sample.outcome.first_error}")


def _measure_first_token(bench: Bench, direct: Target, target: Target, figures: Figures) -> None:
    """At half of what its CPU can do, by what requests and chunks cost it."""
    request_us, chunk_us = (figures.value(name, lambda sample: sample.cpu_us) for name in ("short_64", "streams_some"))
    if request_us is None or chunk_us is None:
        return
    # What a chunk costs includes its part of a request.
    stream_us = request_us * (1 - TTFT_TOKENS / bench.plan.tokens) + TTFT_TOKENS * chunk_us
    rate = min(TTFT_RATE_MAX, 0.5e6 / stream_us)
    figures.first_token_direct = bench.first_token(direct, rate)
    figures.first_token = bench.first_token(target, rate)
    figures.first_token_rate_per_s = rate


def _measure_memory(bench: Bench, peer: Peer, figures: Figures, folder: Path) -> None:
    """Of a fresh one: what it has after its first request, and what streams add that stand still."""
    streams = bench.plan.held_streams // (SLOW_PART if peer.is_slow else 1)
    with running(peer, [bench.engine.port], cpu=bench.cpus.gateway) as server:
        target = target_of(bench.plan, peer.name, server.site.port, server.pids, server.headers, folder)
        sleep(bench.plan.settle_s)
        figures.idle_bytes = server.memory_bytes()
        # A few that are begun slowly, as to an engine that a gateway does not know yet it may not send many at once.
        bench.sample(target, "ttft", connections=20, requests=20, rate=RAMP_PER_S / 10, tokens=TTFT_TOKENS)
        before = server.memory_bytes()
        bench.engine.set_interval_ms(HOUR_MS)
        try:
            with held_streams(target.port, target.requests["holding"], streams, cpu=bench.cpus.load):
                sleep(bench.plan.settle_s)
                figures.stream_bytes = (server.memory_bytes() - before) / streams
        finally:
            bench.engine.set_interval_ms(INTERVAL_MS)


def _measure_refusals(bench: Bench, peer: Peer, folder: Path) -> Sample | None:
    """A burst at one that is full: a stream that stands still has taken the room."""
    if peer.refusing is None:
        return None
    with (
        mock_engine(cpu=bench.cpus.load, blocks=FULL_POOL_BLOCKS) as engine,
        running(peer, [engine.port], cpu=bench.cpus.gateway, more=peer.refusing) as server,
    ):
        target = target_of(bench.plan, peer.name, server.site.port, server.pids, server.headers, folder)
        engine.set_interval_ms(HOUR_MS)
        with held_streams(target.port, target.requests["holding"], 1, cpu=bench.cpus.load):
            target.start_counter()
            return bench.sample(target, "refused", connections=64, seconds=bench.plan.short_s, status=429)


@contextmanager
def _failing(name: str, what: str) -> Iterator[None]:
    """One that cannot do something has no figure there; the others go on."""
    try:
        yield
    except (LoadFailedError, RuntimeError, OSError) as error:
        _say(f"{name}, {what}: {error}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
