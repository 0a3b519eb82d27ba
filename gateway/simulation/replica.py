"""One engine in virtual time: what it computes now, what of that can be seen from outside, and who it works for."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.simulation.engine import Engine, EngineConfig, Sequence, StepResult
from gateway.simulation.workload import Request


@dataclass(frozen=True, slots=True)
class Gauges:
    """What a look at the engine's metrics shows. An engine writes them at the end of each step."""

    used_blocks: int = 0
    running: int = 0
    waiting: int = 0
    preemptions: int = 0
    tokens_done: int = 0


class Replica:
    """An engine whose steps take their time. A step's tokens are out when it ends, not when it is planned."""

    def __init__(self, name: str, config: EngineConfig) -> None:
        self.name = name
        self.engine = Engine(config)
        self.step: StepResult | None = None
        """Being computed now."""
        self.outstanding = 0
        """Requests sent and not answered."""
        self.steps = 0
        """That have ended."""
        self.computed_tokens = 0
        self.owners: dict[Sequence, int] = {}
        """Numbers of the requests."""
        self._gauges = Gauges()
        self._gauges_are_old = False

    def send(self, number: int, request: Request) -> Sequence:
        """Give it a request; it is looked at when the next step begins."""
        sequence = self.engine.submit(request.prompt_tokens, request.output_tokens)
        self.owners[sequence] = number
        self.outstanding += 1
        return sequence

    def begin(self) -> StepResult:
        """Plan the next step."""
        self.gauges()
        self.step = self.engine.step()
        self.computed_tokens += self.step.tokens
        return self.step

    def end(self) -> StepResult:
        """The step is over: its tokens are out."""
        assert self.step is not None
        step, self.step = self.step, None
        self.steps += 1
        self.outstanding -= len(step.finished)
        self._gauges_are_old = True
        return step

    def gauges(self) -> Gauges:
        """Its metrics as of the end of the last step."""
        if self._gauges_are_old:
            engine = self.engine
            done = engine.prompt_tokens + engine.generated_tokens
            self._gauges = Gauges(engine.used_blocks, engine.running, engine.waiting, engine.preemptions, done)
            self._gauges_are_old = False
        return self._gauges

    def unseen(self) -> frozenset[Sequence]:
        """Sequences whose last token is still being computed."""
        return frozenset(self.step.emitted) if self.step is not None else frozenset()
