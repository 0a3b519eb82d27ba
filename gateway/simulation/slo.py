"""What counts as served well: time to first token and mean time per output token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds on one request, all inclusive."""

    ttft_s: float
    """From arrival at the gateway to the first token, its queue included."""
    tpot_s: float
    """Mean time per output token after the first."""
    ttft_per_1k_prompt_tokens_s: float = 0.0
    """Granted on top for long prompts."""

    def first_token_within_s(self, prompt_tokens: int) -> float:
        """Longest time to first token of a request with this prompt."""
        return self.ttft_s + self.ttft_per_1k_prompt_tokens_s * prompt_tokens / 1000

    def is_met(self, prompt_tokens: int, ttft_s: float, tpot_s: float) -> bool:
        """Whether a request was served well."""
        return ttft_s <= self.first_token_within_s(prompt_tokens) and tpot_s <= self.tpot_s
