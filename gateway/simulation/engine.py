"""vLLM v1's scheduler as arithmetic: who computes how many tokens in each step, and what memory that takes.

Pure: no clock, no chance. Each sequence says in advance how many tokens it will generate, so the same calls in the
same order always give the same steps. A server paces the steps in real time, a replay in virtual time.

The law of a step, as vLLM 0.32 has it with prefix caching, speculation and asynchronous scheduling off:
1. Running sequences first, in the order of their admission. Each computes what it has not yet computed, cut to what is
   left of the step's token budget (chunked prefill). One that needs a block when none is free throws out the sequence
   admitted LAST, perhaps itself; that one loses its whole KV cache and goes to the head of the queue.
2. If nobody was thrown out, sequences from the head of the queue, while budget and `sequences_max` last and while the
   WHOLE head (its prompt and what it had generated) fits the free blocks. It takes only the blocks of its first chunk.
3. Whoever has computed everything it has generates one token. Whoever has generated all gives its blocks back.

Promises: `used_blocks` is the sum over the running and never exceeds the pool; every submitted sequence finishes or is
aborted exactly once; a step with work computes at least one token.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from gateway.simulation.profiles import Profile


class State(enum.Enum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTED = "aborted"


@dataclass(slots=True, eq=False)
class Sequence:
    """One prompt and the answer it is going to get. A request with `n` choices is `n` of these."""

    prompt_tokens: int
    output_tokens: int
    """How many it will generate in the end."""
    generated: int = 0
    computed: int = 0
    """Tokens whose keys and values are in the pool."""
    blocks: int = 0
    preemptions: int = 0
    state: State = State.WAITING


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Size and limits of an engine.

    Raises:
        ValueError: if the longest sequence would not fit the pool (vLLM refuses to start then, and a lone sequence
            could never end), or if a limit is below one.
    """

    profile: Profile
    blocks: int
    """Usable blocks. vLLM reports one more, its null block."""
    block_tokens: int = 16
    sequences_max: int = 256
    step_tokens_max: int = 2048
    sequence_tokens_max: int = 4096

    def __post_init__(self) -> None:
        if min(self.blocks, self.block_tokens, self.sequences_max, self.step_tokens_max, self.sequence_tokens_max) < 1:
            raise ValueError("every limit of an engine is at least 1")
        if self.sequence_tokens_max > self.kv_tokens:
            raise ValueError(f"a sequence of {self.sequence_tokens_max} tokens exceeds the pool of {self.kv_tokens}")

    @property
    def kv_tokens(self) -> int:
        """Usable pool in tokens."""
        return self.blocks * self.block_tokens


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did. The order within each list is the order of scheduling."""

    duration_s: float
    tokens: int
    """Computed in this step, prompts and answers together."""
    used_blocks: int
    """Held while the step ran: before the finished gave theirs back."""
    emitted: list[Sequence]
    """Each of these generated exactly one token."""
    started: list[Sequence]
    """Those of them for which it was the first."""
    finished: list[Sequence]
    preempted: list[Sequence]


@dataclass(slots=True)
class _Work:
    """What a step has done so far."""

    budget: int
    """Tokens that it may still compute."""
    kv_read: int = 0
    pairs: float = 0.0
    """Of a prompt's token and an earlier one."""
    emitted: list[Sequence] = field(default_factory=list)
    started: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)


class Engine:
    """A scheduler with its KV pool. See the module for its law."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.used_blocks = 0
        self.preemptions = 0
        self.prompt_tokens = 0
        """Of sequences that reached their first token; recomputed prompts count once."""
        self.generated_tokens = 0
        self._running: list[Sequence] = []
        self._waiting: deque[Sequence] = deque()

    @property
    def running(self) -> int:
        """Sequences that hold memory."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences in the queue, thrown-out ones included."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running or self._waiting)

    def submit(self, prompt_tokens: int, output_tokens: int) -> Sequence:
        """Put a new sequence at the end of the queue.

        Raises:
            ValueError: if it is empty, or longer than the engine takes.
        """
        if prompt_tokens < 1 or output_tokens < 1:
            raise ValueError("a sequence has at least one prompt token and one output token")
        if prompt_tokens + output_tokens > self.config.sequence_tokens_max:
            raise ValueError(
                f"{prompt_tokens} + {output_tokens} tokens exceed the limit of {self.config.sequence_tokens_max}"
            )
        sequence = Sequence(prompt_tokens, output_tokens)
        self._waiting.append(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence and free its memory at once. One that has ended stays as it is."""
        if sequence.state is State.RUNNING:
            self._running.remove(sequence)
        elif sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        else:
            return
        self._release(sequence, State.ABORTED)

    def step(self) -> StepResult:
        """Run one step. The caller decides when: the next one starts `duration_s` later."""
        work = _Work(self.config.step_tokens_max)
        self._advance_running(work)
        if not work.preempted:
            self._admit_waiting(work)
        emitted, used_blocks = work.emitted, self.used_blocks
        finished = [sequence for sequence in emitted if sequence.generated == sequence.output_tokens]
        if finished:
            for sequence in finished:
                self._release(sequence, State.FINISHED)
            self._running = [sequence for sequence in self._running if sequence.state is State.RUNNING]
        self.generated_tokens += len(emitted)
        self.prompt_tokens += sum([sequence.prompt_tokens for sequence in work.started])
        tokens = self.config.step_tokens_max - work.budget
        duration_s = self.config.profile.step_s(tokens, work.kv_read, work.pairs) if tokens else 0.0
        return StepResult(duration_s, tokens, used_blocks, emitted, work.started, finished, work.preempted)

    def check(self) -> None:
        """Assert that the books balance."""
        held = sum(sequence.blocks for sequence in self._running)
        assert held == self.used_blocks <= self.config.blocks, (held, self.used_blocks, self.config.blocks)
        assert len(self._running) <= self.config.sequences_max
        assert all(sequence.state is State.RUNNING and sequence.blocks for sequence in self._running)
        assert all(sequence.state is State.WAITING and not sequence.blocks for sequence in self._waiting)

    def _advance_running(self, work: _Work) -> None:
        """Rule 1, and 3 for these.

        A sequence advances right when it is scheduled, not at the end of the step: whoever is thrown out later in
        the step stands behind it and has not been scheduled, so this gives the same result in one pass. For the same
        reason the list may lose its tail while it is gone through. A replay spends its time here.
        """
        running, block_tokens = self._running, self.config.block_tokens
        budget, kv_read = work.budget, 0
        generate = work.emitted.append
        for sequence in running:
            total = sequence.prompt_tokens + sequence.generated
            computed = sequence.computed + 1
            if not budget:
                break
            if computed != total:
                computed = min(total, sequence.computed + budget)
            if computed > sequence.blocks * block_tokens and not self._make_room(sequence, computed, work):
                break
            chunk = computed - sequence.computed
            if chunk > 1:
                work.pairs += chunk * (computed + sequence.computed) / 2
            budget -= chunk
            kv_read += computed
            sequence.computed = computed
            if computed == total:
                if not sequence.generated:
                    work.started.append(sequence)
                sequence.generated += 1
                generate(sequence)
        work.budget = budget
        work.kv_read += kv_read

    def _make_room(self, sequence: Sequence, tokens: int, work: _Work) -> bool:
        """Throw out whoever it takes for this one to hold so many tokens; False if it was thrown out itself."""
        while not self._grow(sequence, tokens):
            loser = self._running.pop()
            self._preempt(loser)
            work.preempted.append(loser)
            if loser is sequence:
                return False
        return True

    def _admit_waiting(self, work: _Work) -> None:
        """Rule 2, and 3 for these."""
        waiting, running = self._waiting, self._running
        while waiting and work.budget and len(running) < self.config.sequences_max:
            sequence = waiting[0]
            total = sequence.prompt_tokens + sequence.generated
            if self._blocks(total) > self.config.blocks - self.used_blocks:
                break
            waiting.popleft()
            running.append(sequence)
            sequence.state = State.RUNNING
            sequence.computed = min(total, work.budget)
            self._grow(sequence, sequence.computed)
            work.budget -= sequence.computed
            work.kv_read += sequence.computed
            work.pairs += sequence.computed**2 / 2
            if sequence.computed == total:
                if not sequence.generated:
                    work.started.append(sequence)
                sequence.generated += 1
                work.emitted.append(sequence)

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.config.block_tokens)

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Give the sequence the blocks that `tokens` tokens take, if so many are free."""
        more = self._blocks(tokens) - sequence.blocks
        if self.used_blocks + more > self.config.blocks:
            return False
        sequence.blocks += more
        self.used_blocks += more
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence, State.WAITING)
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.appendleft(sequence)

    def _release(self, sequence: Sequence, state: State) -> None:
        self.used_blocks -= sequence.blocks
        sequence.blocks = 0
        sequence.computed = 0
        sequence.state = state
