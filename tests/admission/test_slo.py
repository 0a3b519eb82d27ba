"""Which promise holds for which request."""

import math

from gateway.admission.slo import DEFAULTS, Slo, slo_for
from gateway.domain import Priority


def test_the_first_that_speaks_of_a_request_holds() -> None:
    """By model and class; what is not said holds for all."""
    quick = Slo(model="m", priority=Priority.INTERACTIVE, ttft_s=1.0)
    rest = Slo(model="m", ttft_s=5.0)
    slos = (quick, rest)
    assert slo_for(slos, "m", Priority.INTERACTIVE) is quick
    assert slo_for(slos, "m", Priority.BATCH) is rest
    assert slo_for(slos, "other", Priority.INTERACTIVE) is DEFAULTS[0]


def test_without_any_only_the_pace_of_readers_is_promised() -> None:
    """Nobody is refused for a first token, and batch work for nothing at all."""
    assert [slo_for((), "m", priority).time_per_output_token_s for priority in Priority] == [0.2, 0.5, math.inf]
    assert all(slo_for((), "m", priority).ttft_s == math.inf for priority in Priority)


def test_long_prompts_may_take_longer() -> None:
    assert Slo(ttft_s=2.0, ttft_per_1k_prompt_tokens_s=0.1).first_token_within_s(5000) == 2.5
