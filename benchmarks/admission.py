"""The proof of KVGate's admission: how near it comes to an oracle, beside simpler policies, in simulated engines.

    python -m benchmarks.admission FOLDER [--loads 0.5,0.8,1,1.2,1.5,2] [--requests N] [--cells NAME,...]
        [--policies NAME,...] [--warm] [--all-variants] [--details] [--robustness] [--jobs 2] [--json FILE]
        [--plot FILE.svg]

FOLDER holds the traces as CSV; see `CELLS` for their names. Each cell is a trace before an engine, its arrivals
stretched so that the mean rate is the wanted part of what the engine can do at most. In each, at each load, KVGate and
the other policies serve the same requests in virtual time, and so do the clairvoyant variants of which the oracle is
the best. KVGate starts with nothing learned unless `--warm`: then it starts with what the requests before have taught.
A request counts as good if its first token and its time per token were in time; refused and late ones do not.

With `--robustness`, disturbances are measured instead of loads: see `admission_robustness`.
Targets stand at the end, each with PASS or MISS; the exit status is 1 if any was missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence as Many
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

if not __package__:  # run as a file: what it imports stands beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.admission_cells import (
    BEST_LIMIT,
    CELLS,
    MAIN_VARIANTS,
    POLICIES,
    Cell,
    Plan,
    measure_cell,
    trace_of,
)
from benchmarks.admission_oracle import VARIANTS
from benchmarks.admission_plot import admission_svg
from benchmarks.admission_report import details, oracles, summary, verdicts
from benchmarks.admission_robustness import GROUPS, ROBUST_CELLS, measure_group, robustness_table
from gateway.simulation.policies import policy_named
from gateway.simulation.workload import TraceError

LOADS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0)
LOAD_MAX = 100.0
Found = TypeVar("Found")


def main(arguments: Many[str] | None = None) -> int:
    """Run what is asked for, and print it."""
    parser = _parser()
    given = parser.parse_args(arguments)
    variants = VARIANTS if given.all_variants else MAIN_VARIANTS
    plan = Plan(given.folder, given.requests, given.policies, variants, is_warm=given.warm)
    try:
        for cell in given.cells:
            trace_of(plan.folder, cell)
    except (OSError, TraceError) as error:
        parser.error(str(error))
    if given.robustness:
        return _robustness(plan, given.jobs, given.json)
    return _proof(plan, given)


def _proof(plan: Plan, given: argparse.Namespace) -> int:
    jobs = [(plan, cell, load) for cell in given.cells for load in given.loads]
    rows = _in_parallel(measure_cell, jobs, given.jobs)
    rows.sort(key=lambda row: (row.cell, row.load))
    print("\n".join(summary(rows)))
    print()
    print("\n".join(details(rows, plan.policies if given.details else ["kvgate"])))
    print(f"\n{oracles(rows)}\n")
    found = verdicts(rows)
    for verdict in found:
        print(f"{'PASS' if verdict.is_met else 'MISS'}  {verdict.sentence}")
    if given.json:
        content = {"rows": [asdict(row) for row in rows], "targets": [asdict(verdict) for verdict in found]}
        given.json.write_text(json.dumps(_jsonable(content), indent=1) + "\n", encoding="utf-8")
    if given.plot:
        given.plot.write_text(admission_svg(rows), encoding="utf-8")
    return int(not all(verdict.is_met for verdict in found))


def _robustness(plan: Plan, jobs: int, path: Path | None) -> int:
    groups = [(plan, cell, group) for cell in ROBUST_CELLS for group in GROUPS]
    found = _in_parallel(measure_group, groups, jobs)
    trials = [trial for group in found for trial in group]
    print("\n".join(robustness_table(trials)))
    if path:
        path.write_text(json.dumps(_jsonable([asdict(trial) for trial in trials]), indent=1) + "\n", encoding="utf-8")
    return 0


def _in_parallel(measure: Callable[..., Found], jobs: Many[tuple[object, ...]], processes: int) -> list[Found]:
    """The results, in no certain order, with a line of progress on a terminal. One process means this one."""
    if processes == 1:
        return [measure(*job) for job in jobs]
    found: list[Found] = []
    start = time.monotonic()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(measure, *job) for job in jobs]
        for done in as_completed(waiting):
            found.append(done.result())
            if sys.stderr.isatty():
                print(f"\r{len(found)} of {len(jobs)} done, {time.monotonic() - start:.0f} s ", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return found


def _jsonable(value: object) -> object:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {name: _jsonable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_jsonable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure KVGate's admission against an oracle and simpler policies.")
    parser.add_argument("folder", type=Path, help="traces as CSV")
    parser.add_argument("--loads", type=_loads, default=LOADS, help="parts of what an engine can do at most")
    parser.add_argument("--requests", type=_positive, help="of each cell (default: each its own number)")
    parser.add_argument("--cells", type=_cells, default=CELLS, help=", ".join(cell.name for cell in CELLS))
    parser.add_argument("--policies", type=_policies, default=POLICIES, help=", ".join(POLICIES))
    parser.add_argument("--warm", action="store_true", help="start with what the requests before have taught")
    parser.add_argument("--all-variants", action="store_true", help="of the oracle, also those that seldom win")
    parser.add_argument("--details", action="store_true", help="every policy in every cell")
    parser.add_argument("--robustness", action="store_true", help="disturbances instead of loads")
    parser.add_argument("--jobs", type=_positive, default=2, help="processes")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", type=Path, help="draw them here, as SVG")
    return parser


def _loads(text: str) -> tuple[float, ...]:
    loads = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    if not all(0 < load <= LOAD_MAX for load in loads):
        raise argparse.ArgumentTypeError(f"loads are above 0 and at most {LOAD_MAX:g}")
    return loads


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _cells(text: str) -> tuple[Cell, ...]:
    by_name = {cell.name: cell for cell in CELLS}
    if unknown := [name for name in text.split(",") if name not in by_name]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(by_name)}")
    return tuple(by_name[name] for name in dict.fromkeys(text.split(",")))


def _policies(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name != BEST_LIMIT:
            try:
                policy_named(name)
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None
    return names


if __name__ == "__main__":
    sys.exit(main())
