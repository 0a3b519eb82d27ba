"""Weights per GPU, as engines log them."""

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError, load_model
from estimator.quantization import named_quantization
from estimator.weights import weights

MODELS = ["meta-llama/Meta-Llama-3.1-70B", "deepseek-ai/DeepSeek-R1", "openai/gpt-oss-120b", "Qwen/Qwen3.5-27B"]


@pytest.mark.parametrize(
    ("name", "settings_", "quantization", "gib"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", {}, None, 14.19),
        ("meta-llama/Meta-Llama-3.1-8B", {}, None, 14.99),
        ("meta-llama/Meta-Llama-3.1-70B", {"tp": 8}, None, 16.46),
        ("meta-llama/Meta-Llama-3.1-70B", {}, "awq_marlin", 37.09),
        ("meta-llama/Meta-Llama-3.1-70B", {"tp": 2}, "compressed-tensors fp8", 33.88),
        ("Qwen/Qwen2.5-VL-72B-Instruct", {"tp": 4}, None, 34.43),
        ("Qwen/Qwen3-32B", {"tp": 2}, None, 30.59),
        ("openai/gpt-oss-20b", {}, None, 13.47),
        ("openai/gpt-oss-120b", {}, None, 64.38),
        ("openai/gpt-oss-120b", {}, "mxfp4 (Marlin)", 65.97),
        ("deepseek-ai/DeepSeek-R1", {"tp": 8}, None, 79.74),
        ("ai21labs/AI21-Jamba-1.5-Mini", {}, "experts_int8", 51.47),
        ("meta-llama/Meta-Llama-3-8B", {}, "bitsandbytes-nested", 5.31),
        ("intfloat/e5-mistral-7b-instruct", {}, "bitsandbytes", 3.91),
        ("bigcode/starcoder2-15b", {"tp": 2}, None, 14.87),
    ],
)
def test_one_gpus_weights_are_what_vllm_logs(
    name: str, settings_: dict[str, Any], quantization: str | None, gib: float
) -> None:
    """Within 0.7 percent of "Model loading took"."""
    how = None if quantization is None else named_quantization(quantization)
    assert weights(load_model(name), quantization=how, **settings_).gib_per_gpu == pytest.approx(gib, rel=0.007)


@pytest.mark.parametrize("name", MODELS)
@given(tp=st.sampled_from([1, 2, 4]), pp=st.integers(1, 8))
@settings(deadline=None, max_examples=10)
def test_more_gpus_hold_less_each_and_no_less_in_all(name: str, tp: int, pp: int) -> None:
    """The fullest stage times all ranks is at least the whole."""
    model = load_model(name)
    whole, shared = weights(model).bytes_per_gpu, weights(model, tp=tp, pp=pp).bytes_per_gpu
    assert shared <= whole
    assert shared * tp * pp >= whole * 0.999
    assert sum(size for _, size in weights(model, tp=tp).by_role) == pytest.approx(
        weights(model, tp=tp).bytes_per_gpu, abs=20
    )


@pytest.mark.parametrize("name", MODELS)
def test_fewer_bits_take_less(name: str) -> None:
    """16, 8, 4."""
    model = load_model(name)
    sizes = [weights(model, quantization=named_quantization(kind)).bytes_per_gpu for kind in ("fp8", "nvfp4", "awq")]
    assert sizes == sorted(sizes, reverse=True)


def test_experts_may_be_shared_out_whole() -> None:
    """32 ranks hold a 32nd of the experts, and all of what is replicated."""
    model = load_model("deepseek-ai/DeepSeek-R1")
    roles = dict(weights(model, ep=32).by_role)
    alone = dict(weights(model).by_role)
    assert roles["experts"] == pytest.approx(alone["experts"] / 32)
    assert roles["attention"] == alone["attention"]


def test_draft_layers_add_a_layer_each() -> None:
    """DeepSeek's own draft layer has experts like any other: 11 to 12 GB of 671."""
    model = load_model("deepseek-ai/DeepSeek-R1")
    more = weights(model, drafts=1).bytes_per_gpu - weights(model).bytes_per_gpu
    assert 10e9 < more < 13e9


@pytest.mark.parametrize(
    ("settings_", "words"),
    [({"tp": 3}, "tp 3 does not divide"), ({"pp": 0}, "pp is 0"), ({"ep": 0}, "ep is 0")],
)
def test_impossible_parallelism_is_named(settings_: dict[str, Any], words: str) -> None:
    """Field and value."""
    with pytest.raises(EstimatorError, match=words):
        weights(load_model("llama-3.1-8b"), **settings_)


def test_a_model_without_parts_is_refused_with_the_reason() -> None:
    """The cache can still be priced."""
    with pytest.raises(EstimatorError, match="RWKV family, whose parameters cannot be counted yet"):
        weights(load_model("RWKV/v6-Finch-7B-HF"))
