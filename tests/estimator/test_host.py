"""Disk and memory of the host."""

from estimator import load_model
from estimator.host import host_needs
from estimator.quantization import named_quantization


def test_the_checkpoint_decides() -> None:
    """70B in 16 bits: 141 GB of files."""
    found = host_needs(load_model("llama-3.1-70b"), 4)
    assert found.checkpoint == 2 * 70_553_706_496
    assert found.disk > found.checkpoint
    assert found.ram_good == found.checkpoint + 4 * 3 * 2**30
    assert found.ram_least == 5 * 10**9 + 4 * 3 * 2**30


def test_a_small_or_quantised_one_takes_less() -> None:
    """Of a file smaller than a shard, no more than the file."""
    small = host_needs(load_model("Qwen/Qwen3-0.6B"), 1)
    assert small.ram_least == small.ram_good
    model = load_model("llama-3.1-70b")
    assert host_needs(model, 1, named_quantization("awq")).checkpoint < 0.3 * host_needs(model, 1).checkpoint
