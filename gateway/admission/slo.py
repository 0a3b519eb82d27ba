"""What a request is promised: when its first token comes, and how long the others may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.domain import Priority


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds for the requests of some models and classes; `None` stands for all of them."""

    model: str | None = None
    priority: Priority | None = None
    ttft_s: float = math.inf
    """Longest time to the first token, from arrival; infinite: as long as a request may wait."""
    ttft_per_1k_prompt_tokens_s: float = 0.0
    """Granted on top for long prompts."""
    time_per_output_token_s: float = math.inf
    """Longest mean time of the tokens after the first; infinite: any."""

    def first_token_within_s(self, prompt_tokens: int) -> float:
        """Longest time to the first token after such a prompt."""
        return self.ttft_s + self.ttft_per_1k_prompt_tokens_s * prompt_tokens / 1000

    def is_for(self, model: str, priority: Priority) -> bool:
        """Whether it speaks of such requests."""
        return self.model in (None, model) and self.priority in (None, priority)


DEFAULTS = (
    Slo(priority=Priority.INTERACTIVE, time_per_output_token_s=0.2),
    Slo(priority=Priority.STANDARD, time_per_output_token_s=0.5),
    Slo(),
)
"""Where nothing is configured: somebody reads along at five tokens a second, or waits for a whole answer at two."""


def slo_for(slos: Sequence[Slo], model: str, priority: Priority) -> Slo:
    """The first that speaks of such requests; `DEFAULTS` come after those given."""
    for slo in (*slos, *DEFAULTS):
        if slo.is_for(model, priority):
            return slo
    raise AssertionError("the last of the defaults speaks of all")
