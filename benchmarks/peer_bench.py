"""One figure of one gateway: the load that is put on it, and what it costs meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.instructions import Counter
from benchmarks.native_load import Engine, put_load, write_request
from benchmarks.peer_report import PACED_PER_S, Sample
from benchmarks.peer_servers import PEERS, cpu_us

PROMPT_BYTES, LONG_PROMPT_BYTES = 900, 100_000
"""A short one makes a request of 1 KB."""
ANSWER_BYTES_MIN = 900
"""Of an answer of 1 KB, that some write anew."""
RAMP_PER_S = 1000
"""Streams that are begun in a second, so that their beginning is no burst."""
TTFT_TOKENS, TTFT_RATE_MAX, TTFT_CONNECTIONS = 20, 1500, 1000
INTERVAL_MS = 20
FULL_POOL_BLOCKS = 257
"""Of 16 tokens: one stream of `HOLDING_TOKENS` leaves no room for `REFUSED_TOKENS`."""
HOLDING_TOKENS, REFUSED_TOKENS = 2000, 2500


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    short_s: float
    streams: tuple[int, int]
    tokens: int
    held_streams: int
    ttft_s: float
    settle_s: float
    with_slow: bool


FULL = Plan(
    rounds=3, short_s=1.5, streams=(200, 1000), tokens=100, held_streams=1000, ttft_s=3.0, settle_s=1.0, with_slow=True
)
QUICK = Plan(
    rounds=1, short_s=0.6, streams=(200, 1000), tokens=30, held_streams=300, ttft_s=1.0, settle_s=0.5, with_slow=False
)
SLOW_PART = 10
"""Slow ones get a tenth of the streams."""


@dataclass(frozen=True, slots=True)
class Cpus:
    """Where what runs; None: anywhere, as there is but one."""

    load: int | None
    gateway: int | None


@dataclass(slots=True)
class Target:
    """What is measured: a gateway, or the engine itself."""

    name: str
    port: int
    pids: Callable[[], list[int]]
    requests: dict[str, Path]
    is_slow: bool
    counter: Counter | None = field(init=False, default=None)

    def start_counter(self) -> None:
        """Count instructions, if that can be done."""
        try:
            self.counter = Counter(self.pids())
        except OSError:
            self.counter = None

    def spent(self) -> tuple[float, int]:
        """CPU microseconds and instructions so far."""
        return sum(map(cpu_us, self.pids())), self.counter.read() if self.counter else 0


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements need."""

    plan: Plan
    cpus: Cpus
    engine: Engine

    def sample(self, target: Target, request: str, **options: float) -> Sample:
        """Put load on one, and see what it costs."""
        engine_before = cpu_us(self.engine.pid)
        cpu_before, instructions_before = target.spent()
        outcome = put_load(target.port, target.requests[request], cpu=self.cpus.load, **options)
        cpu_after, instructions_after = target.spent()
        units = max(1, outcome.tokens or outcome.requests)
        busy_us = outcome.cpu_us + cpu_us(self.engine.pid) - engine_before
        return Sample(
            cpu_us=(cpu_after - cpu_before) / units,
            kilo_instructions=(instructions_after - instructions_before) / units / 1000 if target.counter else None,
            utilisation=(cpu_after - cpu_before) / 1e6 / max(outcome.seconds, 1e-6),
            load_utilisation=busy_us / 1e6 / max(outcome.seconds, 1e-6),
            outcome=outcome,
        )

    def figures(self) -> dict[str, Callable[[Target], Sample]]:
        """What is taken in every round: by name, how."""
        plan, (some, many) = self.plan, self.plan.streams
        return {
            "short_1": lambda target: self._requests(target, "short", 1),
            "short_64": lambda target: self._requests(target, "short", 64),
            "short_paced": lambda target: self._requests(target, "short", 64, rate=PACED_PER_S),
            "long": lambda target: self._requests(target, "long", 8),
            "streams_some": lambda target: self._streams(target, some, plan.tokens),
            "streams_many": lambda target: self._streams(target, many, plan.tokens),
        }

    def _requests(self, target: Target, request: str, connections: int, **pace: float) -> Sample:
        return self.sample(
            target, request, connections=connections, seconds=self.plan.short_s, bytes=ANSWER_BYTES_MIN, **pace
        )

    def _streams(self, target: Target, streams: int, tokens: int) -> Sample:
        number = streams // SLOW_PART if target.is_slow else streams
        return self.sample(target, "stream", connections=number, requests=number, rate=RAMP_PER_S, tokens=tokens)

    def first_token(self, target: Target, rate: float) -> Sample:
        """Times to the first token of streams that come at an even pace, however slow the answers are."""
        return self.sample(
            target,
            "ttft",
            connections=TTFT_CONNECTIONS,
            rate=rate,
            seconds=self.plan.ttft_s,
            tokens=TTFT_TOKENS,
        )


def target_of(
    plan: Plan, name: str, port: int, pids: Callable[[], list[int]], headers: Mapping[str, str], folder: Path
) -> Target:
    """With all requests that it will get, as files in the folder."""
    kinds = {
        "short": (PROMPT_BYTES, 16, False),
        "long": (LONG_PROMPT_BYTES, 16, False),
        "stream": (PROMPT_BYTES, plan.tokens, True),
        "ttft": (PROMPT_BYTES, TTFT_TOKENS, True),
        "holding": (PROMPT_BYTES, HOLDING_TOKENS, True),
        "refused": (PROMPT_BYTES, REFUSED_TOKENS, False),
    }
    requests = {
        kind: write_request(folder / f"{name}.{kind}", headers, prompt_bytes, output_tokens=tokens, stream=stream)
        for kind, (prompt_bytes, tokens, stream) in kinds.items()
    }
    return Target(name, port, pids, requests, is_slow=name in PEERS and PEERS[name].is_slow)


def cpus() -> Cpus:
    """Two that we may use, if there are two."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cpus(allowed[0], allowed[1]) if len(allowed) > 1 else Cpus(None, None)
