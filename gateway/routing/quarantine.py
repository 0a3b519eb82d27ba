"""Requests that are poison: those that an engine died of more than once are kept away from all engines for a while.

A body is known by its hash alone. The hash is paid for only where a request fails, and for bodies that are as long as
one of those that failed. An engine that dies takes with it everybody who waits for a first token: so one death only
makes a suspect, and an answer clears it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

DEATHS = 2
HELD_S = 60.0
SUSPECT_S = 600.0
"""A death that is longer ago counts no more. An engine takes minutes to come back."""
KNOWN_MAX = 1000
"""Suspects that are remembered; beyond it the one that did not show for longest is forgotten."""


def fingerprint(endpoint: str, body: bytes) -> bytes:
    """What names a request, the same whenever and by whomever it is sent. 128 bits: nobody can make two collide."""
    digest = blake2b(endpoint.encode(), digest_size=16)
    digest.update(b"\0")
    digest.update(body)
    return digest.digest()


@dataclass(slots=True)
class Suspect:
    """A request that an engine died of."""

    size_bytes: int
    deaths: int = 0
    died_at: float = 0.0


@dataclass(slots=True)
class Quarantine:
    """Of one gateway. Times are monotonic seconds."""

    _suspects: dict[bytes, Suspect] = field(default_factory=dict)
    """By fingerprint; whose last death is longest ago comes first."""
    _sizes: dict[int, int] = field(default_factory=dict)
    """How many suspects have a body of that size."""

    def __len__(self) -> int:
        """Suspects that are remembered."""
        return len(self._suspects)

    def held_s(self, endpoint: str, body: bytes, now: float) -> float:
        """For how much longer a request is not to be sent anywhere; 0 if it may be."""
        if len(body) not in self._sizes:
            return 0.0
        suspect = self._suspects.get(fingerprint(endpoint, body))
        if suspect is None or suspect.deaths < DEATHS:
            return 0.0
        return max(0.0, suspect.died_at + HELD_S - now)

    def died(self, name: bytes, body: bytes, now: float) -> bool:
        """An engine died with this request in it; returns whether it is held from now on."""
        return self.suspect(name, len(body), now)

    def answered(self, endpoint: str, body: bytes) -> None:
        """An engine served this request, and lives."""
        if len(body) in self._sizes:
            self.clear(fingerprint(endpoint, body))

    def suspect(self, name: bytes, size_bytes: int, now: float) -> bool:
        """As `died`, by the size of the body."""
        suspect = self._take(name)
        if suspect is None or now - suspect.died_at > SUSPECT_S:
            suspect = Suspect(size_bytes)
        suspect.deaths += 1
        suspect.died_at = now
        self._suspects[name] = suspect
        self._sizes[suspect.size_bytes] = self._sizes.get(suspect.size_bytes, 0) + 1
        if len(self._suspects) > KNOWN_MAX:
            self._take(next(iter(self._suspects)))
        return suspect.deaths >= DEATHS

    def clear(self, name: bytes) -> bool:
        """Forget what was held against a request; returns whether there was anything."""
        return self._take(name) is not None

    def _take(self, name: bytes) -> Suspect | None:
        suspect = self._suspects.pop(name, None)
        if suspect is not None:
            self._sizes[suspect.size_bytes] -= 1
            if not self._sizes[suspect.size_bytes]:
                del self._sizes[suspect.size_bytes]
        return suspect
