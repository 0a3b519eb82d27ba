"""`python -m tests.lifecycle`: the gateway's life under seeded faults, in virtual time.

`--seeds 1000` runs so many plans, each of its own seed; `--seed 7` runs one and shows what happened; `--mutants` plants
bugs and expects each of them to be noticed. Exit status 1 on the first thing that is wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from time import perf_counter

import structlog

from tests.lifecycle.hunt import hunt_all
from tests.lifecycle.plan import drawn
from tests.lifecycle.shrink import shrunk
from tests.lifecycle.world import Result, play

TRACE_SHOWN = 40
LINE_MAX = 240


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.lifecycle", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone, with its last events")
    parser.add_argument("--mutants", action="store_true", help="plant bugs instead")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if arguments.mutants:
        return 0 if hunt_all(say) else 1
    if arguments.seed is not None:
        result = play(drawn(arguments.seed))
        _explain(result)
        return 1 if result.problem else 0
    return _run(range(arguments.first, arguments.first + arguments.seeds))


def _run(seeds: range) -> int:
    events, started = 0, perf_counter()
    answers: Counter[int] = Counter()
    struck: Counter[str] = Counter()
    for seed in seeds:
        result = play(drawn(seed))
        events += result.events
        answers += result.answers
        struck += result.struck
        if result.problem:
            smaller = play(shrunk(result.plan, lambda plan: bool(play(plan).problem)))
            say(f"seed {seed} FAILS: {result.problem}\nmade smaller:")
            _explain(smaller if smaller.problem else result)
            say(f"again: python -m tests.lifecycle --seed {seed}")
            return 1
    seconds = perf_counter() - started
    say(f"{len(seeds)} seeds, {events} events, {events / seconds:.0f} events/s, {seconds:.0f} s")
    say("answers:", ", ".join(f"{int(code)}: {count}" for code, count in sorted(answers.items())))
    say("faults:", ", ".join(f"{fate}: {count}" for fate, count in sorted(struck.items())))
    say("0 leaked, 0 negative, 0 released twice, 0 lost or double answers")
    return 0


def _explain(result: Result) -> None:
    for script in result.plan.scripts:
        say("  ", script)
    for happening in result.plan.happenings:
        say("  ", happening)
    for line in result.trace[-TRACE_SHOWN:]:
        say(line[:LINE_MAX])
    say(result.problem or "nothing is wrong", f"({result.events} events)")


def say(*words: object) -> None:
    """A line to read."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # The order of sets of names must be the same each time.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.lifecycle", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
