"""The catalogue: small, sound, and forgiving about names."""

import pytest

from estimator import EstimatorError, catalog, kv_layout, load_model
from estimator.weights import weights


@pytest.mark.parametrize("name", catalog.names())
def test_every_model_can_be_priced(name: str) -> None:
    """With its source, its weights, and a KV cache that one GPU could hold for a thousand tokens."""
    model = load_model(name)
    assert model.name == name
    assert model.source.endswith("2026-11-22")
    assert kv_layout(model).bytes_per_token < 2_000_000
    assert kv_layout(model).bytes(1000) < 10**10
    assert model.context_tokens >= 512
    assert model.parts or "RWKV" in model.parts_missing


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", 8.03),
        ("meta-llama/Meta-Llama-3.1-405B", 405.85),
        ("deepseek-ai/DeepSeek-R1", 671.03),
        ("moonshotai/Kimi-K2-Instruct", 1026.4),
        ("openai/gpt-oss-120b", 116.8),
        ("google/gemma-3-27b-it", 27.43),
        ("Qwen/Qwen3-235B-A22B", 235.1),
        ("mistralai/Mixtral-8x7B-v0.1", 46.7),
        ("bigcode/starcoder2-15b", 15.96),
        ("ai21labs/AI21-Jamba-1.5-Mini", 51.57),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31.58),
    ],
)
def test_parameters_are_those_that_authors_publish(name: str, billions: float) -> None:
    """Within half a percent: dense, mixtures, latents, vision, states."""
    assert weights(load_model(name)).params / 1e9 == pytest.approx(billions, rel=0.005)


def test_the_file_is_small_and_the_list_long() -> None:
    """Read when first asked for, in a few milliseconds."""
    assert catalog._FILE.stat().st_size < 150_000
    assert len(catalog.names()) >= 120


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B"),
        ("LLAMA-3.1-405B-instruct", "meta-llama/Meta-Llama-3.1-405B"),
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("qwen3-8b", "Qwen/Qwen3-8B"),
        ("Qwen3 8B Instruct", "Qwen/Qwen3-8B"),
        ("QwQ32B", "Qwen/Qwen2.5-32B-Instruct"),
    ],
)
def test_names_are_found_by_alias_and_in_any_case(asked: str, found: str) -> None:
    """With or without owner."""
    assert catalog.find(asked).name == found


def test_a_quantised_variant_is_found_only_where_it_is_asked_for() -> None:
    """Its layers are those of the original; its weights are not, so that `find` does not take it for that."""
    variant = catalog.find_variant("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4")
    assert variant is not None
    assert variant.name == "meta-llama/Meta-Llama-3.1-70B"
    assert catalog.find_variant("someone/else-7b-awq") is None
    with pytest.raises(EstimatorError):
        catalog.find("Meta-Llama-3.1-70B-Instruct-AWQ-INT4")


def test_an_unknown_name_suggests_its_neighbours() -> None:
    """And says what else may be given."""
    with pytest.raises(EstimatorError, match=r"no file, no folder.*Did you mean google/gemma-2-9b-it"):
        catalog.find("gemma-2-9c")
    with pytest.raises(EstimatorError) as caught:
        catalog.find("zzzzzzzzzzzzzz")
    assert "Did you mean" not in str(caught.value)
