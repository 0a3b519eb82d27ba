"""The cells of the proof of admission, each a trace before an engine, and what every policy makes of one of them."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from benchmarks.admission_oracle import VARIANTS, Oracle, Variant, oracle
from gateway.learned_file import encoded, remembered, restore
from gateway.simulation.fronts import Front
from gateway.simulation.gateway_front import GatewayFront
from gateway.simulation.policies import Policy, Setup, policy_named, run
from gateway.simulation.profiles import PROFILES
from gateway.simulation.record import Record
from gateway.simulation.replay import Replay, Wishes, prepare
from gateway.simulation.replica import Replica
from gateway.simulation.results import Result, measure, served_well
from gateway.simulation.workload import Request, Trace, read_trace

BEST_LIMIT = "concurrency:best"
POLICIES = ("kvgate", "none", "kv-threshold", "concurrency:100", BEST_LIMIT, "max-tokens")
LIMITS_TRIED = (16, 32, 64, 128, 256, 512)
"""Of requests at once: the best of them in hindsight is `BEST_LIMIT`."""
MAIN_VARIANTS = tuple(variant for variant in VARIANTS if variant.order != "first-come" and not variant.keeps_free)
"""Of the oracle: those that ever won by more than noise."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One trace before one engine."""

    trace: str
    """Its file, less the ending."""
    profile: str
    requests: int
    """As many as keep the engine busy for several times as long as a request takes, and the benchmark short."""
    ttft_per_1k_prompt_tokens_s: float = 0.0
    """Granted on top of the profile's SLO."""

    @property
    def name(self) -> str:
        """As the command line has it."""
        return f"{self.profile}/{self.trace}"


CELLS = (
    # The dearest first, so that two processes end at about the same time.
    Cell("servegen_deepseek_r1", "8b-h100", 1200),
    Cell("azure2023_conv", "70b-2xh100", 2000),
    Cell("azure2023_conv", "8b-l4", 2000),
    Cell("mooncake_conversation", "8b-h100", 1500, ttft_per_1k_prompt_tokens_s=0.1),
    Cell("azure2023_conv", "70b-4xh100", 3000),
    Cell("azure2023_conv", "8b-h100", 4000),
    Cell("servegen_m_large", "70b-2xh100", 4000),
    Cell("servegen_m_large", "8b-l4", 3000),
    Cell("servegen_m_large", "8b-h100", 6000),
    Cell("azure2023_code", "8b-h100", 5000),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the same in all cells."""

    folder: Path
    requests: int | None = None
    """Of each cell; None: the cell's own number."""
    policies: tuple[str, ...] = POLICIES
    variants: tuple[Variant, ...] = MAIN_VARIANTS
    is_warm: bool = False
    """KVGate starts with what its history has taught it."""
    history: int = 1000
    """Requests from which a warm gateway has learned: the first of a trace. The replay starts after them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy in one cell."""

    result: Result
    of_oracle: float
    """Its attainment as part of the oracle's."""
    wrongful: float
    """Requests turned away that the oracle served in time, as part of all."""
    limit: int | None = None
    """The limit that `BEST_LIMIT` came to."""


@dataclass(frozen=True, slots=True)
class CellRow:
    """All policies in one cell at one load."""

    cell: str
    load: float
    requests: int
    span_s: float
    oracle: str
    """The variant that won."""
    variants: dict[str, float]
    """Attainment of each."""
    oracle_result: Result
    policies: dict[str, Measured]


def measure_cell(plan: Plan, cell: Cell, load: float) -> CellRow:
    """Run everything in one cell."""
    skipped = plan.history if plan.is_warm else 0
    replay = prepared(plan, cell, load, skipped=skipped)
    requests, setup = replay.requests, replay.setup
    best = oracle(setup, requests, range(len(requests)), plan.variants)
    learned = learned_before(plan, cell, load) if plan.is_warm else None
    return CellRow(
        cell.name,
        load,
        len(requests),
        requests[-1].arrives_s,
        best.best,
        best.attainments,
        measure("oracle", best.record, requests, setup),
        {name: _measured(name, replay, best, learned) for name in plan.policies},
    )


def prepared(plan: Plan, cell: Cell, load: float, *, skipped: int = 0, requests: int | None = None) -> Replay:
    """The replay of a cell at a load, without the first rows of its trace."""
    trace = trace_of(plan.folder, cell)
    count = requests or plan.requests or cell.requests
    return prepare(replace(trace, rows=trace.rows[skipped:]), wishes(cell, load, count))


def wishes(cell: Cell, load: float, requests: int) -> Wishes:
    """How a replay of a cell should be."""
    profile = PROFILES[cell.profile]
    slo = replace(profile.slo, ttft_per_1k_prompt_tokens_s=cell.ttft_per_1k_prompt_tokens_s)
    return Wishes(profile, load=load, requests_max=requests, slo=slo)


def trace_of(folder: Path, cell: Cell) -> Trace:
    """The cell's trace: a file of its name, be it the whole or one part of it (`name.dev.csv`).

    Raises:
        FileNotFoundError: the folder has no such file.
        TraceError: the file is no trace; with the line's number.
    """
    found = sorted(folder.glob(f"{cell.trace}.csv")) + sorted(folder.glob(f"{cell.trace}.*.csv"))
    if not found:
        raise FileNotFoundError(f"{folder} has no {cell.trace}.csv or {cell.trace}.*.csv")
    return _read(found[0])


@lru_cache(maxsize=2)
def _read(path: Path) -> Trace:
    with path.open(encoding="utf-8", newline="") as file:
        return read_trace(file)


def learned_before(plan: Plan, cell: Cell, load: float) -> bytes:
    """What a gateway saves after the history of a cell."""
    replay = prepared(plan, cell, load, requests=plan.history)
    fronts: list[LearningFront] = []

    def one(setup: Setup, replicas: Many[Replica], requests: Many[Request], record: Record) -> list[Front]:
        fronts.append(LearningFront(setup, replicas, requests, record))
        return [*fronts]

    run(Policy("kvgate", one), replay.setup, replay.requests)
    return fronts[0].saved()


def warm(learned: bytes) -> Policy:
    """KVGate, started with what was saved."""

    def fronts(setup: Setup, replicas: Many[Replica], requests: Many[Request], record: Record) -> list[Front]:
        return [LearningFront(setup, replicas, requests, record, learned)]

    return Policy("kvgate", fronts)


class LearningFront(GatewayFront):
    """KVGate as it is stopped and started again."""

    def __init__(
        self,
        setup: Setup,
        replicas: Many[Replica],
        requests: Many[Request],
        record: Record,
        learned: bytes | None = None,
    ) -> None:
        super().__init__(setup.gateway(), replicas, requests, record)
        if learned is not None:
            restore(learned, self._pricing)

    def saved(self) -> bytes:
        """The content of its file."""
        return encoded(remembered(self._pricing))


def _measured(name: str, replay: Replay, best: Oracle, learned: bytes | None) -> Measured:
    requests, setup = replay.requests, replay.setup
    limit = None
    if name == BEST_LIMIT:
        tried = {each: _run(f"concurrency:{each}", replay) for each in LIMITS_TRIED}
        limit = max(tried, key=lambda each: sum(served_well(tried[each], requests, setup.slo)))
        record = tried[limit]
    elif name == "kvgate" and learned is not None:
        record = run(warm(learned), setup, requests)
    else:
        record = _run(name, replay)
    result = measure(name, record, requests, setup)
    of_oracle = result.attainment / best.attainment if best.attainment else 1.0
    return Measured(result, of_oracle, wrongful(record, best.record, requests, setup), limit)


def _run(name: str, replay: Replay) -> Record:
    return run(policy_named(name), replay.setup, replay.requests)


def wrongful(record: Record, best: Record, requests: Many[Request], setup: Setup) -> float:
    """Part of all requests that were turned away although the oracle served them in time."""
    in_time = served_well(best, requests, setup.slo)
    both = [good and at is not None for good, at in zip(in_time, record.refused_s, strict=True)]
    return sum(both) / len(requests)
