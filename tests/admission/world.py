"""A closed loop in virtual time: clients, admission, and the simulated engine, without a socket or a clock."""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from estimator.demand import DemandModel, End, Shape
from estimator.kv_cache import KvLayout
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command
from gateway.admission.events import Arrived, BackendAdded, BackendRead, Learned, Left, Progressed
from gateway.admission.limits import AdmissionLimits
from gateway.domain import BackendSpec, Capacity, Outcome, Reading, Refusal, Ticket, Usage
from gateway.simulation.engine import Engine, EngineConfig, Sequence, State
from gateway.simulation.profiles import Profile

STEP_S, TOKEN_S = 6.5e-3, 7.5e-4
"""A tiny model on one CPU: compute-bound, so that whatever is computed twice costs throughput."""
PROFILE = Profile("tiny", STEP_S, 0.0, TOKEN_S, 0.0, kv_tokens=1024, sequences_max=256, step_tokens_max=2048)
READ_EVERY_S = 0.5
PROGRESS_EVERY_S = 0.02


@dataclass(frozen=True)
class Request:
    """One client's wish, and what the model is going to answer."""

    arrives_at: float
    prompt_tokens: int
    output_tokens: int
    max_tokens: int


@dataclass
class Result:
    """What came of it."""

    seconds: float = 0.0
    served: int = 0
    preemptions: int = 0
    emitted: int = 0
    refusals: dict[int, tuple[float, Refusal]] = field(default_factory=dict)
    """By request: when, and the answer."""
    first_refusals: dict[int, tuple[float, Refusal]] = field(default_factory=dict)
    """Of obedient clients, which came back."""
    admitted_at: dict[int, float] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        """Answers' throughput: every token counts once, however often it was computed."""
        return self.emitted / self.seconds


class World:
    """One engine, with admission in front of it or bare."""

    def __init__(
        self,
        *,
        blocks: int,
        block_tokens: int,
        context_tokens: int,
        limits: AdmissionLimits | None,
        wait_max_s: float = 1e6,
        obedient: bool = False,
    ) -> None:
        self.engine = Engine(EngineConfig(PROFILE, blocks, block_tokens, 256, 2048, context_tokens))
        self.capacity = Capacity(blocks, KvLayout.uniform(block_tokens), context_tokens, 256)
        self.admission = Admission(limits) if limits is not None else None
        self.wait_max_s = wait_max_s
        self.obedient = obedient
        self.model = DemandModel()
        self.result = Result()
        self.now = 0.0
        self.steps = 0
        self._requests: Many[Request] = ()
        self._arrivals: list[tuple[float, int]] = []
        self._running: dict[Sequence, int] = {}
        self._forecast = self.model.output_lengths.forecast()
        self._next_read = self._next_progress = 0.0
        if self.admission is not None:
            self.admission.handle(BackendAdded(BackendSpec("engine")), 0.0)
            self._read()

    @property
    def mean_concurrency(self) -> float:
        """Tokens per step: sequences that advanced together, over the time that the engine worked."""
        return self.result.emitted / self.steps

    def run(self, requests: Many[Request]) -> Result:
        """Let them all come, and wait until each is served or refused. They must be in the order of their arrival."""
        self._requests = requests
        self._arrivals = [(request.arrives_at, number) for number, request in enumerate(requests)]
        while self.result.served + len(self.result.refusals) < len(requests):
            while self._arrivals and self._arrivals[0][0] <= self.now:
                self._arrive(heapq.heappop(self._arrivals)[1])
            if self.engine.has_work:
                self._step()
            else:
                self._idle(self._arrivals[0][0] if self._arrivals else float("inf"))
            self._wake()
        if self.admission is not None:
            self.admission.check()
        self.result.seconds = self.now
        self.result.preemptions = self.engine.preemptions
        return self.result

    def _arrive(self, number: int) -> None:
        request = self._requests[number]
        if self.admission is None:
            self._running[self.engine.submit(request.prompt_tokens, request.output_tokens)] = number
            return
        demand = self.model.estimate(_shape(request), context_tokens=self.capacity.sequence_tokens_max)
        ticket = Ticket(number, "m", demand, self.now + self.wait_max_s, max_tokens=request.max_tokens)
        self._do(self.admission.handle(Arrived(ticket), self.now))

    def _step(self) -> None:
        step = self.engine.step()
        self.now += step.duration_s
        self.steps += 1
        self.result.emitted += len(step.emitted)
        for sequence in step.finished:
            number = self._running.pop(sequence)
            self.result.served += 1
            if self.admission is not None:
                self._finish(number, sequence)

    def _finish(self, number: int, sequence: Sequence) -> None:
        assert self.admission is not None
        request = self._requests[number]
        end = End.LENGTH if sequence.generated == request.max_tokens else End.STOP
        self.model.learn(
            _shape(request), prompt_tokens=request.prompt_tokens, output_tokens=sequence.generated, end=end
        )
        forecast = self.model.output_lengths.forecast()
        if forecast is not self._forecast:
            self._forecast = forecast
            self.admission.handle(Learned("m", forecast), self.now)
        usage = Usage(request.prompt_tokens, sequence.generated)
        self._do(self.admission.handle(Left(number, Outcome.FINISHED, usage), self.now))

    def _idle(self, next_arrival: float) -> None:
        timer = self.admission.next_timer() if self.admission is not None else None
        due = min(next_arrival, self._next_read, float("inf") if timer is None else timer)
        self.now = max(self.now, due)

    def _wake(self) -> None:
        """What a gateway does beside the requests: hand progress over, wake the timer, look at the engine."""
        if self.admission is None:
            return
        if self.now >= self._next_progress:
            self._next_progress = self.now + PROGRESS_EVERY_S
            moved = tuple((number, s.generated) for s, number in self._running.items() if s.state is State.RUNNING)
            self.admission.handle(Progressed(moved), self.now)
        timer = self.admission.next_timer()
        if timer is not None and self.now >= timer:
            self._do(self.admission.handle_timer(self.now))
        if self.now >= self._next_read:
            self._read()

    def _read(self) -> None:
        assert self.admission is not None
        self._next_read = self.now + READ_EVERY_S
        engine = self.engine
        reading = Reading(
            "engine",
            self.now,
            frozenset({"m"}),
            "1",
            self.capacity,
            used_blocks=engine.used_blocks,
            running=engine.running,
            waiting=engine.waiting,
            preemptions=engine.preemptions,
            work_done=engine.generated_tokens + engine.prompt_tokens,
        )
        self._do(self.admission.handle(BackendRead(reading), self.now))

    def _do(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Admit):
                request = self._requests[command.ticket_id]
                sequence = self.engine.submit(request.prompt_tokens, request.output_tokens)
                self._running[sequence] = command.ticket_id
                self.result.admitted_at[command.ticket_id] = self.now
            else:
                self._refused(command.ticket_id, command.refusal)

    def _refused(self, number: int, refusal: Refusal) -> None:
        """Its client comes back once, when it was told to."""
        if self.obedient and number not in self.result.first_refusals and refusal.retry_after_s is not None:
            self.result.first_refusals[number] = (self.now, refusal)
            heapq.heappush(self._arrivals, (self.now + refusal.retry_after_s, number))
        else:
            self.result.refusals[number] = (self.now, refusal)


def _shape(request: Request) -> Shape:
    return Shape(0, token_prompts=(request.prompt_tokens,), max_tokens=request.max_tokens, stream=True)
