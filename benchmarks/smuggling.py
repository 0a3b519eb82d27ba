"""Smuggling: one corpus of payloads to the gateway directly, and behind nginx and HAProxy where they are installed.

A desync is a hidden request of which an engine heard though nobody in front of the gateway had sent it.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from pathlib import Path

from tests.live_ops.http_fronts import DIRECT, FRONTS, PATH, smuggle
from tests.smuggling import corpus, mutations


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=0, help="as many more payloads, behind fronts alone")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print("| before the gateway | payloads | refused | served as one request | unanswered | two for both | desync |")
    print("|---|---|---|---|---|---|---|")
    for kind in (DIRECT, *FRONTS):
        if kind != DIRECT and shutil.which(FRONTS[kind][0], path=PATH) is None:
            print(f"| {kind} | not installed |")
            continue
        with tempfile.TemporaryDirectory() as folder:
            payloads = corpus() + ([] if kind == DIRECT else mutations(given.mutations, given.seed))
            tally = asyncio.run(smuggle(kind, Path(folder), payloads))
        both = len(tally.ran & tally.seen)
        counts = (tally.payloads, tally.refused, tally.served, tally.unanswered, both, len(tally.desyncs))
        print(f"| {kind} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main()
