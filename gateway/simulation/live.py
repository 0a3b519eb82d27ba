"""The engine in real time: one task steps it, requests watch their answers grow."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence as Many
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from gateway.simulation.answers import Choice
from gateway.simulation.engine import Engine, Sequence, StepResult


class EngineDeadError(Exception):
    """The engine behind the HTTP server is gone; nothing more will come."""


class Histogram:
    """Counts of values by upper bound, as Prometheus has them."""

    def __init__(self, bounds: Many[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Ended:
    """Totals over the sequences that ended by themselves. Aborted ones count nowhere, as in vLLM."""

    by_reason: Counter[str] = field(default_factory=Counter)
    prompt_tokens: Histogram = field(default_factory=lambda: Histogram(_token_bounds()))
    output_tokens: Histogram = field(default_factory=lambda: Histogram(_token_bounds()))
    preemptions: Histogram = field(default_factory=lambda: Histogram((1, 2, 3, 4, 5, 10, 20)))


class Generation:
    """The answers to one request while they grow."""

    def __init__(self, choices: Many[Choice]) -> None:
        self.choices = choices
        self.generated = [0] * len(choices)
        """Tokens that are there to be sent, per choice."""
        self._unfinished = len(choices)
        self._dead = False
        self._changed = asyncio.Event()

    @property
    def is_done(self) -> bool:
        """Whether every choice is complete."""
        return not self._unfinished

    async def progress(self) -> None:
        """Wait until there is more than at the last call.

        Raises:
            EngineDeadError: if there will be no more.
        """
        await self._changed.wait()
        self._changed.clear()
        if self._dead and not self.is_done:
            raise EngineDeadError

    def grow(self, index: int) -> None:
        """One more token of a choice."""
        self.generated[index] += 1
        self._unfinished -= self.generated[index] == self.choices[index].output_tokens
        self._changed.set()

    def die(self) -> None:
        """No more tokens will come."""
        self._dead = True
        self._changed.set()


class LiveEngine:
    """Steps an engine as time passes and hands its tokens to the requests."""

    def __init__(self, engine: Engine, *, speed: float = 1.0) -> None:
        self.engine = engine
        self.ended = Ended()
        self.ignores_aborts = False
        """Fault: sequences of clients that left run on to their end."""
        self.is_dead = False
        self._speed = speed
        self._owners: dict[Sequence, tuple[Generation, int]] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def busy(self) -> None:
        """Wait until there is work."""
        await self._work.wait()

    async def idle(self) -> None:
        """Wait until nothing runs, waits or holds memory."""
        await self._idle.wait()

    @contextmanager
    def generation(self, choices: Many[Choice]) -> Iterator[Generation]:
        """Run choices for as long as the block lasts: leaving it early aborts what is unfinished.

        Raises:
            EngineDeadError: if the engine is dead.
        """
        if self.is_dead:
            raise EngineDeadError
        generation = Generation(choices)
        sequences = [self.engine.submit(choice.prompt_tokens, choice.output_tokens) for choice in choices]
        self._owners.update((sequence, (generation, index)) for index, sequence in enumerate(sequences))
        self._idle.clear()
        self._work.set()
        try:
            yield generation
        finally:
            for sequence in sequences:
                if self._owners.pop(sequence, None) and not self.ignores_aborts:
                    self.engine.abort(sequence)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Step for as long as the block lasts; afterwards the engine is dead."""
        # Not a TaskGroup: it would wrap whatever the block raises in an exception group.
        stepping = asyncio.get_running_loop().create_task(self._run(), name="simulated engine")
        try:
            yield
        finally:
            stepping.cancel()
            await asyncio.wait([stepping])
            if not stepping.cancelled():
                stepping.result()

    def die(self) -> None:
        """Stop for good: whoever waits for tokens gets an error."""
        self.is_dead = True
        for generation, _ in self._owners.values():
            generation.die()

    async def _run(self) -> None:
        """Step while there is work, sleep while there is none; ends only by cancellation."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                if not self.engine.has_work:
                    self._work.clear()
                    self._idle.set()
                    await self._work.wait()
                    due = loop.time()
                result = self.engine.step()
                # A step that ended late moves all later ones: an engine does not make up for lost time.
                due = max(due + result.duration_s / self._speed, loop.time())
                await asyncio.sleep(due - loop.time())
                self._deliver(result)
        finally:
            self.die()

    def _deliver(self, result: StepResult) -> None:
        for sequence in result.emitted:
            if owner := self._owners.get(sequence):
                generation, index = owner
                generation.grow(index)
        for sequence in result.finished:
            if owner := self._owners.pop(sequence, None):
                generation, index = owner
                self.ended.by_reason[generation.choices[index].finish_reason] += 1
                self.ended.prompt_tokens.observe(sequence.prompt_tokens)
                self.ended.output_tokens.observe(sequence.generated)
                self.ended.preemptions.observe(sequence.preemptions)


def _token_bounds() -> list[float]:
    return [digit * 10.0**power for power in range(6) for digit in (1, 2, 5)]
