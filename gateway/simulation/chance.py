"""Seeded chance as pure functions: the same seed and key give the same number, whatever else was drawn.

splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014). A number belongs to
its key, not to its turn: leaving one request out changes nothing for the others.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NORMAL = NormalDist()


def bits(seed: int, *key: int) -> int:
    """64 well mixed bits for this key."""
    state = _mixed(seed & _MASK)
    for part in key:
        state = _mixed((state ^ (part & _MASK)) + _GOLDEN & _MASK)
    return state


def uniform(seed: int, *key: int) -> float:
    """A number above 0 and below 1."""
    return ((bits(seed, *key) >> 12) + 0.5) / 2**52


def log_normal(sigma: float, seed: int, *key: int) -> float:
    """A factor with median 1, whose logarithm has this standard deviation."""
    return math.exp(sigma * _NORMAL.inv_cdf(uniform(seed, *key)))


def _mixed(state: int) -> int:
    state = state + _GOLDEN & _MASK
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
    return state ^ (state >> 31)
