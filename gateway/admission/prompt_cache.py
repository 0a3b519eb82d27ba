"""What of a prompt one engine need not read: its prefix cache, as far as it can be known from outside."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.domain import Ticket, Usage
from gateway.routing.prefix import CacheTrust, PrefixMap

CACHE_GAIN = 0.02


@dataclass(slots=True)
class PromptCache:
    """Two parts: beginnings that were sent there before, believed as far as they proved true; and a share of the rest.

    The share is learned from answers alone, and needs no prompt to be looked at: it stands for what is alike below the
    length of a chunk, and for everything where there is but one engine.
    """

    prefixes: PrefixMap = field(default_factory=PrefixMap)
    trust: CacheTrust = field(default_factory=CacheTrust)
    uncached_share: float = 1.0
    """Part of a prompt, less what is expected by its beginning, that the engine has to read."""
    _predicted: dict[int, int] = field(default_factory=dict)
    """By ticket: tokens that had been sent there before it."""
    _looked_up: tuple[tuple[int, ...], int] = ((), 0)
    """The last prefix that was looked up, and what was found: one decision asks several times."""

    def expected_tokens(self, ticket: Ticket) -> float:
        """Tokens of its prompt that are expected in the cache since they were sent there before."""
        return self._sent_before(ticket) * self.trust.share if ticket.prefix else 0.0

    def expected_share(self, ticket: Ticket) -> float:
        """The same as a part of the prompt."""
        return self.expected_tokens(ticket) / ticket.demand.prompt_tokens if ticket.prefix else 0.0

    def unread_tokens(self, ticket: Ticket) -> int:
        """Tokens of its prompt that are expected to be read."""
        cached = self.expected_tokens(ticket) if ticket.prefix else 0.0
        return int((ticket.demand.prompt_tokens - cached) * self.uncached_share)

    def sent(self, ticket: Ticket, room_tokens: int) -> None:
        """It was sent there; the engine's pool is so large."""
        if ticket.prefix:
            if predicted := self._sent_before(ticket):
                self._predicted[ticket.id] = predicted
                self.trust.sent(predicted)
            self.prefixes.sent(ticket.prefix, ticket.prefix_tokens, room_tokens)
            self._looked_up = (), 0

    def ended(self, ticket_id: int, usage: Usage | None) -> None:
        """It is over; what the engine said of it, if it went well."""
        predicted = self._predicted.pop(ticket_id, 0) if self._predicted else 0
        if usage is None or not usage.prompt_tokens:
            return
        tokens, cached = usage.prompt_tokens, min(usage.cached_prompt_tokens, usage.prompt_tokens)
        uncached = (tokens - cached) / tokens
        if predicted:
            uncached = min(1.0, (tokens - cached) / (tokens - min(predicted * self.trust.share, tokens - 1)))
        self.uncached_share += CACHE_GAIN * (uncached - self.uncached_share)
        self.trust.answered(predicted, cached)

    def read(self, hit_tokens: float | None) -> None:
        """What it has found in its cache since it started, as it counts."""
        self.trust.read(hit_tokens)

    def restarted(self) -> None:
        """It holds nothing now."""
        self.prefixes.forget()
        self.trust.restarted()
        self._predicted.clear()
        self._looked_up = (), 0

    def _sent_before(self, ticket: Ticket) -> int:
        prefix, matched = self._looked_up
        if prefix is not ticket.prefix:
            matched = self.prefixes.matched(ticket.prefix)
            self._looked_up = ticket.prefix, matched
        return ticket.prefix_tokens * matched // len(ticket.prefix)
