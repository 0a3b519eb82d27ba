"""Times the decisions of admission, call by call, as a function of how many requests run and wait.

    python -m benchmarks.admission_cost

One engine with a pool under pressure: all that run would not fit at their hard ends, so the forecast decides. Answers
stream and get as long as was learned; as one request is sent another ends, so that no two decisions meet the same
books. Streams are reported twenty times a second, as the gate does it: after a decision, not before it. Then the same
under light load, where there is room for everybody even at their hard ends: there all three calls that one request
makes are one figure. Each figure is of single calls, with the collector of garbage off: as a clock on the wall has it,
which is what a request waits, and as time of the processor, which leaves out what else the machine did meanwhile. What
is still between the least and the median of the latter is mostly caches that others have emptied. How much that is on
the machine at hand says the first line: always the same work, of the size of a decision.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from estimator.demand import Demand
from estimator.kv_cache import KvLayout
from estimator.output_length import OutputForecast, OutputLengths
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command
from gateway.admission.events import Arrived, BackendAdded, BackendRead, Event, Left, Progressed
from gateway.admission.limits import AdmissionLimits
from gateway.domain import BackendSpec, Capacity, Outcome, Reading, Ticket, Usage

MODEL, BLOCK_TOKENS = "m", 16
PROMPT_TOKENS, OUTPUT_MEDIAN, OUTPUT_MAX = 512, 300, 4096
RUNNING = (64, 1_000, 10_000)
LIGHT = (0, 8, 64)
"""Requests that run beside the one that is timed, where there is room for all."""
LIGHT_PROMPT_TOKENS, LIGHT_OUTPUT_MAX = 20, 256
WAITING = (0, 500)
SAMPLES = 3_000
TICK_S = 0.025
"""Between two calls: an engine reads prompts no faster, so that the pace keeps nobody out."""
REPORT_S = 0.05
"""Between two reports of streams."""
REPORTED = 16
"""Streams in each of them, where the report is not what is timed: all of them, one after the other."""
TOKENS_PER_S = 30
FULL_SHARE = 0.9
"""Of those that ran at first: fewer are left only by who finds no room."""
PRESSURE = 1.02
"""Pool over what is forecast to be held together: next to no room is left."""
TARGET_US = {(1_000, 500): 20.0, (10_000, 0): 60.0, (10_000, 500): 60.0}
"""Wanted of `Arrived`, at the 99th percentile; of a light request's two calls, all in all."""


Took = tuple[float, float]
"""Microseconds of one call: on the wall, and of the processor."""


def took(call: Callable[[], object]) -> Took:
    """Let it run once."""
    wall, cpu = time.perf_counter_ns, time.thread_time_ns
    start, cpu_start = wall(), cpu()
    call()
    cpu_end, end = cpu(), wall()
    return (end - start) / 1e3 - EMPTY_US[0], (cpu_end - cpu_start) / 1e3 - EMPTY_US[1]


EMPTY_US: Took = (0.0, 0.0)
empty = [took(lambda: None) for _ in range(3_000)]
EMPTY_US = statistics.median(wall for wall, _ in empty), statistics.median(cpu for _, cpu in empty)
"""What it takes to look at two clocks."""


@dataclass(frozen=True)
class Timed:
    """Microseconds of single calls."""

    what: str
    running: int
    waiting: int
    each_us: list[Took]
    target_us: float | None = None

    def __str__(self) -> str:
        shown = "".join(_spread([each[clock] for each in self.each_us]) for clock in range(2))
        target = "" if self.target_us is None else f"   (target {self.target_us:.0f})"
        return f"{self.what:<30}{self.running:>8,}{self.waiting:>8,}{shown}{len(self.each_us):>8,}{target}"


def _spread(each_us: list[float]) -> str:
    """Least, median, 99th and 99.9th percentile."""
    each = sorted(each_us)
    return "".join(f"{each[min(len(each) - 1, int(part * len(each)))]:>9.1f}" for part in (0.0, 0.5, 0.99, 0.999))


def learned() -> OutputForecast:
    """What is expected after many answers, most of them short."""
    chance, lengths = random.Random(1), OutputLengths()
    for _ in range(3_000):
        lengths.learn(max(1, int(OUTPUT_MEDIAN * chance.lognormvariate(0.0, 0.9))), ended=True)
    return lengths.forecast()


class Stage:
    """Admission with one engine on which so many requests run, and for which so many wait."""

    def __init__(self, running: int, waiting: int, *, roomy: bool) -> None:
        self.chance = random.Random(7)
        self.now, self.last_id = 0.0, 0
        self.running, self.waiting = running, waiting
        self.generated: dict[int, int] = {}
        """By ticket id, the longest on it first: tokens of each that runs."""
        self.reported_at = 0.0
        self.turns: deque[tuple[int, float]] = deque()
        """Who is to be reported next, and when that was done last."""
        self.output = learned()
        self.admission = Admission(AdmissionLimits(queue_requests_max=waiting + 10, queue_wait_max_s=1e6))
        self.admission.handle(BackendAdded(BackendSpec("engine")), 0.0)
        self._resize(10**8)
        for _ in range(running):
            self.tell(Arrived(self.ticket()))
            self.now += 0.05
        for number in self.generated:
            self.generated[number] += self.chance.randint(32, 64)
        self.tell(Progressed(tuple(self.generated.items())))
        if not roomy:
            reserved = self.admission.snapshot().backends[0].reserved_tokens // BLOCK_TOKENS
            self._resize(int(PRESSURE * reserved) + (0 if running > 100 else 60))
        self.fill()

    def ticket(self, prompt_tokens: int = 0) -> Ticket:
        """The next request: patient, and with answers of unknown length."""
        self.last_id += 1
        prompt = prompt_tokens or int(PROMPT_TOKENS * self.chance.uniform(0.2, 2.0))
        demand = Demand(1, (prompt,), prompt, OUTPUT_MAX, self.output)
        tenant = f"tenant {self.last_id % 20}"
        return Ticket(self.last_id, MODEL, demand, 1e6 + self.last_id, max_tokens=OUTPUT_MAX, tenant=tenant)

    def fill(self) -> None:
        """Let so many wait again as are to."""
        # Some of them may find room.
        for _ in range(3):
            for _ in range(self.waiting - sum(queue.depth for queue in self.admission.snapshot().queues)):
                self.tell(Arrived(self.ticket(prompt_tokens=4 * PROMPT_TOKENS + self.last_id % 2048)))

    def tell(self, event: Event) -> list[int]:
        """Let something happen; returns who was sent."""
        return self._sent(self.admission.handle(event, self.now))

    def timed(self, event: Event) -> tuple[Took, list[int]]:
        """Microseconds that admission takes over it, and who was sent."""
        self.now += TICK_S
        commands: list[Command] = []
        each_us = took(lambda: commands.extend(self.admission.handle(event, self.now)))
        return each_us, self._sent(commands)

    def end(self) -> Left:
        """The one that has run for longest is at its end."""
        number = next(iter(self.generated))
        return Left(number, Outcome.FINISHED, Usage(PROMPT_TOKENS, max(1, self.generated.pop(number))))

    def look(self, k: int) -> None:
        """After the k-th call: streams come on, and now and then the engine is looked at, as in service."""
        if self.now >= self.reported_at + REPORT_S:
            self.reported_at = self.now
            self.tell(Progressed(tuple(self._reports())))
        if k % 32 == 0:
            self._resize(self.blocks)
            self.fill()

    def _reports(self) -> Iterator[tuple[int, int]]:
        """What the next streams have generated by now."""
        for _ in range(min(REPORTED, len(self.turns))):
            number, before = self.turns.popleft()
            if number in self.generated:
                more = self.generated[number] + int(TOKENS_PER_S * (self.now - before))
                self.generated[number] = min(OUTPUT_MAX - 1, more)
                self.turns.append((number, self.now))
                yield number, self.generated[number]

    def _sent(self, commands: Iterable[Command]) -> list[int]:
        sent = [command.ticket_id for command in commands if isinstance(command, Admit)]
        self.generated.update(dict.fromkeys(sent, 0))
        self.turns.extend((number, self.now) for number in sent)
        return sent

    def _resize(self, blocks: int) -> None:
        self.blocks = blocks
        pool = Capacity(blocks, KvLayout.uniform(BLOCK_TOKENS))
        look = Reading("engine", self.now, frozenset({MODEL}), "1", pool, preemptions=0, work_done=self.now)
        self.tell(BackendRead(look))


def arrivals(stage: Stage, samples: int) -> Iterator[Took]:
    """Whoever is sent stays, and another ends, untimed; whoever must wait leaves again, so that the load stays."""
    for k in range(samples):
        arrival = stage.ticket()
        each_us, sent = stage.timed(Arrived(arrival))
        yield each_us
        stage.now += TICK_S
        if arrival.id not in sent:
            stage.tell(Left(arrival.id, Outcome.CANCELLED))
        if len(stage.generated) > FULL_SHARE * stage.running:
            stage.tell(stage.end())
        stage.look(k)


def ends(stage: Stage, samples: int) -> Iterator[Took]:
    """One that runs ends, which serves who waits; another comes, untimed."""
    for k in range(samples):
        yield stage.timed(stage.end())[0]
        stage.now += TICK_S
        while len(stage.generated) < FULL_SHARE * stage.running or not k % 2:
            arrival = stage.ticket()
            if not stage.tell(Arrived(arrival)):
                stage.tell(Left(arrival.id, Outcome.CANCELLED))
                break
            if len(stage.generated) >= stage.running:
                break
        stage.look(k)


def reports(stage: Stage, samples: int) -> Iterator[Took]:
    """All streams come on by some tokens, or as many as there are in one report of 1,000."""
    for k in range(samples):
        part = list(islice(stage.generated, 1_000))
        for number in part:
            stage.generated[number] += 2
        stage.now += REPORT_S
        yield stage.timed(Progressed(tuple((number, stage.generated[number]) for number in part)))[0]
        stage.look(k)


def timers(stage: Stage, samples: int) -> Iterator[Took]:
    """Time alone passes."""
    for k in range(samples):
        stage.now += TICK_S
        now = stage.now
        yield took(lambda: (stage.admission.handle_timer(now), stage.admission.next_timer()))  # noqa: B023 - at once
        stage.look(k)


def light(running: int, samples: int) -> Iterator[Took]:
    """All that one short request costs: it comes, its stream is reported once, it ends; and the timer after each."""
    stage = Stage(running, 0, roomy=True)
    handle, next_timer = stage.admission.handle, stage.admission.next_timer
    for k in range(samples):
        stage.last_id += 1
        number, prompt = stage.last_id, LIGHT_PROMPT_TOKENS + k % 20
        demand = Demand(1, (2 * prompt,), prompt, LIGHT_OUTPUT_MAX, stage.output, prompt // 2)
        arrival = Ticket(number, MODEL, demand, stage.now + 30.0, max_tokens=LIGHT_OUTPUT_MAX, tenant="tenant")
        events = Arrived(arrival), Progressed(((number, 8),)), Left(number, Outcome.FINISHED, Usage(prompt, 64))
        wall_us = cpu_us = 0.0
        for event in events:
            stage.now += TICK_S
            now = stage.now
            each_us = took(lambda: (handle(event, now), next_timer()))  # noqa: B023 - called at once
            # In service progress is reported twenty times a second, however many requests there are.
            if not isinstance(event, Progressed):
                wall_us, cpu_us = wall_us + each_us[0], cpu_us + each_us[1]
        yield wall_us, cpu_us
        stage.look(k)


def calls(call: Callable[[], object], samples: int) -> Iterator[Took]:
    """Of something that changes nothing that would make the next call cheaper."""
    for _ in range(samples):
        yield took(call)


def same_work() -> None:
    """About what a decision is made of: small calls, small objects, look-ups."""
    known: dict[int, tuple[float, int]] = {}
    for number in range(100):
        known[number] = (float(number), max(number, len(known)))


def refresh_of(stage: Stage) -> Callable[[], None]:
    """Computes all curves of what runs anew."""
    memory = stage.admission._roster.engines["engine"].memory  # noqa: SLF001 - a part is timed, not the whole
    assert memory is not None
    outlook = memory.outlook
    return lambda: outlook.refresh(stage.now, memory.speed.known_or_slow)


def rows(running: int, waiting: int) -> Iterator[Timed]:
    """Everything at one load."""
    fewer = min(300, max(20, SAMPLES * 10 // running))
    stage = Stage(running, waiting, roomy=False)
    target = TARGET_US.get((running, waiting))
    yield Timed("Arrived, the forecast decides", running, waiting, list(arrivals(stage, SAMPLES)), target)
    yield Timed("Progressed, of at most 1,000", running, waiting, list(reports(stage, fewer)))
    yield Timed("refresh of the outlook", running, waiting, list(calls(refresh_of(stage), fewer)))
    yield Timed("snapshot", running, waiting, list(calls(stage.admission.snapshot, fewer // 2)))
    yield Timed("Left, and who waits is served", running, waiting, list(ends(stage, SAMPLES)))
    yield Timed("timer", running, waiting, list(timers(stage, SAMPLES)))
    if not waiting:
        roomy = Stage(running, 0, roomy=True)
        yield Timed("Arrived, room for all", running, 0, list(arrivals(roomy, SAMPLES)), target)


def main() -> int:
    """Print the table."""
    gc.disable()
    columns = "".join(f"{name:>9}" for name in ("least", "median", "p99", "p99.9"))
    print(f"{'microseconds of one call':<46}{'on the wall':>36}{'of the processor':>36}")
    print(f"{'':<30}{'running':>8}{'waiting':>8}{columns}{columns}{'calls':>8}")
    print(Timed("always the same", 0, 0, list(calls(same_work, SAMPLES))))
    for running in LIGHT:
        print(Timed("Arrived + Left, room for all", running, 0, list(light(running, SAMPLES)), 12.0), flush=True)
    for running in RUNNING:
        for waiting in WAITING:
            for row in rows(running, waiting):
                print(row, flush=True)
            gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
