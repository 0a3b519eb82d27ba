"""Answers of made-up models, and what is known once they were learnt."""

from __future__ import annotations

import math
import random

from estimator.output_length import OutputForecast, OutputLengths


def learnt(sample: list[int], cap: int | None = None) -> OutputForecast:
    """The forecast after these answers, cut off at `cap`."""
    lengths = OutputLengths()
    for tokens in sample:
        if cap is None or tokens < cap:
            lengths.learn(tokens, ended=True)
        else:
            lengths.learn(cap, ended=False)
    return newest(lengths)


def newest(lengths: OutputLengths) -> OutputForecast:
    """The forecast with all that was learnt, however little that is."""
    lengths._news = math.inf
    return lengths.forecast()


def lognormal(median: float, sigma: float, count: int, seed: int = 1) -> list[int]:
    """Lengths of answers as services see them."""
    rng = random.Random(seed)
    return [max(1, round(rng.lognormvariate(math.log(median), sigma))) for _ in range(count)]
