"""Times the estimator: importing it, and pricing one request with a model that is loaded.

    python benchmarks/estimator_speed.py

Importing is timed in fresh processes, pricing in this one. Both are medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:  # run as a file: what it imports stands beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from estimator import kv_cost, kv_layout, load_model

ROOT = Path(__file__).resolve().parent.parent
IMPORTS, ROUNDS, CALLS = 15, 7, 20_000
_TIMED = """
import time
wall, busy = time.perf_counter(), time.process_time()
import estimator
print(time.perf_counter() - wall, time.process_time() - busy)
"""
MODELS = ("meta-llama/Meta-Llama-3.1-70B", "google/gemma-3-27b-it", "Qwen/Qwen3-Next-80B-A3B-Instruct")


def import_ms() -> tuple[float, float]:
    """Milliseconds from the first line of a program to the module being there, by the clock and of processor time.

    On a machine that does other work the clock shows that as well.
    """
    command = [sys.executable, "-c", _TIMED]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT) for _ in range(IMPORTS)]
    times = [run.stdout.split() for run in runs]
    wall, busy = (1000 * statistics.median(float(pair[i]) for pair in times) for i in range(2))
    return wall, busy


def each_us(priced: Callable[[], object]) -> float:
    """Microseconds of one call."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            priced()
        rounds.append((time.perf_counter() - start) / CALLS)
    return 1e6 * statistics.median(rounds)


def main() -> int:
    """Print all figures."""
    wall, busy = import_ms()
    print(f"import estimator                          {wall:8.1f} ms   (limit 60; {busy:.1f} ms of processor time)")
    for name in MODELS:
        model = load_model(name)
        layout = kv_layout(model)
        print(name)
        print(f"    a request, layout at hand             {each_us(lambda: layout.blocks(1535)):8.2f} us   (limit 5)")  # noqa: B023 - called at once
        print(f"    kv_cost: layout looked up, all sums   {each_us(lambda: kv_cost(model, 1024, 512)):8.2f} us")  # noqa: B023 - the same
    return 0


if __name__ == "__main__":
    sys.exit(main())
