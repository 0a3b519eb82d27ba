"""What counts as served well."""

import pytest

from gateway.simulation.slo import Slo


@pytest.mark.parametrize(
    ("prompt_tokens", "ttft_s", "tpot_s", "good"),
    [(1000, 2.5, 0.1, True), (1000, 2.51, 0.1, False), (1000, 2.5, 0.11, False), (3000, 3.5, 0.0, True)],
)
def test_both_bounds_hold_and_long_prompts_get_more_time(
    prompt_tokens: int, ttft_s: float, tpot_s: float, good: bool
) -> None:
    """Two seconds and half a second per thousand tokens, then a tenth per token."""
    slo = Slo(ttft_s=2.0, tpot_s=0.1, ttft_per_1k_prompt_tokens_s=0.5)
    assert slo.is_met(prompt_tokens, ttft_s, tpot_s) is good
    assert slo.first_token_within_s(2000) == 3.0
