"""Step times of the profiles, and that their figures are those of the machines they are named after."""

from dataclasses import dataclass

import pytest

from gateway.simulation.profiles import PROFILES
from gateway.simulation.slo import Slo


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


@dataclass(frozen=True, slots=True)
class Machine:
    """What a profile is derived from: a Llama 3 (8 key-value heads of 128 each) in 16 bits on so many GPUs."""

    layers: int
    width: int
    gpus: int
    gpu_bytes_per_s: float
    gpu_operations_per_s: float
    """Dense, 16 bits."""

    @property
    def kv_token_s(self) -> float:
        """Reading one cached token at 75 % of the bandwidth."""
        return self.layers * 2 * 8 * 128 * 2 / self.gpus / (0.75 * self.gpu_bytes_per_s)

    @property
    def pair_s(self) -> float:
        """Comparing two tokens in all layers, at half of the peak."""
        return 4 * self.layers * self.width / self.gpus / (0.5 * self.gpu_operations_per_s)


H100 = {"gpu_bytes_per_s": 3.35e12, "gpu_operations_per_s": 989e12}
MACHINES = {
    "8b-h100": Machine(32, 4096, 1, **H100),
    "70b-4xh100": Machine(80, 8192, 4, **H100),
    "70b-2xh100": Machine(80, 8192, 2, **H100),
    "8b-l4": Machine(32, 4096, 1, gpu_bytes_per_s=300e9, gpu_operations_per_s=121e12),
}


@pytest.mark.parametrize("name", MACHINES)
def test_memory_and_attention_are_as_fast_as_the_machine(name: str) -> None:
    """Reading KV and comparing tokens follow from data sheets; nothing of them was fitted."""
    profile, machine = PROFILES[name], MACHINES[name]
    assert profile.kv_token_s == pytest.approx(machine.kv_token_s, rel=0.02)
    assert profile.pair_s == pytest.approx(machine.pair_s, rel=0.01)


@pytest.mark.parametrize(
    ("name", "overhead_s", "weights_s", "token_s", "blocks_of_16", "sequences_max", "step_tokens_max", "slo"),
    [
        ("8b-h100", 1.5e-3, 6.3e-3, 21.5e-6, 27_900, 1024, 8192, Slo(2.0, 0.1)),
        ("70b-4xh100", 2e-3, 17.3e-3, 64e-6, 29_300, 1024, 8192, Slo(2.0, 0.2)),
        ("70b-2xh100", 2e-3, 28.5e-3, 117e-6, 3_000, 1024, 8192, Slo(2.0, 0.2)),
        ("8b-l4", 3e-3, 58e-3, 290e-6, 2_050, 256, 2048, Slo(2.0, 0.2)),
    ],
)
def test_figures_that_results_are_quoted_for(
    name: str,
    overhead_s: float,
    weights_s: float,
    token_s: float,
    blocks_of_16: int,
    sequences_max: int,
    step_tokens_max: int,
    slo: Slo,
) -> None:
    """Published comparisons of policies name these machines: whoever changes one has to measure again."""
    profile = PROFILES[name]
    assert (profile.overhead_s, profile.weights_s, profile.token_s) == (overhead_s, weights_s, token_s)
    assert profile.kv_tokens == blocks_of_16 * 16
    assert (profile.sequences_max, profile.step_tokens_max, profile.slo) == (sequences_max, step_tokens_max, slo)


def test_long_prompts_cost_more_than_their_tokens() -> None:
    """The 8B on an H100: a whole prompt of 8192 tokens has 33.5 million pairs, 36 ms on top of 178."""
    profile = PROFILES["8b-h100"]
    extra_s = profile.step_s(8192, 8192, 8192**2 / 2) - profile.step_s(8192, 8192)
    assert extra_s == pytest.approx(0.0356, abs=1e-3)
