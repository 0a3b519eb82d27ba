"""The scoreboard of reliability: each figure with its target, whether it is reached, and the command behind it.

Run it as `python -m benchmarks.reliability`; `--quick` for a look, `--peers` for other gateways beside KVGate. Figures
that tools of their own print (proofs in virtual time, fuzzing, real clients) are named with their command.
"""

from __future__ import annotations

import argparse
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks import overload, reliability_peers, restart, soak

AT_MOST, AT_LEAST = operator.le, operator.ge


@dataclass(frozen=True, slots=True)
class Row:
    """One figure."""

    number: int
    """In the table of what a proxy has to reach."""
    name: str
    tool: str
    """The module of `benchmarks` that measures it."""
    compare: Callable[[float, float], bool]
    target: float


ROWS = (
    Row(3, "cancel in a stream, ms, worst", "reliability_peers", AT_MOST, 10),
    Row(3, "cancel before the first byte, ms, worst", "reliability_peers", AT_MOST, 10),
    Row(3, "cancel of a request in one piece, ms, worst", "reliability_peers", AT_MOST, 10),
    Row(5, "streams cut short, not told, share", "reliability_peers", AT_MOST, 0),
    Row(6, "goodput ratio", "overload", AT_LEAST, 0.95),
    Row(6, "clients through, KVGate", "overload", AT_LEAST, 0.95),
    Row(7, "decision p99.9 below, us", "overload", AT_MOST, 1000),
    Row(7, "CPU per refusal, us", "overload", AT_MOST, 1000),
    Row(7, "refusal seen by clients at 10x, ms p99", "overload", AT_MOST, 10),
    Row(9, "a client that does not read, MB", "reliability_peers", AT_MOST, 1),
    Row(10, "KB per idle stream", "overload", AT_MOST, 25),
    Row(16, "SIGTERM: streams cut", "restart", AT_MOST, 0),
    Row(16, "SIGTERM: exit after the last stream, s", "restart", AT_MOST, 1),
    Row(16, "hand-over: requests failed", "restart", AT_MOST, 0),
    Row(17, "kill -9: until it serves, s, max", "restart", AT_MOST, 1),
    Row(17, "kill -9: CPU until it serves, s, median", "restart", AT_MOST, 1),
    Row(17, "kill -9: over-admitted tokens, max", "restart", AT_MOST, 0),
    Row(17, "kill -9: preemptions in the engine", "restart", AT_MOST, 0),
    Row(21, "RSS slope, MB per hour", "soak", AT_MOST, 5),
    Row(21, "descriptors when idle, more than before", "soak", AT_MOST, 0),
    Row(21, "tasks when idle, more than before", "soak", AT_MOST, 0),
)
ELSEWHERE = (
    (1, "leaked blocks over 1,000 seeds of faults", "make lifecycle"),
    (2, "planted bugs that are noticed", "make mutants"),
    (3, "cancel at five points, 200 times each", "python -m benchmarks.cancel"),
    (4, "wrong outcomes in 10,000 requests with faults", "python -m tests.chaos"),
    (8, "added latency, beside others", "python -m benchmarks.peers"),
    (11, "hostile bodies passed, and the loop's longest pause", "python -m benchmarks.hostile"),
    (13, "smuggling: desyncs", "python -m benchmarks.smuggling"),
    (20, "slow clients: when they are let go, what others notice", "python -m benchmarks.slow_clients"),
)
"""Measured by tools that print their own tables."""
PEERS = ("vllm-router", "sglang-router", "litellm", "nginx", "haproxy")


def figures(*, quick: bool = False, minutes: float = 5.0) -> dict[str, dict[str, float]]:
    """What each tool found, by its name."""
    return {
        "reliability_peers": reliability_peers.figures(["kvgate"]).get("kvgate", {}),
        "overload": overload.figures(quick=quick),
        "restart": restart.figures(quick=quick),
        "soak": soak.figures(minutes=minutes, quick=quick),
    }


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="short runs, to see that it works")
    arguments.add_argument("--minutes", type=float, default=5.0, help="of the soak")
    arguments.add_argument("--peers", action="store_true", help="other gateways too, where they are installed")
    given = arguments.parse_args()
    found = figures(quick=given.quick, minutes=given.minutes)
    peers = reliability_peers.figures(list(PEERS)) if given.peers else {}
    print_table(found, peers)


def print_table(found: Mapping[str, Mapping[str, float]], peers: Mapping[str, Mapping[str, float]]) -> None:
    """As Markdown."""
    print(f"| # | figure | KVGate | target | | {''.join(f'{name} | ' for name in peers)}command |")
    print(f"|---|---|---|---|---|{'---|' * len(peers)}---|")
    for row in ROWS:
        value = found[row.tool].get(row.name)
        sign = "≤" if row.compare is AT_MOST else "≥"
        shown = "-" if value is None else f"{value:,.2f}"
        verdict = "-" if value is None else "reached" if row.compare(value, row.target) else "missed"
        beside = "".join(f"{values[row.name]:,.1f} | " if row.name in values else "- | " for values in peers.values())
        command = f"`python -m benchmarks.{row.tool}`"
        print(f"| {row.number} | {row.name} | {shown} | {sign} {row.target:g} | {verdict} | {beside}{command} |")
    for number, name, command in ELSEWHERE:
        print(f"| {number} | {name} | | | | {'| ' * len(peers)}`{command}` |")


if __name__ == "__main__":
    main()
