"""How long an engine's steps take, learned from how fast its streams advance.

`s` steps in which `n` sequences generate, holding `k` tokens together, and `p` tokens of prompts are read, take

    s * base_s + s * n * sequence_s + s * k * kv_token_s + p * prompt_token_s

The weights are read once a step, each sequence's memory once a step, and each prompt token is computed once, in
whatever step. The four times are found by least squares that forget, none of them below zero, starting from what is
assumed of an engine that has shown nothing yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from estimator.demand import Demand

BASE_S = 0.02
SEQUENCE_S = 0.0
KV_TOKEN_S = 50e-9
PROMPT_TOKEN_S = 50e-6
"""A middling engine: what is assumed at first."""
PRIOR_WEIGHT = 0.01
"""What that counts, in samples; it also keeps the equations solvable where all samples are alike."""
KEPT = 0.995
"""Part of its weight that a sample keeps with each later one."""
SEQUENCES_UNIT, KV_UNIT, PROMPT_UNIT = 64.0, 131_072.0, 1024.0
"""Scales that keep the equations well-conditioned."""
SIZE = 4
PRIOR = (BASE_S, SEQUENCE_S * SEQUENCES_UNIT, KV_TOKEN_S * KV_UNIT, PROMPT_TOKEN_S * PROMPT_UNIT)
PROMPT_TOKEN_LEAST_S = 1e-8
SHARED_BY = 200
"""Sequences that share what a step costs whatever runs, where a request's part in it is reckoned."""


@dataclass(slots=True)
class StepTimes:
    """The learned times of one engine."""

    base_s: float = BASE_S
    sequence_s: float = SEQUENCE_S
    kv_token_s: float = KV_TOKEN_S
    prompt_token_s: float = PROMPT_TOKEN_S
    samples: int = 0
    _normal: list[list[float]] = field(default_factory=lambda: [[0.0] * SIZE for _ in range(SIZE)])
    _right: list[float] = field(default_factory=lambda: [0.0] * SIZE)

    def step_s(self, sequences: int, kv_tokens: float) -> float:
        """Seconds of a step in which so many sequences generate, holding so many tokens together."""
        return self.base_s + self.sequence_s * sequences + self.kv_token_s * kv_tokens

    def request_s(self, demand: Demand, unread_tokens: int, steps: float) -> float:
        """Seconds that a request takes: to read so much of its prompt, and its part of each of so many steps."""
        held = demand.n * demand.prompt_tokens + demand.sequences * steps / 2
        per_step = demand.sequences * (self.prompt_token_s + self.base_s / SHARED_BY) + held * self.kv_token_s
        return unread_tokens * self.prompt_token_s + steps * per_step

    def learn(self, seconds: float, steps: float, sequences: float, kv_tokens: float, prompt_tokens: float) -> None:
        """Take in one sample.

        Args:
            seconds: that it spans.
            steps: in it.
            sequences: that generated in each step, as a mean.
            kv_tokens: that they held together, as a mean.
            prompt_tokens: of the prompts that were read in it.
        """
        features = (
            steps,
            steps * sequences / SEQUENCES_UNIT,
            steps * kv_tokens / KV_UNIT,
            prompt_tokens / PROMPT_UNIT,
        )
        for i, feature in enumerate(features):
            row = self._normal[i]
            for j, other in enumerate(features):
                row[j] = KEPT * row[j] + feature * other
            self._right[i] = KEPT * self._right[i] + feature * seconds
        self.samples += 1
        base, sequence, kv, prompt = self._solved()
        self.base_s, self.sequence_s, self.kv_token_s = base, sequence / SEQUENCES_UNIT, kv / KV_UNIT
        self.prompt_token_s = max(PROMPT_TOKEN_LEAST_S, prompt / PROMPT_UNIT)

    def _solved(self) -> list[float]:
        """The coefficients, none below zero: one that would be is left out, the lowest first."""
        kept = list(range(SIZE))
        while True:
            matrix = [[self._normal[i][j] + PRIOR_WEIGHT * (i == j) for j in kept] for i in kept]
            solved = _solve(matrix, [self._right[i] + PRIOR_WEIGHT * PRIOR[i] for i in kept])
            if min(solved) >= 0.0:
                break
            kept.pop(solved.index(min(solved)))
        result = [0.0] * SIZE
        for index, value in zip(kept, solved, strict=True):
            result[index] = value
        return result


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gaussian elimination; the matrix is symmetric and, for the prior in it, positive definite."""
    size = len(right)
    for i in range(size):
        for j in range(i + 1, size):
            factor = matrix[j][i] / matrix[i][i]
            for k in range(i, size):
                matrix[j][k] -= factor * matrix[i][k]
            right[j] -= factor * right[i]
    for i in reversed(range(size)):
        for k in range(i + 1, size):
            right[i] -= matrix[i][k] * right[k]
        right[i] /= matrix[i][i]
    return right
