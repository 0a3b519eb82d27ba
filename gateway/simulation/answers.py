"""What the simulated engine says: how long each answer gets and its words; the same request gets the same answer."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from gateway.simulation.requests import Job

LENGTH_SIGMA = 0.9
"""Spread of the log-normal answer length: p90 is about three times the median, as in chat traffic (Azure, 2023)."""
SENTENCE_WORDS = 11
WORDS = """
the pool holds keys and values for every token that a sequence has seen so far while blocks fill one by one until
memory runs short then a late guest gives its place back waits at the door and starts again from its prompt
""".split()  # noqa: SIM905 - prose reads better than a list of its words


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer as it is going to be."""

    prompt_tokens: int
    output_tokens: int
    finish_reason: str
    """`stop` or `length`."""
    voice: int
    """Picks the words."""

    def text(self, start: int, stop: int) -> str:
        """The text of the tokens from `start` to before `stop`: one word each, the space in front included."""
        return "".join(self._word(at) for at in range(start, stop))

    def _word(self, at: int) -> str:
        sentence, place = divmod(at, SENTENCE_WORDS)
        word = WORDS[(self.voice + sentence * 7 + place) % len(WORDS)]
        if place == 0:
            word = word.capitalize()
        return (" " if at else "") + word + ("." if place == SENTENCE_WORDS - 1 else "")


def choose(job: Job, body: bytes, *, seed: int, output_tokens_mean: float) -> list[Choice]:
    """The answers to a job, `n` for each prompt, drawn from nothing but the body and the seed."""
    digest = hashlib.blake2b(body, key=seed.to_bytes(8, signed=True), digest_size=8).digest()
    chance = random.Random(int.from_bytes(digest))
    mu = math.log(output_tokens_mean) - LENGTH_SIGMA**2 / 2
    choices = []
    for prompt_tokens, limit in zip(job.prompt_tokens, job.output_tokens_max, strict=True):
        for _ in range(job.n):
            natural = max(1, job.output_tokens_min, round(chance.lognormvariate(mu, LENGTH_SIGMA)))
            cut = job.ignore_eos or natural > limit
            choices.append(
                Choice(
                    prompt_tokens,
                    output_tokens=limit if cut else natural,
                    finish_reason="length" if cut else "stop",
                    voice=chance.randrange(len(WORDS)),
                )
            )
    return choices
