"""Names of quantised models, read as the model they were made from."""

import pytest

from estimator import EstimatorError, load_model
from estimator.variants import load_variant
from estimator.weights import weights


@pytest.mark.parametrize(
    ("name", "same", "method", "gib"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct", "awq", 5.2),
        ("Qwen/Qwen2.5-14B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-14B-Instruct", "gptq", 9.3),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "meta-llama/Meta-Llama-3.1-8B", "fp8", 8.5),
        ("bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "meta-llama/Meta-Llama-3.1-8B", "Q4_K_M", 4.58),
        ("Meta-Llama-3.1-8B-Instruct-Q8_0.gguf", "meta-llama/Meta-Llama-3.1-8B", "Q8_0", 7.95),
        ("unsloth/DeepSeek-R1-GGUF:Q4_K_M", "deepseek-ai/DeepSeek-R1", "Q4_K_M", 377),
        ("someone/DeepSeek-R1-FP8", "deepseek-ai/DeepSeek-R1", "fp8", 625),
    ],
)
def test_layers_of_the_other_weights_of_its_own(name: str, same: str, method: str, gib: float) -> None:
    """Sizes as published, within 3 %."""
    model, other = load_model(name), load_model(same)
    assert model.attentions == other.attentions
    assert model.name == name
    assert model.quantization.method == method
    assert weights(model, loaded=False).gib_per_gpu == pytest.approx(gib, rel=0.03)
    assert f"Its layers are those of {same}." in model.notes
    assert model.doubts == other.doubts


@pytest.mark.parametrize("name", ["unsloth/gemma-3-27b-it-GGUF", "unsloth/gemma-3-27b-it-GGUF:UD-Q4_K_XL"])
def test_an_unknown_way_of_storing_is_a_doubt(name: str) -> None:
    """Never silently wrong."""
    model = load_model(name)
    assert model.attentions == load_model("google/gemma-3-27b-it").attentions
    assert "does not say how its weights are stored" in model.doubts[-1]


def test_what_is_no_variant() -> None:
    """Another size is another model; a name of the catalogue is itself, one object under all its names."""
    assert load_variant("someone/Meta-Llama-3.1-9B-AWQ") is None
    with pytest.raises(EstimatorError, match="known names"):
        load_model("someone/Meta-Llama-3.1-9B-AWQ")
    assert load_model("meta-llama/Meta-Llama-3.1-8B") is load_model("LLAMA-3.1-8B")
