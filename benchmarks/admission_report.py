"""The tables of the proof of admission, and what they are held against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence as Many
from dataclasses import dataclass

from benchmarks.admission_cells import CellRow, Measured
from gateway.simulation.results import Result

TARGET_MEAN, TARGET_CELL, TARGET_PREEMPTIONS = 0.97, 0.90, 0.5
"""Goodput as part of the oracle's, as a mean over the cells and in the worst of them; preemptions per 100 served."""
LOAD_OF_GOODPUT, LOAD_OF_PREEMPTIONS = 1.5, 1.2
"""Largest loads at which they hold."""
_HEAD = f"{'':24}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target, and what came of it."""

    sentence: str
    value: float
    is_met: bool


def verdicts(rows: Many[CellRow]) -> list[Verdict]:
    """KVGate against its targets. None where nothing of a target was measured."""
    found = []
    goodput = [row for row in rows if row.load <= LOAD_OF_GOODPUT and "kvgate" in row.policies]
    for load in loads_of(goodput):
        value = mean(row.policies["kvgate"].of_oracle for row in goodput if row.load == load)
        sentence = (
            f"goodput at load {load:g}, mean of the cells: {value:.1%} of the oracle (at least {TARGET_MEAN:.0%})"
        )
        found.append(Verdict(sentence, value, value >= TARGET_MEAN))
    if goodput:
        worst = min(goodput, key=lambda row: row.policies["kvgate"].of_oracle)
        value = worst.policies["kvgate"].of_oracle
        sentence = (
            f"goodput in the worst cell, {worst.cell} at {worst.load:g}: {value:.1%} of the oracle "
            f"(at least {TARGET_CELL:.0%})"
        )
        found.append(Verdict(sentence, value, value >= TARGET_CELL))
    calm = [row for row in goodput if row.load <= LOAD_OF_PREEMPTIONS]
    for load in loads_of(calm):
        value = mean(per_100(row.policies["kvgate"].result) for row in calm if row.load == load)
        sentence = f"preemptions per 100 served at load {load:g}: {value:.2f} (fewer than {TARGET_PREEMPTIONS})"
        found.append(Verdict(sentence, value, value < TARGET_PREEMPTIONS))
    return found


def summary(rows: Many[CellRow]) -> Iterator[str]:
    """Every policy at every load, over all cells."""
    yield "Goodput, % of the oracle's: mean of the cells (worst cell)"
    yield from _by_load(rows, lambda each: f"{_percent(mean(each))} ({_percent(min(each))})", lambda one: one.of_oracle)
    yield "\nPreemptions per 100 served: mean of the cells (worst cell)"
    yield from _by_load(
        rows, lambda each: f"{mean(each):.2f} ({max(each):.2f})", lambda one: per_100(one.result), oracle=True
    )
    yield "\nKV memory in use, % of the pool"
    yield from _by_load(rows, lambda each: _percent(mean(each)), lambda one: one.result.kv_utilisation, oracle=True)
    shares = {(row.cell, row.load): 1 / row.requests for row in rows}
    yield "\nTurned away, % of all (of these wrongfully: the oracle served them in time)"
    yield from _refusals(rows, shares)


def _refusals(rows: Many[CellRow], shares: dict[tuple[str, float], float]) -> Iterator[str]:
    loads = loads_of(rows)
    yield _heads(loads)
    for name in names_of(rows):
        cells = []
        for load in loads:
            here = [(row.policies[name], shares[row.cell, row.load]) for row in rows if row.load == load]
            refused = mean(one.result.refused * share for one, share in here)
            wrongful = mean(one.wrongful for one, _ in here)
            cells.append(f"{_percent(refused)} ({_percent(wrongful)})")
        yield _line(name, cells)
    every = [
        mean(row.oracle_result.refused * shares[row.cell, row.load] for row in rows if row.load == load)
        for load in loads
    ]
    yield _line("oracle", [_percent(part) for part in every])


def details(rows: Many[CellRow], names: Many[str]) -> Iterator[str]:
    """Every cell at every load."""
    yield (
        f"{'cell':34} {'load':>4} {'policy':17} {'of oracle':>9} {'in time':>7} {'preempt':>8} {'KV':>4} "
        f"{'refused':>7} {'wrongly':>7} {'TTFT p99':>9} {'TPOT p99':>9}"
    )
    for row in rows:
        for name in names:
            if (one := row.policies.get(name)) is not None:
                limit = f" = {one.limit}" if one.limit else ""
                yield _detail(row, name.partition(":best")[0] + limit, one.result, one)
        yield _detail(row, "oracle", row.oracle_result, None) + f"  {row.oracle}"


def oracles(rows: Many[CellRow]) -> str:
    """How often each variant of the oracle won."""
    won = Counter(row.oracle for row in rows)
    tried = {name: None for row in rows for name in row.variants}
    return "The oracle is the best of: " + "; ".join(f"{name} ({won[name]})" for name in tried) + "."


def _detail(row: CellRow, name: str, result: Result, one: Measured | None) -> str:
    of_oracle = 1.0 if one is None else one.of_oracle
    wrongful = "" if one is None else _percent(one.wrongful)
    return (
        f"{row.cell:34} {row.load:4g} {name:17} {_percent(of_oracle):>9} {_percent(result.attainment):>7} "
        f"{per_100(result):8.2f} {result.kv_utilisation:4.0%} {_percent(result.refused / row.requests):>7} "
        f"{wrongful:>7} {result.ttft_p99_s:7.2f} s {1000 * result.tpot_p99_s:6.0f} ms"
    )


def _by_load(
    rows: Many[CellRow],
    shown: Callable[[list[float]], str],
    value: Callable[[Measured], float],
    *,
    oracle: bool = False,
) -> Iterator[str]:
    loads = loads_of(rows)
    yield _heads(loads)
    for name in names_of(rows):
        yield _line(name, [shown([value(row.policies[name]) for row in rows if row.load == load]) for load in loads])
    if oracle:
        of = [[value(Measured(row.oracle_result, 1.0, 0.0)) for row in rows if row.load == load] for load in loads]
        yield _line("oracle", [shown(each) for each in of])


def loads_of(rows: Many[CellRow]) -> list[float]:
    """In rising order."""
    return sorted({row.load for row in rows})


def names_of(rows: Many[CellRow]) -> list[str]:
    """Policies that all rows have, in the order of the first."""
    return list(rows[0].policies) if rows else []


def mean(values: Iterator[float] | Many[float]) -> float:
    """Of those that are numbers: a policy that served nobody has no preemptions per served request."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def per_100(result: Result) -> float:
    """Preemptions per 100 served."""
    return 100 * result.preemptions_per_request


def _heads(loads: Many[float]) -> str:
    return _HEAD + "".join(f"{f'load {load:g}':>16}" for load in loads)


def _line(name: str, cells: Many[str]) -> str:
    return f"{name:24}" + "".join(f"{cell:>16}" for cell in cells)


def _percent(part: float) -> str:
    return f"{100 * part:.1f}"
