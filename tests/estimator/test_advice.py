"""Changes and what they gain."""

import pytest

from estimator import load_model
from estimator.advice import Advice, advise
from estimator.capacity import Measured, Setup
from estimator.engine import engine
from estimator.hardware import find_gpu
from estimator.placement import place
from estimator.quantization import named_quantization

GIB = 2**30


def advice(name: str, gpu: str, setup: Setup, measured: Measured | None = None) -> dict[str, Advice]:
    """By its change."""
    found = advise(place(load_model(name), find_gpu(gpu), setup, measured or Measured()))
    return {each.change: each for each in found}


def test_fp8_kv_doubles_concurrency() -> None:
    """And frees nothing: blocks are half as large."""
    found = advice("llama-3.1-8b", "H100", Setup(engine("vllm", "0.11.1")))["--kv-dtype fp8"]
    assert found.requests_after == pytest.approx(2 * found.requests_before, rel=0.01)
    assert found.frees_bytes == 0
    assert found.fits


def test_fewer_sequences_free_what_sampling_sets_aside() -> None:
    """38.7 bytes for each of 768 sequences less and 128,256 words: 3.5 GiB."""
    found = advice("llama-3.1-8b", "H100", Setup(engine("vllm", "0.11.1")))["--max-num-seqs 256"]
    assert found.frees_bytes / GIB == pytest.approx(38.7 * 768 * 128_256 / GIB, rel=0.01)
    assert found.requests_after > found.requests_before
    assert found.note == "now 1,024"


def test_a_gain_is_added_to_a_measured_pool() -> None:
    """What an engine stated holds for what it ran with; a change moves it by the difference of two predictions."""
    setup = Setup(engine("vllm", "0.11.1"))
    plain = advice("llama-3.1-8b", "H100", setup)["--max-num-seqs 256"]
    stated = advice("llama-3.1-8b", "H100", setup, Measured(kv_pool=30 * GIB))["--max-num-seqs 256"]
    assert stated.frees_bytes == plain.frees_bytes
    expected = (30 * GIB + plain.frees_bytes) / (131_072 * 131_072)
    assert stated.requests_after == pytest.approx(expected, rel=0.001)


def test_a_recipe_makes_two_l4_hold_a_70b_in_4_bits() -> None:
    """Not as it comes; with less set aside, eight-bit KV and a shorter context."""
    setup = Setup(engine("vllm", "0.32"), tp=2, quantization=named_quantization("awq"))
    found = next(iter(advice("llama-3.1-70b", "L4", setup).values()))
    assert found.change.startswith("--max-num-seqs 64 --enforce-eager --gpu-memory-utilization 0.95 --kv-dtype fp8")
    assert found.fits
    assert 8192 <= found.context_tokens <= 32_768
    assert f"--max-model-len {found.context_tokens}" in found.change


def test_a_shorter_context_alone_is_named_where_weights_fit() -> None:
    """70B in 16 bits on two A100: some 32,000 tokens."""
    found = next(iter(advice("llama-3.1-70b", "A100", Setup(engine("vllm", "0.32"), tp=2)).values()))
    assert found.change == f"--max-model-len {found.context_tokens}"
    assert 24_000 < found.context_tokens < 33_000
    assert found.fits


def test_settings_together_may_be_enough() -> None:
    """Each alone is not; the recipe says which together are, at the full context."""
    setup = Setup(engine("vllm", "0.32"), context_tokens=49_152, tp=2)
    found = advice("llama-3.1-70b", "A100", setup)
    together = found["--max-num-seqs 64 --enforce-eager --gpu-memory-utilization 0.95"]
    assert together.fits
    assert together.context_tokens == 49_152
    assert not any(each.fits for change, each in found.items() if change == "--enforce-eager")


def test_what_is_done_already_is_not_advised() -> None:
    """Nor what the GPU cannot."""
    setup = Setup(engine("vllm"), kv_dtype="fp8", graphs=False, utilization=0.97)
    found = advice("llama-3.1-8b", "H100", setup)
    assert not any("--kv-dtype" in each or "--enforce" in each or "--gpu-mem" in each for each in found)
    assert "--kv-dtype fp8" not in advice("llama-3.1-8b", "A100", Setup(engine("vllm")))
    assert "--quant fp8" not in advice("llama-3.1-8b", "A100", Setup(engine("vllm")))


def test_llama_cpp_has_options_of_its_own() -> None:
    """GGUF types, 8-bit cells, layers on further GPUs."""
    found = advice("llama-3.1-8b", "RTX 4090", Setup(engine("llama.cpp"), context_tokens=8192))
    assert {"--kv-dtype q8_0", "--quant Q8_0", "--quant Q4_K_M", "--pp 2"} <= set(found)
    assert not any("--max-num" in each for each in found)


def test_more_gpus_are_as_many_as_it_takes() -> None:
    """Four L4 do not hold 131,072 tokens of a 70B in 4 bits; eight do."""
    setup = Setup(engine("vllm", "0.32"), tp=2, quantization=named_quantization("awq"))
    found = advice("llama-3.1-70b", "L4", setup)
    assert found["--tp 8"].fits
    assert "--tp 4" not in found


def test_an_encoder_needs_no_advice() -> None:
    """It keeps nothing."""
    assert advice("BAAI/bge-m3", "L4", Setup(engine("vllm"))) == {}
