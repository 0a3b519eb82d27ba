"""The pace at which an engine may be given work: as fast as keeps first tokens and the ones between them in time.

Three guards. Nothing is sent while it would make steps longer than a token of those who run may take. Prompts are sent
no faster than the engine can read them in the time that its steps leave; what is not sent yet can still be overtaken
by something shorter. And nothing is sent whose first token would come too late. All three are learned: what a step
takes, how often tokens were too slow all the same, and by how much first tokens came later than predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gateway.admission.steps import StepTimes

STEP_TOKENS = 4096
"""Prompt tokens that an engine reads in one step at most: engines do not tell, this lies between vLLM's defaults."""
INTERVAL_SHARE = 0.8
"""Part of the time that a token may take which predicted steps may fill: prompts between them take the rest."""
SLOW_SHARE = 0.01
"""Part of all answers that may be slower per token than wanted."""
SLOW_GAIN = 0.01
TIGHTNESS_LEAST, TIGHTNESS_MOST = 0.7, 1.1
ANSWER_TOKENS_LEAST = 8
"""The pace of a shorter answer says more about when its tokens were seen."""
READING_SHARE_LEAST = 0.02
"""Part of an engine's time that prompts get however slow its steps are."""
BURST_S = 0.1
"""So far ahead may prompts be sent."""
LATE_SHARE = 0.2
"""Part of first tokens that may come later than predicted."""
LATE_GAIN = 0.02
EARLIEST_SHARE, LATEST_SHARE = -0.2, 0.5
"""Bounds of what is added to predictions, as parts of the time that a first token may take."""
READ_SHARE_MOST = 0.95
"""A prompt that has not brought its first token is not taken to be read further than this."""
SAMPLE_STEPS = 8
"""Steps that a sample spans if no prompt ends it: a shorter one says more about when somebody looked."""
SAMPLES_LEAST = 4
"""So many say how fast an engine is."""
SAMPLE_MAX_S = 5.0
"""A sample that spans more has a pause in it."""


@dataclass(slots=True)
class Prompt:
    """A prompt that was sent and has not brought its first token."""

    tokens: int
    sent_at: float
    expected_at: float
    limit_s: float
    """Time that its first token may take; infinite if nobody cares."""
    silent: bool
    """Its first token will not be seen."""


@dataclass(slots=True)
class Pace:
    """What is known of one engine's pace."""

    times: StepTimes = field(default_factory=StepTimes)
    reading: dict[int, Prompt] = field(default_factory=dict)
    """By ticket, in the order of sending."""
    reading_tokens: int = 0
    tightness: float = 1.0
    """Factor on the time that a token may take: below 1 after answers that were slower all the same."""
    late_share: float = 0.0
    """Part of the time that a first token may take: added to what is predicted, so that few come later than that."""
    burst_s: float = BURST_S
    """What may be sent at once, in seconds of reading; used up by what is sent."""
    burst_at: float = -math.inf
    last_first_at: float = -math.inf
    _since: float = -math.inf
    _steps: float = 0.0
    _weighted: tuple[float, float] = (0.0, 0.0)
    """Steps times sequences, and times tokens held, since the sample began."""
    _unseen_tokens: int = 0
    """Of prompts that were read since then without their first tokens being seen."""

    # What happens

    def sent(self, ticket_id: int, reading: Prompt, spare: float) -> None:
        """A prompt was sent; `spare` is the part of the engine's time that prompts may take."""
        left_s = self._burst_s(reading.sent_at, spare)
        self.burst_s, self.burst_at = left_s - reading.tokens * self.times.prompt_token_s, reading.sent_at
        self.reading[ticket_id] = reading
        self.reading_tokens += reading.tokens

    def woken(self, now: float) -> None:
        """The engine had nothing to do until now: no sample spans that."""
        self._restart(now)

    def gone(self, ticket_id: int, *, finished: bool = False) -> None:
        """A request ended, perhaps before its first token was seen; if its engine finished it, its prompt was read."""
        reading = self._read(ticket_id)
        if reading is not None and finished:
            self._unseen_tokens += reading.tokens

    def first_token(self, ticket_id: int, now: float) -> int:
        """A first token was seen; returns the tokens of its prompt."""
        reading = self._read(ticket_id)
        if reading is None:
            return 0
        self.last_first_at = now
        # One that was too late when it was sent (an idle engine is given it all the same) tells nothing.
        if 0.0 < reading.limit_s < math.inf:
            late = now > reading.expected_at
            moved = self.late_share + LATE_GAIN * (late - LATE_SHARE)
            self.late_share = min(max(moved, EARLIEST_SHARE), LATEST_SHARE)
        return reading.tokens

    def advanced(self, now: float, steps: float, sequences: int, kv_tokens: float, prompt_tokens: int) -> None:
        """Streams have come on by so many steps since the last time, and so much of prompts was read.

        Args:
            now: monotonic seconds.
            steps: tokens that each sequence has generated.
            sequences: that run.
            kv_tokens: that they hold.
            prompt_tokens: of those whose first tokens were seen.
        """
        self._forget_silent(now)
        if not sequences:
            self._restart(now)
            return
        prompt_tokens += self._unseen_tokens
        self._unseen_tokens = 0
        self._steps += steps
        self._weighted = self._weighted[0] + steps * sequences, self._weighted[1] + steps * kv_tokens
        enough = prompt_tokens or (not self.reading and self._steps >= SAMPLE_STEPS)
        seconds = now - self._since
        if enough and seconds <= SAMPLE_MAX_S:
            some = max(self._steps, 1e-9)
            n, kv = self._weighted
            # A prompt of a few tokens takes a step like any other, whoever else has come on in it or not.
            steps = max(self._steps, 1.0) if prompt_tokens else self._steps
            self.times.learn(seconds, steps, n / some, kv / some, prompt_tokens)
        if enough or seconds > SAMPLE_MAX_S:
            self._restart(now)

    def answered(self, interval_s: float, limit_s: float, tokens: int) -> None:
        """An answer of so many tokens ended; each took `interval_s` after the first, and may take `limit_s`."""
        if math.isfinite(limit_s) and tokens >= ANSWER_TOKENS_LEAST:
            moved = self.tightness + SLOW_GAIN * (SLOW_SHARE - (interval_s > limit_s))
            self.tightness = min(max(moved, TIGHTNESS_LEAST), TIGHTNESS_MOST)

    # What may be done

    def step_limit_s(self, interval_max_s: float) -> float:
        """How long predicted steps may get; without a limit where the engine alone is too slow already."""
        base_s = self.times.base_s
        if base_s >= interval_max_s:
            return math.inf
        return max(INTERVAL_SHARE * self.tightness * interval_max_s, base_s)

    def spare(self, interval_max_s: float, sequences: int, kv_tokens: float) -> float:
        """Part of the engine's time that prompts may take; nothing, or less, if steps are too long already."""
        limit = self.step_limit_s(interval_max_s)
        return 1.0 if limit == math.inf else 1.0 - self.times.step_s(sequences, kv_tokens) / limit

    @property
    def is_known(self) -> bool:
        """Whether the engine has been seen at work: prompts are not held back by a guess of how fast they are read."""
        return self.times.samples >= SAMPLES_LEAST

    def turn_s(self, now: float, spare: float) -> float:
        """Seconds until another prompt may be sent; 0 if one may be sent now."""
        left_s = self._burst_s(now, spare)
        return 0.0 if left_s >= 0.0 else -left_s / max(READING_SHARE_LEAST, spare)

    def first_token_s(
        self, prompt_tokens: int, sequences: int, kv_tokens: float, now: float, limit_s: float = math.inf
    ) -> float:
        """Predicted seconds until the first token of a prompt that is sent now; it may take `limit_s`."""
        if self.reading:
            self._forget_silent(now)
        step_s = self.times.step_s(sequences, kv_tokens)
        work = self.reading_tokens + prompt_tokens
        if self.reading:
            head = next(iter(self.reading.values()))
            seconds = now - max(head.sent_at, self.last_first_at)
            done = seconds * STEP_TOKENS / (step_s + STEP_TOKENS * self.times.prompt_token_s)
            work -= int(min(READ_SHARE_MOST * head.tokens, done))
        steps = -(-work // STEP_TOKENS)
        predicted_s = work * self.times.prompt_token_s + (steps + 0.5) * step_s
        if 0.0 < limit_s < math.inf:
            predicted_s += self.late_share * limit_s
        return max(0.0, predicted_s)

    # Parts

    def _read(self, ticket_id: int) -> Prompt | None:
        reading = self.reading.pop(ticket_id, None)
        if reading is not None:
            self.reading_tokens -= reading.tokens
        return reading

    def _forget_silent(self, now: float) -> None:
        """Those whose first token cannot be seen are taken to be read when they should be."""
        while self.reading:
            ticket_id, head = next(iter(self.reading.items()))
            if not head.silent or head.expected_at > now:
                return
            self._read(ticket_id)
            self._unseen_tokens += head.tokens
            self.last_first_at = max(self.last_first_at, head.expected_at)

    def _burst_s(self, now: float, spare: float) -> float:
        spare = max(READING_SHARE_LEAST, spare)
        most_s, left_s = BURST_S * spare, self.burst_s + (now - self.burst_at) * spare
        if left_s >= most_s:
            return most_s
        # What has been read holds nobody up, however long it was thought to take.
        owed_s = self.reading_tokens * self.times.prompt_token_s
        return max(-owed_s, left_s)

    def _restart(self, now: float) -> None:
        self._since, self._steps, self._weighted, self._unseen_tokens = now, 0.0, (0.0, 0.0), 0
