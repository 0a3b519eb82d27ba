"""GGUF files: sizes as llama.cpp prints them."""

import pytest

from estimator import EstimatorError, load_model
from estimator.gguf_types import gguf_quantization, gguf_type, mean_bits
from estimator.weights import weights


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mostly Q4_K - Medium", "Q4_K_M"),
        ("Q4_K - Small", "Q4_K_S"),
        ("Q3_K - Large", "Q3_K_L"),
        ("Q2_K - Medium", "Q2_K"),
        ("Q6_K", "Q6_K"),
        ("Q8_0            ", "Q8_0"),
        ("F16 (guessed)", "F16"),
        ("all F32", "F32"),
        ("IQ3_XXS - 3.0625 bpw", "IQ3_XXS"),
        ("IQ4_XS", "IQ4_XS"),
        ("1", "F16"),
        ("15", "Q4_K_M"),
        ("BF16", "BF16"),
        ("fp8", None),
        ("", None),
    ],
)
def test_types_by_what_is_printed(text: str, name: str | None) -> None:
    """With the size spelled out, or as the header's number."""
    assert gguf_type(text) == name


@pytest.mark.parametrize(
    ("model", "file_type", "gib"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", "Q4_K_M", 4.58),
        ("meta-llama/Meta-Llama-3.1-70B", "Q4_K_M", 39.59),
        ("meta-llama/Meta-Llama-3.1-70B", "Q8_0", 69.82),
        ("meta-llama/Llama-2-7b", "Q5_K_M", 4.45),
        ("mistralai/Mistral-7B-Instruct-v0.2", "Q2_K", 2.53),
        ("mistralai/Mistral-7B-Instruct-v0.2", "Q4_0", 3.83),
        ("google/gemma-2-9b-it", "Q4_K_M", 5.36),
        ("codellama/CodeLlama-13b-hf", "Q3_K_S", 5.27),
        ("Qwen/Qwen2.5-32B-Instruct", "Q4_K_M", 18.48),
        ("Qwen/Qwen3-30B-A3B", "Q6_K", 23.37),
        ("deepseek-ai/DeepSeek-V2-Lite", "Q4_K_M", 9.65),
        ("mistralai/Mistral-Large-Instruct-2407", "IQ3_XS", 46.7),
        ("state-spaces/mamba-2.8b-hf", "Q8_0", 3.08),
    ],
)
def test_files_are_as_large_as_logs_say(model: str, file_type: str, gib: float) -> None:
    """Within one percent: which tensor gets which type is llama.cpp's own rule."""
    found = load_model(model)
    size = weights(found, quantization=gguf_quantization(file_type, found), loaded=False).gib_per_gpu
    assert size == pytest.approx(gib, rel=0.01)


def test_an_unknown_type_is_an_error() -> None:
    """Also where only the number of parameters is known."""
    assert mean_bits("Q8_0") == 8.5
    with pytest.raises(EstimatorError, match="GGUF type 'Q9_K' is not known"):
        mean_bits("Q9_K")
