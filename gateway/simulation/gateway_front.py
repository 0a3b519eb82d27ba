"""KVGate itself before simulated engines: the admission and pricing of the running gateway, fed in virtual time."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass, field, replace

from estimator.demand import Demand, End, Shape
from estimator.kv_cache import KvLayout
from estimator.output_length import ENDLESS, OutputForecast
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command
from gateway.admission.events import Arrived, BackendAdded, BackendRead, Event, Learned, Left, Progressed
from gateway.admission.limits import AdmissionLimits
from gateway.domain import BackendSpec, Capacity, Outcome, Reading, Ticket, Usage
from gateway.pricing import Answer, Pricing
from gateway.simulation.chance import log_normal
from gateway.simulation.engine import EngineConfig, Sequence
from gateway.simulation.record import Record
from gateway.simulation.replica import Replica
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request

MODEL = "model"
BYTES_PER_TOKEN = 4.0
"""Of prompt text, where the gateway has to guess a prompt's tokens from it."""
REFRESH_EVERY_S = 1.0
"""Pace at which running answers are counted in, as in the running gateway."""
_PROMPT_DRAW = 3


@dataclass(frozen=True, slots=True)
class GatewaySetting:
    """How a gateway is set up in a replay."""

    slo: Slo
    limits: AdmissionLimits = field(default_factory=AdmissionLimits)
    knows_lengths: bool = False
    """It is told how long each answer will be (the oracle)."""
    prompt_error: float | None = None
    """Spread of the logarithm of text bytes per token, which the gateway then goes by; None: it counts tokens."""
    read_every_s: float = 0.5
    progress_every_s: float = 0.02
    kv_share: float = 1.0
    """Part of a pool that one tenant may hold while others want room."""
    seed: int = 0
    phase: float = 0.0
    """Part of an interval by which its looks are later than those of another gateway."""


@dataclass(slots=True)
class _Stream:
    """A request under way, as the gateway sees it."""

    sequence: Sequence
    output_tokens: int = 0
    """As reported."""


class GatewayFront:
    """Turns what happens into admission's events, and its commands into what is sent."""

    def __init__(
        self, setting: GatewaySetting, replicas: Many[Replica], requests: Many[Request], record: Record
    ) -> None:
        self.admission = Admission(setting.limits)
        self.queued = 0
        self._setting = setting
        self._replicas = replicas
        self._index = {replica.name: index for index, replica in enumerate(replicas)}
        self._requests = requests
        self._record = record
        self._pricing = Pricing(self._learned)
        self._capacity = _capacity(replicas[0].engine.config)
        self._streams: list[dict[int, _Stream]] = [{} for _ in replicas]
        self._replica_of: dict[int, int] = {}
        self._reported_steps = [0] * len(replicas)
        self._answers: dict[int, Answer] = {}
        self._now = 0.0
        self._next_read_s = 0.0
        self._next_refresh_s = REFRESH_EVERY_S
        self._next_progress_s = math.inf
        for replica in replicas:
            self._tell(BackendAdded(BackendSpec(replica.name)))
        self._read()
        self._next_read_s += setting.phase * setting.read_every_s

    def arrived(self, number: int, now: float) -> None:
        """Price it and ask for a place."""
        self._now = now
        request, slo = self._requests[number], self._setting.slo
        demand = self._demand(number)
        first_token_by = now + slo.first_token_within_s(demand.prompt_tokens)
        ticket = Ticket(
            number,
            MODEL,
            demand,
            deadline=first_token_by,
            first_token_by=first_token_by,
            token_interval_max_s=slo.tpot_s,
            max_tokens=request.output_tokens if self._setting.knows_lengths else request.max_tokens,
            runs_to_max=self._setting.knows_lengths,
            priority=request.priority,
            tenant=request.tenant,
            kv_share=self._setting.kv_share,
        )
        self.queued += 1
        self._tell(Arrived(ticket))

    def finished(self, number: int, now: float) -> None:
        """Give its place back, and learn from it."""
        self._now = now
        request = self._requests[number]
        del self._streams[self._replica_of.pop(number)][number]
        usage = Usage(request.prompt_tokens, request.output_tokens)
        self._tell(Left(number, Outcome.FINISHED, usage))
        end = End.LENGTH if request.output_tokens == request.max_tokens else End.STOP
        self._pricing.learn(self._answers.pop(number), usage, end, events=request.output_tokens)

    def next_wake(self) -> float:
        """Admission's timer, the next report of progress, or the next look at the engines."""
        timer = self.admission.next_timer()
        due = min(self._next_read_s, self._next_progress_s, self._next_refresh_s)
        return due if timer is None else min(due, timer)

    def wake(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        if now >= self._next_progress_s:
            self._report_progress()
        if now >= self._next_read_s:
            self._read()
        if now >= self._next_refresh_s:
            self._next_refresh_s = now + REFRESH_EVERY_S
            self._pricing.refresh(now)
        timer = self.admission.next_timer()
        if timer is not None and now >= timer:
            self._do(self.admission.handle_timer(now))

    def _tell(self, event: Event) -> None:
        self._do(self.admission.handle(event, self._now))

    def _do(self, commands: Many[Command]) -> None:
        for command in commands:
            number = command.ticket_id
            self.queued -= 1
            self._record.decisions += 1
            if isinstance(command, Admit):
                self._send(number, self._index[command.backend])
            else:
                self._record.refuse(number, self._now)

    def _send(self, number: int, replica: int) -> None:
        sequence = self._replicas[replica].send(number, self._requests[number])
        stream = self._streams[replica][number] = _Stream(sequence)
        self._replica_of[number] = replica
        known = self._setting.knows_lengths
        self._answers[number] = self._pricing.follow(MODEL, self._shape(number), stream, runs_to_max=known)
        if self._next_progress_s == math.inf:
            self._next_progress_s = self._now + self._setting.progress_every_s

    def _learned(self, model: str, output: OutputForecast) -> None:
        self._tell(Learned(model, output))

    def _report_progress(self) -> None:
        """Hand over which streams have moved."""
        moved: list[tuple[int, int]] = []
        for index, replica in enumerate(self._replicas):
            if replica.steps != self._reported_steps[index]:
                self._reported_steps[index] = replica.steps
                streams, unseen = self._streams[index], replica.unseen()
                here = [
                    (number, tokens)
                    for number, stream in streams.items()
                    if (tokens := stream.sequence.generated - (stream.sequence in unseen)) != stream.output_tokens
                ]
                for number, tokens in here:
                    streams[number].output_tokens = tokens
                moved += here
        self._next_progress_s = self._now + self._setting.progress_every_s if self._replica_of else math.inf
        if moved:
            self._tell(Progressed(tuple(moved)))

    def _read(self) -> None:
        """Look at every engine."""
        self._next_read_s = self._now + self._setting.read_every_s
        for replica in self._replicas:
            gauges = replica.gauges()
            reading = Reading(
                replica.name,
                self._now,
                frozenset({MODEL}),
                "1",
                self._capacity,
                used_blocks=gauges.used_blocks,
                running=gauges.running,
                waiting=gauges.waiting,
                preemptions=gauges.preemptions,
                work_done=gauges.tokens_done,
            )
            self._tell(BackendRead(reading))

    def _shape(self, number: int) -> Shape:
        request, error = self._requests[number], self._setting.prompt_error
        if error is None:
            return Shape(0, token_prompts=(request.prompt_tokens,), max_tokens=request.max_tokens, stream=True)
        bytes_per_token = BYTES_PER_TOKEN * log_normal(error, self._setting.seed, _PROMPT_DRAW, number)
        text_bytes = max(1, round(request.prompt_tokens * bytes_per_token))
        return Shape(text_bytes, messages=1, max_tokens=request.max_tokens, stream=True)

    def _demand(self, number: int) -> Demand:
        context = self._capacity.sequence_tokens_max
        demand = self._pricing.demand(MODEL, self._shape(number), context_tokens=context, runs_to_max=False)
        if not self._setting.knows_lengths:
            return demand
        # Never ends before its limit, and its limit is its true length.
        return replace(demand, output=ENDLESS, output_tokens_max=self._requests[number].output_tokens)


def _capacity(config: EngineConfig) -> Capacity:
    layout = KvLayout.uniform(config.block_tokens)
    return Capacity(config.blocks, layout, config.sequence_tokens_max, config.sequences_max)
