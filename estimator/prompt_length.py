"""How many tokens a prompt is: learnt per model from the `usage` that the engine returns.

Expected value and bound are kept apart.

A prompt is priced as `a * bytes + b * messages + c * prompts + d * images`. The four rates are a ridge regression with
forgetting: kept are only its normal equations, to which each answered request adds one row, scaled to relative error.
The bound is the expected value plus `BOUND_SDS` times the running relative error.

Where it starts: 3.5 bytes of prompt per token expected, 2 as the bound. English prose runs at 4 to 4.5 bytes a token,
code at 3 to 3.5; Chinese, Japanese and Korean at about one token per character, which is 3 bytes raw in JSON and 6 as
an escape. Digits one by one, base64 and emoji come near 2. One token per byte is possible, but only on purpose; a
client who does that is found out by the engine's first `usage`, and until then by telemetry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BOUND_SDS = 2.5
"""Standard deviations between expected value and bound: 99.4 % of normal errors; heavier tails widen the deviation."""
HALF_LIFE = 500
"""Answers after which an old one counts half: what a service's prompts look like changes within hours."""
_BYTES, _MESSAGES, _PROMPTS, _IMAGES = range(4)
_PRIOR_RATES = (1 / 3.5, 6.0, 16.0, 1200.0)
"""Tokens per byte of text, per message and per prompt (template), per image. An image is 250 to 3,000 tokens in models
of 2025 and 2026; the bound of the first is 2,100."""
_PRIOR_SD = 0.3
_PRIOR_ROWS = 8.0
"""Answers that the prior counts as."""
_PRIOR_ROWS_LEFT = 0.1
"""What is left of them in the end. Without it, requests that are all alike would make the equations singular."""
_TYPICAL = (2000.0, 4.0, 1.0, 1.0)
"""Size of each term in the requests that the prior stands for."""
_ERROR_MAX = 1.0
"""One answer counts as at most 100 % off: a single odd one must not double every bound."""
_MEMORY_MAX = HALF_LIFE / math.log(2)
_GROWTH = 1 / (1 - 1 / _MEMORY_MAX)
_ERROR_MEMORY_MAX = 128.0
"""Answers that the error is a mean over: fewer, so that a change widens the bound before the rates follow."""
_ERROR_KEEP = 1 - 1 / _ERROR_MEMORY_MAX
_TYPICAL_TOKENS = sum(rate * size for rate, size in zip(_PRIOR_RATES, _TYPICAL, strict=True))
_PRIOR_WEIGHTS = tuple((size / _TYPICAL_TOKENS) ** 2 for size in _TYPICAL)
_RIDGE = tuple(_PRIOR_ROWS_LEFT * weight / _MEMORY_MAX for weight in _PRIOR_WEIGHTS)
"""Added with each answer, so that what is forgotten of the prior comes back up to so many rows."""
_RATES_MIN = (0.02, 0.0, 0.0, 0.0)
"""Tokens per byte never fall below one in 50."""
_RATE_MAX = 1e9
"""More tokens per byte, message, prompt or image were never learnt."""
_REFRESH_MAX = 16

Terms = tuple[int, int, int, int]
"""Bytes of text, messages, prompts, images."""


@dataclass(frozen=True, slots=True)
class PromptEvidence:
    """What was learnt of a model's prompts, to be saved."""

    gram: tuple[tuple[float, ...], ...]
    moment: tuple[float, ...]
    rows: float
    error_square_sum: float
    learnt: int


class PromptLengths:
    """Learns the rates of one model. Learning costs O(1), a new set of rates the solution of four equations."""

    __slots__ = (
        *("_bound_factor", "_error_square_sum", "_gram", "_learnt", "_moment", "_new", "_rates", "_refresh_in"),
        *("_ridges", "_rows", "_unseen", "_weight"),
    )

    def __init__(self) -> None:
        self._gram = [[0.0] * 4 for _ in range(4)]
        self._moment = [0.0] * 4
        for i, (rate, weight) in enumerate(zip(_PRIOR_RATES, _PRIOR_WEIGHTS, strict=True)):
            self._gram[i][i] = _PRIOR_ROWS * weight
            self._moment[i] = _PRIOR_ROWS * weight * rate
        self._weight = 1.0
        """Of the newest row in both: rows weigh more and more, until `_settle` makes all lighter at once."""
        self._ridges = 0.0
        """So many ridges are still to be added."""
        self._rows = _PRIOR_ROWS
        self._error_square_sum = _PRIOR_ROWS * _PRIOR_SD**2
        self._rates: tuple[float, ...] = _PRIOR_RATES
        self._bound_factor = 1 + BOUND_SDS * _PRIOR_SD
        self._learnt = 0
        self._unseen = 0
        self._new: list[tuple[Terms, int]] = []
        """Answered, and not in the equations yet. Many in a row cost a fraction of what each does amid all else of its
        request, and until new rates are due nobody sees a difference."""
        self._refresh_in = 1
        """With fewer new ones they are not."""

    @property
    def relative_error(self) -> float:
        """Running standard deviation of true over expected length."""
        return (self._bound_factor - 1) / BOUND_SDS

    @property
    def tokens_per_byte(self) -> float:
        """The rate of plain text."""
        return self._rates[_BYTES]

    def expected(self, terms: Terms) -> float:
        """Tokens of such prompts together, on average."""
        rates = self._rates
        return rates[0] * terms[0] + rates[1] * terms[1] + rates[2] * terms[2] + rates[3] * terms[3]

    def bound(self, expected: float) -> int:
        """A number of tokens that prompts of this expected length rarely exceed; at least 1."""
        return math.ceil(expected * self._bound_factor) or 1

    def learn(self, terms: Terms, prompt_tokens: int) -> None:
        """One request was answered: what it consisted of, and the tokens its engine counted."""
        self._new.append((terms, prompt_tokens))
        if len(self._new) >= self._refresh_in:
            self._take_in()

    def evidence(self) -> PromptEvidence:
        """What is remembered, to be saved."""
        self._take_in()
        self._settle()
        gram = tuple(tuple(row) for row in self._gram)
        return PromptEvidence(gram, tuple(self._moment), self._rows, self._error_square_sum, self._learnt)

    @classmethod
    def restored(cls, evidence: PromptEvidence) -> PromptLengths:
        """Go on from what was saved.

        Raises:
            ValueError: it cannot have been learnt.
        """
        lengths = cls()
        lengths._gram = [list(row) for row in evidence.gram]
        lengths._moment = list(evidence.moment)
        if [len(lengths._moment), *map(len, lengths._gram)] != [4] * 5:
            raise ValueError("not four terms")
        numbers = (*lengths._moment, *(cell for row in lengths._gram for cell in row))
        if not all(0 <= number < math.inf for number in numbers) or evidence.learnt < 0:
            raise ValueError("sums that cannot be")
        if not 0 <= evidence.error_square_sum <= evidence.rows * _ERROR_MAX**2 < math.inf or evidence.rows < 1:
            raise ValueError("errors that cannot be")
        lengths._rows, lengths._error_square_sum = evidence.rows, evidence.error_square_sum
        lengths._learnt = evidence.learnt
        try:
            lengths._refresh()
        except ZeroDivisionError:
            raise ValueError("equations without a solution") from None
        if not all(least <= rate < _RATE_MAX for least, rate in zip(_RATES_MIN, lengths._rates, strict=True)):
            raise ValueError("rates that cannot be")
        return lengths

    def _take_in(self) -> None:
        """Add the rows of the new ones to the equations."""
        new, self._new = self._new, []
        for terms, prompt_tokens in new:
            expected = self.expected(terms)
            if prompt_tokens < 1 or expected <= 0:
                continue
            error = min(prompt_tokens / expected - 1, _ERROR_MAX)
            self._rows = self._rows * _ERROR_KEEP + 1
            self._error_square_sum = self._error_square_sum * _ERROR_KEEP + error * error
            self._weight *= _GROWTH
            self._ridges += self._weight
            scale = self._weight / (expected * expected)
            first, second, third, fourth = terms
            for i, term in enumerate(terms):
                if term:
                    row, scaled = self._gram[i], scale * term
                    row[0] += scaled * first
                    row[1] += scaled * second
                    row[2] += scaled * third
                    row[3] += scaled * fourth
                    self._moment[i] += scaled * prompt_tokens
            self._learnt += 1
            self._unseen += 1
            if self._due_in() <= 0:
                self._refresh()
        self._refresh_in = self._due_in()

    def _due_in(self) -> int:
        """New rates are due after no fewer answers."""
        return min(_REFRESH_MAX, 1 + self._learnt // 8) - self._unseen

    def _settle(self) -> None:
        """Bring the newest row's weight back to 1."""
        keep, ridges = 1 / self._weight, self._ridges / self._weight
        for i, row in enumerate(self._gram):
            row[:] = [cell * keep for cell in row]
            row[i] += ridges * _RIDGE[i]
            self._moment[i] = self._moment[i] * keep + ridges * _RIDGE[i] * _PRIOR_RATES[i]
        self._weight, self._ridges = 1.0, 0.0

    def _refresh(self) -> None:
        self._settle()
        self._unseen = 0
        self._bound_factor = 1 + BOUND_SDS * math.sqrt(self._error_square_sum / self._rows)
        self._rates = _solve_above(self._gram, self._moment, _RATES_MIN)


def _solve_above(matrix: list[list[float]], right: list[float], least: tuple[float, ...]) -> tuple[float, ...]:
    """Solve with no unknown below its least value: those that would be are held there, the rest is solved for again."""
    free = list(range(len(right)))
    while True:
        held = [i for i in range(len(right)) if i not in free]
        rest = [right[i] - sum(matrix[i][j] * least[j] for j in held) for i in free]
        solved = dict(zip(free, _solve([[matrix[i][j] for j in free] for i in free], rest), strict=True))
        if all(value >= least[i] for i, value in solved.items()):
            return tuple(solved.get(i, least[i]) for i in range(len(right)))
        free = [i for i in free if solved[i] >= least[i]]


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a symmetric positive definite system; a term never seen keeps its prior through the ridge."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(size):
        for below in rows[i + 1 :]:
            factor = below[i] / rows[i][i]
            for j in range(i, size + 1):
                below[j] -= factor * rows[i][j]
    solution = [0.0] * size
    for i in range(size - 1, -1, -1):
        known = sum(rows[i][j] * solution[j] for j in range(i + 1, size))
        solution[i] = (rows[i][size] - known) / rows[i][i]
    return solution
