"""What an engine can do at most: its throughput when there is always more work, and memory is never overcommitted."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence as Many
from itertools import cycle

from gateway.simulation.engine import Engine, EngineConfig, Sequence
from gateway.simulation.workload import Request

SAMPLE_REQUESTS = 2000
"""An even sample of a long trace tells as much as all of it."""
ROUNDS = 2
"""So often everybody in the engine has changed before the clock starts, and again before it stops: those who started
together have spread by then."""


def saturated_requests_per_s(config: EngineConfig, requests: Many[Request]) -> float:
    """Requests per second of one engine that never lacks work and is given, in the order of arrival, whoever fits.

    Whoever decides knows every answer's length, so hardly anything is computed twice. This is what a load of 1 means.
    """
    count = min(len(requests), SAMPLE_REQUESTS)
    coming = cycle([requests[number * len(requests) // count] for number in range(count)])
    engine, holdings = Engine(config), _Holdings(config)
    head = next(coming)
    finished = warm_finished = most_at_once = 0
    now_s = warm_s = 0.0
    while finished < warm_finished + max(count, ROUNDS * most_at_once):
        backlog = 0
        while backlog < config.step_tokens_max and len(holdings) < config.sequences_max and holdings.take(head):
            holdings.add(engine.submit(head.prompt_tokens, head.output_tokens))
            backlog += head.prompt_tokens
            head = next(coming)
        most_at_once = max(most_at_once, len(holdings))
        step = engine.step()
        holdings.pass_step(step.finished)
        now_s += step.duration_s
        finished += len(step.finished)
        if warm_finished < ROUNDS * most_at_once:
            warm_s, warm_finished = now_s, finished
    return (finished - warm_finished) / (now_s - warm_s)


class _Holdings:
    """What each sequence will hold at every step to come, by its known length. All advance by a token per step."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._now = 0
        """In steps."""
        self._ends: list[tuple[int, int]] = []
        """Sorted: the last step of each, and what it holds then less that step's number."""
        self._of: dict[Sequence, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def take(self, request: Request) -> bool:
        """Whether at no step to come more would be held than there is. The total is largest when one of them ends."""
        end, offset = self._entry(request.prompt_tokens, request.output_tokens)
        pool = self._config.kv_tokens
        total, count, is_in = 0, 0, False
        for other_end, other_offset in reversed(self._ends):
            if not is_in and other_end <= end:
                total, count, is_in = total + offset, count + 1, True
                if total + count * end > pool:
                    return False
            total += other_offset
            count += 1
            if total + count * other_end > pool:
                return False
        return is_in or total + offset + (count + 1) * end <= pool

    def add(self, sequence: Sequence) -> None:
        """It starts now."""
        entry = self._of[sequence] = self._entry(sequence.prompt_tokens, sequence.output_tokens)
        insort(self._ends, entry)

    def pass_step(self, finished: Many[Sequence]) -> None:
        """A step has passed, and these are through."""
        self._now += 1
        for sequence in finished:
            del self._ends[bisect_left(self._ends, self._of.pop(sequence))]

    def _entry(self, prompt_tokens: int, output_tokens: int) -> tuple[int, int]:
        # The first token comes with the last part of the prompt; the last token is never fed back.
        end = self._now + -(-prompt_tokens // self._config.step_tokens_max) + output_tokens - 2
        half_block = self._config.block_tokens // 2
        return end, prompt_tokens + output_tokens - 1 + half_block - end
