"""Words in which the tests of admission are written: tickets, readings, and a playbook of events and commands."""

from collections.abc import Callable, Sequence

from estimator.demand import Demand
from estimator.kv_cache import KvLayout
from estimator.output_length import PRIOR_FORECAST, OutputForecast
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.events import (
    Arrived,
    BackendAdded,
    BackendBusy,
    BackendMissed,
    BackendRead,
    Event,
    Left,
    Progressed,
)
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendSnapshot
from gateway.domain import (
    UNLIMITED,
    BackendLimits,
    BackendSpec,
    Capacity,
    Outcome,
    Priority,
    Reading,
    Refusal,
    Ticket,
    Usage,
)

BLOCK = 16
POOL = 100
"""Blocks of an engine, where a test does not care."""
MODEL = "m"

NEVER_ENDING = OutputForecast.from_hazards((0.0,) * len(PRIOR_FORECAST.hazards))
"""Of answers that always run to their hard end: whatever is computed from it is exact."""


def demand(
    blocks: float = 10,
    *,
    output: int = BLOCK,
    n: int = 1,
    forecast: OutputForecast = NEVER_ENDING,
    expected: int | None = None,
) -> Demand:
    """One that grows to so many blocks in each of its `n` sequences, the last `output` tokens being its answer."""
    prompt = int(blocks * BLOCK) - output
    return Demand(n, (prompt,), prompt if expected is None else expected, output, forecast)


def ticket(
    ticket_id: int,
    blocks: float = 10,
    *,
    deadline: float = 30.0,
    output: int = BLOCK,
    n: int = 1,
    forecast: OutputForecast = NEVER_ENDING,
    bounded: bool = True,
    priority: Priority = Priority.INTERACTIVE,
    tenant: str = "",
    kv_share: float = 1.0,
    excluded: Sequence[str] = (),
    model: str = MODEL,
    streamed: bool = True,
    expected: int | None = None,
) -> Ticket:
    """A request; see `demand`. `bounded` tells whether its client set `max_tokens`."""
    return Ticket(
        ticket_id,
        model,
        demand(blocks, output=output, n=n, forecast=forecast, expected=expected),
        deadline,
        max_tokens=output if bounded else None,
        priority=priority,
        tenant=tenant,
        kv_share=kv_share,
        excluded=frozenset(excluded),
        streamed=streamed,
    )


def capacity(blocks: int = POOL, *, sequence_tokens_max: int = UNLIMITED, sequences_max: int = UNLIMITED) -> Capacity:
    """A pool of uniform blocks."""
    return Capacity(blocks, KvLayout.uniform(BLOCK), sequence_tokens_max, sequences_max)


def reading(
    asked_at: float,
    *,
    backend: str = "a",
    blocks: int | None = POOL,
    used: int | None = 0,
    running: int | None = 0,
    waiting: int | None = 0,
    generation: str = "1",
    models: Sequence[str] = (MODEL,),
    work: float | None = None,
    sequences_max: int = UNLIMITED,
    sequence_tokens_max: int = UNLIMITED,
    preemptions: int | None = 0,
) -> Reading:
    """What an engine says of itself."""
    pool = None
    if blocks is not None:
        pool = capacity(blocks, sequences_max=sequences_max, sequence_tokens_max=sequence_tokens_max)
    return Reading(
        backend,
        asked_at,
        frozenset(models),
        generation,
        pool,
        used_blocks=used,
        running=running,
        waiting=waiting,
        preemptions=preemptions,
        work_done=work,
    )


class Playbook:
    """Events in, commands out, in order and with their times: reads as the policy's specification.

    Each method hands over one event and checks what it brings about: `"1>a"` is "ticket 1 is admitted to a",
    `"2!queue_full"` is "ticket 2 is refused for that reason". No argument means that nothing happens.
    """

    def __init__(self, limits: AdmissionLimits | None = None) -> None:
        self.admission = Admission(limits or AdmissionLimits())
        self.now = 0.0
        self.refusals: dict[int, Refusal] = {}
        self.admits: dict[int, Admit] = {}

    # Setting the stage

    def engine(self, name: str = "a", blocks: int = POOL, **words: int) -> "Playbook":
        """An engine of our own that is up and idle."""
        self.admission.handle(BackendAdded(BackendSpec(name)), self.now)
        self.admission.handle(BackendRead(reading(self.now, backend=name, blocks=blocks, **words)), self.now)  # type: ignore[arg-type]
        return self

    def provider(self, name: str = "cloud", rpm: int = 0, tpm: int = 0, *, spill_only: bool = True) -> "Playbook":
        """A hosted provider that is up."""
        spec = BackendSpec(name, hosted=True, spill_only=spill_only, limits=BackendLimits(rpm, tpm))
        self.admission.handle(BackendAdded(spec), self.now)
        self.admission.handle(BackendRead(Reading(name, self.now, frozenset({MODEL}))), self.now)
        return self

    # The play

    def at(self, now: float) -> "Playbook":
        """Let time pass, without waking admission."""
        self.now = now
        return self

    def event(self, event: Event, *expected: str) -> "Playbook":
        """Any event."""
        return self._check(event, self.admission.handle(event, self.now), expected)

    def arrives(self, arrival: Ticket, *expected: str) -> "Playbook":
        """A request comes."""
        return self.event(Arrived(arrival), *expected)

    def arrives_somehow(self, arrival: Ticket) -> "Playbook":
        """A request comes; what follows is kept but not checked."""
        self._note(self.admission.handle(Arrived(arrival), self.now))
        return self

    def ends(self, ticket_id: int, *expected: str, output: int = BLOCK) -> "Playbook":
        """The engine ended it."""
        return self.event(Left(ticket_id, Outcome.FINISHED, Usage(0, output)), *expected)

    def leaves(self, ticket_id: int, *expected: str, outcome: Outcome = Outcome.CANCELLED) -> "Playbook":
        """It ended otherwise."""
        return self.event(Left(ticket_id, outcome), *expected)

    def progresses(self, ticket_id: int, tokens: int) -> "Playbook":
        """It has generated so much."""
        return self.event(Progressed(((ticket_id, tokens),)))

    def reads(self, answer: Reading, *expected: str) -> "Playbook":
        """A look at a backend brings this."""
        return self.event(BackendRead(answer), *expected)

    def misses(self, backend: str, *expected: str, reachable: bool = False, times: int = 1) -> "Playbook":
        """So many looks at it bring nothing; `expected` follows from the last."""
        for _ in range(times - 1):
            self.event(BackendMissed(backend, reachable))
        return self.event(BackendMissed(backend, reachable), *expected)

    def is_busy(self, backend: str, until: float, *expected: str) -> "Playbook":
        """It asks for a pause."""
        return self.event(BackendBusy(backend, until), *expected)

    def timer(self, *expected: str) -> "Playbook":
        """The timer goes off, when it is due: that is the time then."""
        due = self.admission.next_timer()
        assert due is not None
        assert due > self.now
        self.now = due
        return self._check("timer", self.admission.handle_timer(due), expected)

    def until(self, done: Callable[[], bool], *, timers_max: int = 1000) -> list[Command]:
        """Let timers go off until something holds; returns what they brought about."""
        commands: list[Command] = []
        for _ in range(timers_max):
            due = self.admission.next_timer()
            if done() or due is None:
                return commands
            self.now = due
            commands += self._note(self.admission.handle_timer(due))
        raise AssertionError("never done")

    def wakes(self, now: float, *expected: str) -> "Playbook":
        """The timer goes off at this time."""
        self.now = now
        return self._check("timer", self.admission.handle_timer(now), expected)

    # Looking

    def backend(self, name: str = "a") -> BackendSnapshot:
        """Its present state."""
        return next(backend for backend in self.admission.snapshot().backends if backend.name == name)

    @property
    def depth(self) -> int:
        """Requests that wait."""
        return sum(queue.depth for queue in self.admission.snapshot().queues)

    def _check(self, event: object, commands: list[Command], expected: tuple[str, ...]) -> "Playbook":
        self._note(commands)
        said = tuple(_said(command) for command in commands)
        assert said == expected, f"t={self.now}  >> {event}\n  << {said}\n  expected {expected}"
        self.admission.check()
        due = self.admission.next_timer()
        assert due is None or due > self.now
        return self

    def _note(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            if isinstance(command, Admit):
                self.admits[command.ticket_id] = command
            else:
                self.refusals[command.ticket_id] = command.refusal
        return commands


def _said(command: Command) -> str:
    match command:
        case Admit(ticket_id=ticket_id, backend=backend):
            return f"{ticket_id}>{backend}"
        case Refuse(ticket_id=ticket_id, refusal=refusal):
            return f"{ticket_id}!{refusal.reason.value}"
