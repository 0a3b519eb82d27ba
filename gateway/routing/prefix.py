"""Which prompts begin alike, which backend was sent such a beginning lately, and how far its cache bears that out."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Hashable, Sequence, Set as AbstractSet
from dataclasses import dataclass, field

CHUNK_BYTES = 1024
_CHUNK = struct.Struct(f"{CHUNK_BYTES}s")
CHUNKS_MAX = 64
"""Of one prompt: what comes after 64 KiB is not looked at, so that a long prompt costs no more than 0.1 ms."""
REMEMBERED_MAX = 65_536
"""Chunks that are remembered of one backend, however large its pool."""
PRIOR_SHARE, PRIOR_TOKENS = 0.5, 16_384
"""What is believed of a cache of which nothing is known yet, and after how many tokens what was seen weighs as much."""
EVIDENCE_TOKENS = 262_144
"""What was seen longer ago than this many predicted tokens counts half, and half again."""


def chain(start: Hashable, prompt: bytes | memoryview) -> tuple[int, ...]:
    """Name every beginning of a prompt that ends with a whole chunk: each chunk hashed with the name before it.

    Two prompts share a name exactly if they are the same up to there, collisions aside. Strings and bytes are hashed
    with a key that is drawn when the process starts, so nobody outside can make two beginnings collide. The names mean
    nothing in another process.

    Args:
        start: whatever must be the same too, apart from the text.
        prompt: as it came, in JSON or not; only the first `CHUNKS_MAX` chunks count.
    """
    names: list[int] = []
    name = hash(start)
    whole = min(len(prompt) // CHUNK_BYTES, CHUNKS_MAX) * CHUNK_BYTES
    for (chunk,) in _CHUNK.iter_unpack(prompt[:whole]):
        name = hash((name, chunk))
        names.append(name)
    return tuple(names)


@dataclass(slots=True)
class PrefixMap:
    """The beginnings that one backend was sent lately: as many as its pool could hold.

    Two generations instead of a strict order: what was sent since half the room was filled last, and what was sent in
    the half before. So whatever was sent within the last half of the room is known, whatever was not within the whole
    of it is forgotten, and a copy for a rehearsal costs the younger half at most. A beginning is never younger than
    one that it begins with: what is known of a prompt is always its first chunks.
    """

    _young: set[int] = field(default_factory=set)
    _young_tokens: float = 0.0
    _old: frozenset[int] = frozenset()

    def __len__(self) -> int:
        """Chunks that are remembered."""
        return len(self._young | self._old)

    def matched(self, prefix: Sequence[int]) -> int:
        """Leading chunks of a prompt that were sent there lately."""
        return _leading(prefix, self._young, self._old)

    def sent(self, prefix: Sequence[int], prefix_tokens: int, room_tokens: int) -> None:
        """A prompt was sent there.

        Args:
            prefix: its chain.
            prefix_tokens: that the chunks of the chain stand for.
            room_tokens: size of the backend's pool.
        """
        if not prefix:
            return
        fresh = len(prefix) - _leading(prefix, self._young)
        tokens = prefix_tokens / len(prefix)
        is_full = self._young_tokens + fresh * tokens > room_tokens / 2 or len(self._young) + fresh > REMEMBERED_MAX / 2
        if is_full and fresh:
            self._old, self._young, self._young_tokens = frozenset(self._young), set(), 0.0
            fresh = len(prefix)
        self._young.update(prefix)
        self._young_tokens += fresh * tokens

    def forget(self) -> None:
        """The backend started anew: it holds nothing."""
        self._young, self._young_tokens, self._old = set(), 0.0, frozenset()


def _leading(prefix: Sequence[int], known: AbstractSet[int], also: AbstractSet[int] = frozenset()) -> int:
    """How many of the chunks are known: found by halving, since it is always the first ones."""
    return bisect_left(prefix, 1, key=lambda name: name not in known and name not in also)


@dataclass(slots=True)
class CacheTrust:
    """Which part of what was predicted to be in a backend's prefix cache was there.

    Some engines tell with each answer what they had; that is exact. Others only count: then what they have found since
    the last look stands against what was predicted since, and what is found beyond that (prompts of others, beginnings
    shorter than a chunk) is left out as far as it can be told: trust may come out too high by it, never above 1.
    """

    predicted_tokens: float = 0.0
    found_tokens: float = 0.0
    is_told: bool = False
    """Whether it tells with each answer."""
    _counter: float | None = None
    _sent_tokens: float = 0.0
    """Predicted since the last look."""

    @property
    def share(self) -> float:
        """0 to 1."""
        return (self.found_tokens + PRIOR_SHARE * PRIOR_TOKENS) / (self.predicted_tokens + PRIOR_TOKENS)

    def sent(self, predicted_tokens: int) -> None:
        """A prompt was sent of which so much was predicted to be there."""
        self._sent_tokens += predicted_tokens

    def read(self, hit_tokens: float | None) -> None:
        """A look: tokens that it has found in its cache since it started; None if it does not say."""
        if hit_tokens is not None and self._counter is not None and not self.is_told:
            # A prompt that waits in the engine is found later than predicted: nothing is cut off look by look.
            self._weigh(self._sent_tokens, max(0.0, hit_tokens - self._counter))
        self._counter, self._sent_tokens = hit_tokens, 0.0

    def answered(self, predicted_tokens: int, found_tokens: int) -> None:
        """An answer ended; so much of its prompt had been found. Engines that do not tell seem to find nothing."""
        self.is_told = self.is_told or found_tokens > 0
        if self.is_told and predicted_tokens:
            self._weigh(predicted_tokens, min(found_tokens, predicted_tokens))

    def restarted(self) -> None:
        """It counts from zero again, and holds nothing; how it keeps what it is sent is as before."""
        self._counter, self._sent_tokens = None, 0.0

    def _weigh(self, predicted: float, found: float) -> None:
        self.predicted_tokens += predicted
        self.found_tokens = min(self.predicted_tokens, self.found_tokens + found)
        if self.predicted_tokens > EVIDENCE_TOKENS:
            self.predicted_tokens /= 2
            self.found_tokens /= 2
