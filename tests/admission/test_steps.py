"""Times of steps, learned from samples."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from gateway.admission.steps import (
    BASE_S,
    KV_TOKEN_S,
    PROMPT_TOKEN_LEAST_S,
    PROMPT_TOKEN_S,
    StepTimes,
)

TRUE = (0.012, 40e-6, 80e-9, 90e-6)
"""Base, sequence, KV token, prompt token."""
SAMPLE = st.tuples(st.floats(0, 5), st.floats(0, 500), st.floats(0, 512), st.floats(0, 1e6), st.integers(0, 200_000))


def taught(times: StepTimes, count: int, *, seed: int = 1, noise: float = 0.0, alike: bool = False) -> StepTimes:
    """From an engine whose times are `TRUE`; `alike` holds tokens in proportion to the sequences."""
    chance = random.Random(seed)
    for _ in range(count):
        steps = chance.randint(1, 16)
        sequences = chance.randint(1, 128)
        kv_tokens = 700.0 * sequences if alike else chance.uniform(100, 4000) * sequences
        prompt = chance.choice((0, 0, chance.randint(10, 8000)))
        base, sequence, kv, each = TRUE
        seconds = steps * (base + sequence * sequences + kv * kv_tokens) + each * prompt
        times.learn(seconds * (1 + chance.uniform(-noise, noise)), steps, sequences, kv_tokens, prompt)
    return times


def test_at_first_a_middling_engine_is_assumed() -> None:
    """Without a sample."""
    times = StepTimes()
    assert (times.samples, times.prompt_token_s) == (0, PROMPT_TOKEN_S)
    assert times.step_s(10, 1_000_000) == pytest.approx(BASE_S + 1_000_000 * KV_TOKEN_S)


def test_what_is_true_is_found() -> None:
    """From samples without noise all four times come out, but for what little the assumption at first still counts."""
    times = taught(StepTimes(), 400)
    found = (times.base_s, times.sequence_s, times.kv_token_s, times.prompt_token_s)
    assert found == pytest.approx(TRUE, rel=0.03)


def test_noise_does_not_lead_far_astray() -> None:
    """Every sample off by up to 30 %: what a step is predicted to take is not off by 10."""
    times = taught(StepTimes(), 1500, noise=0.3)
    base, sequence, kv, prompt = TRUE
    assert times.step_s(64, 64_000) == pytest.approx(base + 64 * sequence + 64_000 * kv, rel=0.1)
    assert times.prompt_token_s == pytest.approx(prompt, rel=0.1)


def test_what_always_comes_together_is_predicted_together() -> None:
    """Sequences and their tokens cannot be told apart then, and need not be."""
    times = taught(StepTimes(), 600, noise=0.1, alike=True)
    base, sequence, kv, _ = TRUE
    assert times.step_s(100, 70_000) == pytest.approx(base + 100 * sequence + 70_000 * kv, rel=0.1)
    assert min(times.sequence_s, times.kv_token_s) >= 0


def test_an_engine_that_changes_is_followed() -> None:
    """Twice as slow from now on: forgotten is what was."""
    times = taught(StepTimes(), 500)
    for _ in range(1500):
        times.learn(16 * 0.05, 16, 4, 4000, 0)
    assert times.step_s(4, 4000) == pytest.approx(0.05, rel=0.02)


def test_one_sample_repeated_moves_what_it_tells_of() -> None:
    """Prompts alone say nothing of steps."""
    times = StepTimes()
    for _ in range(50):
        times.learn(0.3, 0, 0, 0, 1000)
    assert times.prompt_token_s == pytest.approx(300e-6, rel=0.01)
    assert times.base_s == pytest.approx(BASE_S)


@settings(max_examples=60, deadline=None)
@given(st.lists(SAMPLE, max_size=30))
def test_no_time_is_ever_negative(samples: list[tuple[float, float, float, float, int]]) -> None:
    """Whatever is measured, be it impossible."""
    times = StepTimes()
    for sample in samples:
        times.learn(*sample)
        assert min(times.base_s, times.sequence_s, times.kv_token_s) >= 0
        assert times.prompt_token_s >= PROMPT_TOKEN_LEAST_S
        assert 0 <= times.step_s(100, 1e6) < float("inf")
