"""One client's stream of completion events, as it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import msgspec


@dataclass(slots=True)
class Incoming:
    """What has come so far. Tokens are counted by `usage`: one chunk may carry several, or none."""

    chunks_at: list[float] = field(default_factory=list)
    output_tokens: int = 0
    error: str = ""
    is_done: bool = False

    def take(self, event: bytes, now: float) -> None:
        """One event, without its `data: `."""
        if event == b"[DONE]":
            self.is_done = True
            return
        chunk = msgspec.json.decode(event, type=_Chunk)
        if chunk.error is not None:
            self.error = event.decode()[:300]
        if chunk.usage is not None:
            self.output_tokens = chunk.usage.completion_tokens
        if chunk.choices:
            self.chunks_at.append(now)

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Between successive chunks."""
        return tuple(later - sooner for sooner, later in pairwise(self.chunks_at))


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None
    error: dict[str, object] | None = None
