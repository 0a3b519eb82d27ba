"""Where M = P * 4 B / (32 / Q) * 1.2 is wrong."""

import pytest

from estimator import load_model
from estimator.capacity import Setup
from estimator.engine import engine
from estimator.hardware import find_gpu
from estimator.placement import place
from estimator.quantization import named_quantization
from estimator.rule_of_thumb import rule_of_thumb

VLLM = engine("vllm", "0.32")


def test_two_a100_do_not_hold_what_the_rule_says() -> None:
    """168 GB are more than two of 80; and one request of the longest context takes far more than its 20 %."""
    model, gpu = load_model("llama-3.1-70b"), find_gpu("A100 80GB")
    found = rule_of_thumb(place(model, gpu, Setup(VLLM, tp=2)))
    assert found.gb == pytest.approx(168, rel=0.01)
    assert (found.bits, found.gpus) == (16, 3)
    assert found.beside_weights_gb > found.extra_gb
    assert found.error < -0.05
    assert not place(model, gpu, Setup(VLLM, tp=2)).fits
    assert place(model, gpu, Setup(VLLM, tp=4)).fits


def test_it_is_too_much_for_a_short_context() -> None:
    """And too little at the full one: it knows no context."""
    model, gpu = load_model("llama-3.1-70b"), find_gpu("H200")
    short = rule_of_thumb(place(model, gpu, Setup(VLLM, tp=2, context_tokens=2048)))
    assert short.error > 0.05
    assert short.total_gb == short.weights_gb + short.beside_weights_gb


@pytest.mark.parametrize(("method", "bits", "gb"), [("awq", 4, 42), ("fp8", 8, 84), ("Q", 16, 168)])
def test_bits_are_nominal(method: str, bits: int, gb: float) -> None:
    """4.16 bits are Q = 4."""
    how = None if method == "Q" else named_quantization(method)
    found = rule_of_thumb(place(load_model("llama-3.1-70b"), find_gpu("H200"), Setup(VLLM, quantization=how)))
    assert found.bits == bits
    assert found.gb == pytest.approx(gb, rel=0.01)
