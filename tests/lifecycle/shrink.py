"""A failing run made small: what can be left out without making it succeed is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.lifecycle.plan import Plan

RUNS_MAX = 150


def shrunk(plan: Plan, fails: Callable[[Plan], bool], *, runs_max: int = RUNS_MAX) -> Plan:
    """Leave out halves, then quarters, and so on, of requests and happenings, as long as the plan still fails."""
    runs = 0
    size = max(len(plan.scripts), len(plan.happenings), 1)
    while size := size // 2 if size > 1 else 0:
        for scripts, happenings in _parts(plan, size):
            smaller = plan.without(scripts, happenings)
            if smaller == plan:
                continue
            if runs == runs_max:
                return plan
            runs += 1
            if fails(smaller):
                plan = smaller
    return plan


def _parts(plan: Plan, size: int) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    """Requests by number, and happenings by place from the last to the first, as places move when one is left out."""
    numbers = [script.number for script in plan.scripts]
    for start in range(0, len(numbers), size):
        yield frozenset(numbers[start : start + size]), frozenset()
    for start in reversed(range(0, len(plan.happenings), size)):
        yield frozenset(), frozenset(range(start, start + size))
