"""What `benchmarks.peers` saw, as tables: medians over the rounds, and ratios to nginx and to the best router."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from benchmarks.native_load import Outcome

NONE = "–"
PACED_PER_S = 500
"""Requests that come at an even pace, as many to each gateway: at full load a fast one never has to wake whom it writes
to, which is half of what a write costs."""
LOAD_UTILISATION_MAX = 0.9
"""Above it, the load itself may have been what was slow."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of one round. Costs are per request, or per chunk where there are streams."""

    cpu_us: float
    kilo_instructions: float | None
    """None: this machine does not count them."""
    utilisation: float
    """CPU seconds of the gateway per second."""
    load_utilisation: float
    """CPU seconds of load generator and mock engine per second."""
    outcome: Outcome


@dataclass(slots=True)
class Figures:
    """All of one gateway."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    """By figure, one for each round."""
    idle_bytes: float | None = None
    stream_bytes: float | None = None
    """What each open stream adds."""
    refusal: Sample | None = None
    first_token: Sample | None = None
    first_token_direct: Sample | None = None
    """At the same rate without the gateway."""
    first_token_rate_per_s: float | None = None

    def value(self, name: str, of: Callable[[Sample], float | None]) -> float | None:
        """Median over the rounds; None where there is none."""
        values = [value for sample in self.samples.get(name, ()) if (value := of(sample)) is not None]
        return median(values) if values else None

    @property
    def added_first_token_ms(self) -> float | None:
        """What the gateway adds to the 99th percentile."""
        with_it, without = self.first_token, self.first_token_direct
        if with_it is None or without is None:
            return None
        return (with_it.outcome.first_p99_us - without.outcome.first_p99_us) / 1000


Results = dict[str, Figures]
Column = tuple[str, Callable[[Figures], float | None]]


def text(results: Results, streams: tuple[int, int], routers: set[str]) -> str:
    """All tables."""
    costs = {
        "short_1": "request, 1 connection",
        "short_64": "request, 64 connections",
        "short_paced": f"request, {PACED_PER_S} per s",
        "long": "request, 100 KB prompt",
        "streams_some": f"chunk, {streams[0]:,} streams",
        "streams_many": f"chunk, {streams[1]:,} streams",
    }
    cpu = [_column(title, name, lambda sample: sample.cpu_us) for name, title in costs.items()]
    refusal: Column = ("refusal", lambda figures: figures.refusal.cpu_us if figures.refusal else None)
    parts = [_table("CPU µs", [*cpu, refusal], results)]
    counted = [_column(title, name, lambda sample: sample.kilo_instructions) for name, title in costs.items()]
    if any(read(figures) is not None for _, read in counted for figures in results.values()):
        parts.append(_table("1,000 instructions", counted, results))
    else:
        parts.append("Instructions: n/a, this machine has no counter that we may read.")
    if "nginx" in results:
        parts.append(_ratios("CPU ÷ nginx", cpu, results, {"nginx"}))
    if routers & results.keys():
        parts.append(_ratios("CPU ÷ best Rust router", cpu, results, routers))
    parts.append(_table("Side view", _side_view(streams), results))
    parts.append(_warnings(results))
    return "\n\n".join(part for part in parts if part)


def _column(title: str, name: str, of: Callable[[Sample], float | None]) -> Column:
    return title, lambda figures: figures.value(name, of)


def _side_view(streams: tuple[int, int]) -> list[Column]:
    return [
        _column("requests/s, 64 connections", "short_64", lambda sample: sample.outcome.per_s),
        _column("ms p50, 1 connection", "short_1", lambda sample: sample.outcome.p50_us / 1000),
        _column("ms p99, 1 connection", "short_1", lambda sample: sample.outcome.p99_us / 1000),
        _column("ms p99, 64 connections", "short_64", lambda sample: sample.outcome.p99_us / 1000),
        _column(
            f"ms to first token p99, {streams[1]:,} streams",
            "streams_many",
            lambda sample: sample.outcome.first_p99_us / 1000,
        ),
        ("ms added to first token p99, half load", lambda figures: figures.added_first_token_ms),
        ("CPU busy then, %", lambda figures: 100 * figures.first_token.utilisation if figures.first_token else None),
        ("MB idle", lambda figures: _scaled(figures.idle_bytes, 1e6)),
        ("KB per open stream", lambda figures: _scaled(figures.stream_bytes, 1e3)),
    ]


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else value / by


def _table(title: str, columns: list[Column], results: Mapping[str, Figures]) -> str:
    rows = [[name, *(_shown(read(figures)) for _, read in columns)] for name, figures in results.items()]
    return _markdown([title, *(name for name, _ in columns)], rows)


def _ratios(title: str, columns: list[Column], results: Mapping[str, Figures], base: set[str]) -> str:
    """To the least of `base`, column by column."""
    rows = []
    for name, figures in results.items():
        if name != "direct":
            ratios = [_ratio(read, figures, [results[other] for other in base & results.keys()]) for _, read in columns]
            rows.append([name, *ratios])
    return _markdown([title, *(name for name, _ in columns)], rows)


def _ratio(read: Callable[[Figures], float | None], figures: Figures, others: list[Figures]) -> str:
    value = read(figures)
    least = min((other for other in map(read, others) if other is not None), default=None)
    return NONE if value is None or not least else f"{value / least:.2f}"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _warnings(results: Mapping[str, Figures]) -> str:
    busiest = max(
        (sample.load_utilisation, f"{name}, {figure}")
        for name, figures in results.items()
        for figure, samples in figures.samples.items()
        for sample in samples
        if name != "direct"
    )
    lines = [f"Mock engine and load generator used at most {busiest[0]:.0%} of their CPU ({busiest[1]})."]
    if busiest[0] > LOAD_UTILISATION_MAX:
        lines.append("That is nearly all: throughput there is theirs, CPU time per request is not.")
    for name, figures in results.items():
        for figure, samples in figures.samples.items():
            errors = sum(sample.outcome.errors for sample in samples)
            if errors:
                said = next(sample.outcome.first_error for sample in samples if sample.outcome.errors)
                lines.append(f"{name}, {figure}: {errors} errors, the first: {said}.")
    return "\n".join(lines)
