"""Step times of the profiles."""

import pytest

from gateway.simulation.profiles import PROFILES


def test_small_steps_cost_the_weights_and_large_ones_their_tokens() -> None:
    """The 8B on an H100: 7.8 ms to decode a few, 21.5 us per token once compute is the limit, and KV reads on top."""
    profile = PROFILES["8b-h100"]
    assert profile.step_s(32, 0) == pytest.approx(7.8e-3)
    assert profile.step_s(8192, 0) == pytest.approx(1.5e-3 + 8192 * 21.5e-6)
    assert profile.step_s(32, 100_000) == pytest.approx(7.8e-3 + 5.2e-3)


def test_demo_steps_are_slow_enough_to_watch() -> None:
    """Between 10 and 20 ms with the pool empty or full."""
    demo = PROFILES["demo"]
    assert 0.010 <= demo.step_s(1, 0) <= demo.step_s(demo.sequences_max, demo.kv_tokens) <= 0.020
