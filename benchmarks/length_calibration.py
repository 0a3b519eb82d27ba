"""Measures how far the forecasts of answers' lengths can be believed, on traces of requests.

    python -m benchmarks.length_calibration FOLDER [--tokens-per-s 33] [--json]

FOLDER holds traces as `*.csv` with at least the columns `arrival_s` and `output_tokens`. Each is played in virtual time
to a model that knows nothing at first: a request is sent when it arrives, generates at a steady pace, is seen once a
second while it runs, and is learned from when it ends. When it is sent, its forecast is noted; when it has ended, it is
held against its length.

Printed is the share of answers within the forecast's median, 90th and 99th percentile, in per cent: `plain`, as it
stands; `spread`, with an answer of exactly the forecast length counted in part, since lengths are whole numbers (that
is what `kvgate_prediction_coverage_ratio` shows, measured here over all answers); and `capped`, the same where half of
all requests have a `max_tokens` that cuts a quarter or a tenth of the answers. The first `WARM_UP` answers are left
out. `drift` is the largest change of the median over the trace, as a factor: near 1, the trace is stationary.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: what it imports stands beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from estimator.calibration import Calibration
from estimator.output_length import OutputForecast, OutputLengths

QUANTILES = (0.5, 0.9, 0.99)
WARM_UP = 300
LOOK_S = 1.0
FIRST_TOKEN_S = 0.5
PARTS = 10
"""Into so many parts a trace is cut to see whether its median moves."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a trace."""

    arrival_s: float
    output_tokens: int
    max_tokens: int | None = None

    @property
    def length(self) -> int:
        """Tokens that it really generates."""
        return self.output_tokens if self.max_tokens is None else min(self.output_tokens, self.max_tokens)

    @property
    def ended(self) -> bool:
        """Whether it comes to its own end."""
        return self.max_tokens is None or self.output_tokens < self.max_tokens


@dataclass(slots=True)
class _Running:
    request: Request
    forecast: OutputForecast
    counted: int = 0


class Player:
    """Plays requests to a model, and tells of each that ended what had been forecast of it."""

    def __init__(self, tokens_per_s: float, on_end: Callable[[Request, OutputForecast], None]) -> None:
        self.lengths = OutputLengths()
        self._tokens_per_s = tokens_per_s
        self._on_end = on_end
        self._running: list[tuple[float, int, _Running]] = []
        self._looked_at = 0.0

    def play(self, requests: Sequence[Request]) -> None:
        """Play a whole trace, in the order of arrival."""
        for number, request in enumerate(requests):
            self._pass_time(request.arrival_s)
            end = request.arrival_s + FIRST_TOKEN_S + request.length / self._tokens_per_s
            heapq.heappush(self._running, (end, number, _Running(request, self.lengths.forecast())))
        self._pass_time(float("inf"))

    def _pass_time(self, now: float) -> None:
        while self._running and self._running[0][0] <= now:
            _, _, running = heapq.heappop(self._running)
            request = running.request
            self.lengths.learn(request.length, ended=request.ended, counted=running.counted)
            self._on_end(request, running.forecast)
        if self._looked_at + LOOK_S <= now < float("inf"):
            self._looked_at = now
            for _, _, running in self._running:
                seen = int((now - running.request.arrival_s - FIRST_TOKEN_S) * self._tokens_per_s)
                running.counted = self.lengths.grown(max(0, seen), running.counted)


@dataclass(frozen=True, slots=True)
class Row:
    """One trace, measured. Shares are in the order of `QUANTILES`; None: too many were cut off below it."""

    trace: str
    requests: int
    drift: float
    plain: tuple[float, ...]
    spread: tuple[float | None, ...]
    capped: tuple[float | None, ...]


def read_trace(path: Path) -> list[Request]:
    """The requests of a file, in the order of their arrival.

    Raises:
        ValueError: a line is no request; the message names it.
        KeyError: a column is missing.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        requests = []
        for number, row in enumerate(rows, start=2):
            try:
                requests.append(Request(float(row["arrival_s"]), int(row["output_tokens"])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from error
    return sorted(requests, key=lambda request: request.arrival_s)


def measure(name: str, requests: Sequence[Request], tokens_per_s: float) -> Row:
    """Play a trace twice, as it is and with caps."""
    within = [0] * len(QUANTILES)
    compared = 0
    spread, capped = Calibration(half_life=1e9), Calibration(half_life=1e9)
    ends = 0

    def on_end(request: Request, forecast: OutputForecast) -> None:
        nonlocal ends, compared
        ends += 1
        if ends > WARM_UP:
            compared += 1
            for i, q in enumerate(QUANTILES):
                within[i] += request.output_tokens <= forecast.quantile(q)
            spread.observe(forecast, request.output_tokens, ended=True)

    def on_capped_end(request: Request, forecast: OutputForecast) -> None:
        nonlocal ends
        ends += 1
        if ends > WARM_UP:
            capped.observe(forecast, request.length, ended=request.ended)

    Player(tokens_per_s, on_end).play(requests)
    ends = 0
    Player(tokens_per_s, on_capped_end).play(_with_caps(requests))
    return Row(
        trace=name,
        requests=len(requests),
        drift=_drift(requests),
        plain=tuple(count / max(1, compared) for count in within),
        spread=tuple(spread.coverage(q) for q in QUANTILES),
        capped=tuple(capped.coverage(q) for q in QUANTILES),
    )


def _with_caps(requests: Sequence[Request]) -> list[Request]:
    rng = random.Random(1)
    lengths = sorted(request.output_tokens for request in requests)
    caps = [max(1, lengths[int(share * (len(lengths) - 1))]) for share in (0.75, 0.9)]
    return [Request(request.arrival_s, request.output_tokens, rng.choice((None, None, *caps))) for request in requests]


def _drift(requests: Sequence[Request]) -> float:
    size = max(1, len(requests) // PARTS)
    medians = [
        sorted(request.output_tokens for request in requests[start : start + size])[size // 2]
        for start in range(0, size * PARTS, size)
        if len(requests[start : start + size]) == size
    ]
    return max(medians, default=1) / max(1, min(medians, default=1))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of the table."""
    heads = "  ".join(f"{head + ' 50/90/99':>17}" for head in ("plain", "spread", "capped"))
    yield f"{'trace':28} {'requests':>8} {'drift':>6}  {heads}"
    for row in rows:
        shares = "  ".join(f"{_shares(part):>17}" for part in (row.plain, row.spread, row.capped))
        yield f"{row.trace:28} {row.requests:>8} {row.drift:>6.1f}  {shares}"


def _shares(shares: Sequence[float | None]) -> str:
    return " ".join("    -" if share is None else f"{100 * share:5.1f}" for share in shares)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the coverage of forecast output lengths on traces.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens-per-s", type=float, default=33.0, help="pace of one sequence")
    parser.add_argument("--json", action="store_true", help="one JSON object per trace instead of the table")
    given = parser.parse_args()
    paths = sorted(given.folder.glob("*.csv"))
    if not paths:
        parser.error(f"{given.folder} has no *.csv")
    rows = [measure(path.stem, read_trace(path), given.tokens_per_s) for path in paths]
    if given.json:
        for row in rows:
            print(json.dumps({field: getattr(row, field) for field in Row.__slots__}))
    else:
        print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
