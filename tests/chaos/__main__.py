"""`python -m tests.chaos`: a gateway process before engines with faults, and clients that leave, over real sockets.

Prints what came of each fault, what is left of tasks, files and memory, and everything that was wrong; exit status 1
if anything was. `--seed` draws the same requests again; which of them meet is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.chaos.process import Look, started
from tests.chaos.world import Result, chaos

IDLE_S = 6.0
"""After so long without requests the gateway has closed the connections that it kept."""
RSS_GROWTH_MAX_MB = 24.0
"""From the end of a tenth of the run to the end: lists of what is learned fill, and allocators keep what they had."""


async def play(count: int, seed: int) -> bool:
    """Run and report; whether all was well."""
    async with chaos(seed, count) as world:
        with tempfile.TemporaryDirectory() as name, started(Path(name), world.backends()) as gateway:
            urls = await asyncio.to_thread(gateway.urls)
            began = time.monotonic()
            before = await asyncio.to_thread(gateway.look)
            running = asyncio.get_running_loop().create_task(world.run(*urls))
            early = before
            while not running.done():
                if early is before and world.result.asked > count // 10:
                    early = await asyncio.to_thread(gateway.look)
                await asyncio.wait((running,), timeout=0.5)
            result = running.result()
            seconds = time.monotonic() - began
            await asyncio.sleep(IDLE_S)
            looks = (before, early, await asyncio.to_thread(gateway.look))
            return report(result, seconds, looks, gateway.trouble())


def report(result: Result, seconds: float, looks: tuple[Look, Look, Look], trouble: list[str]) -> bool:
    """Print; whether all was well."""
    before, early, after = looks
    by_fault: dict[str, list[str]] = {}
    for (fault, word), times in sorted(result.words.items()):
        by_fault.setdefault(fault, []).append(f"{word} {times}")
    for fault, words in by_fault.items():
        say(f"  {fault:24} {', '.join(words)}")
    say(f"{result.asked} requests in {seconds:.0f} s; {result.deaths} deaths, {result.garbage_looks} garbage looks")
    say("refused by admission:", ", ".join(f"{code} {times}" for code, times in result.refused.items()) or "nobody")
    say(f"before: {before}; a tenth on: {early}; after: {after}")
    wrong = [*result.wrong, *trouble]
    wrong += [f"the ledger keeps {result.kept}"] * bool(result.kept)
    wrong += [f"{result.orphans} requests are still at engines"] * bool(result.orphans)
    wrong += ["tasks have leaked"] * (after.tasks > before.tasks)
    wrong += ["files have leaked"] * (after.files > before.files)
    wrong += ["memory has leaked"] * (after.rss_mb > early.rss_mb + RSS_GROWTH_MAX_MB)
    for line in wrong[:50]:
        say("WRONG", line)
    say(f"{len(wrong)} wrong")
    return not wrong


def say(*words: object) -> None:
    """A line to read."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--n", type=int, default=10_000, help="how many requests")
    parser.add_argument("--seed", type=int, default=1, help="draws them")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(0 if runner.run(play(given.n, given.seed)) else 1)
