"""Which layers see everything, and which only a window."""

from typing import Any

import pytest

from estimator import EstimatorError
from estimator.config_fields import ConfigFields
from estimator.layer_kinds import layer_kinds, refuse_what_is_not_priced

LETTERS = {"full": "F", "sliding": "s", "chunked": "c", "cross": "x", "state": "M", "both": "B", "none": "-"}


def kinds(layers: int = 8, context: int = 32_768, **fields: Any) -> str:
    """One letter per layer."""
    return "".join(LETTERS[kind] for kind in layer_kinds(ConfigFields("m", fields), layers, context))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "FFFFFFFF"),
        ({"layer_types": ["sliding_attention", "full_attention"] * 4}, "sFsFsFsF"),
        ({"layer_types": ["chunked_attention"] * 3 + ["attention"] * 7}, "cccFFFFF"),
        ({"hybrid_layer_pattern": [0, 1, 1, 1, 0, 1, 1, 1]}, "FsssFsss"),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, "cccFcccF"),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192, "no_rope_layers": [1, 0] * 4}, "cFcFcFcF"),
        ({"model_type": "llama4_text", "attention_chunk_size": None}, "FFFFFFFF"),
        ({"model_type": "mimo", "attention_chunk_size": 128}, "FFFFFFFF"),
        ({"sliding_window": 4096}, "ssssssss"),
        ({"sliding_window": 32_768}, "FFFFFFFF"),
        ({"sliding_window": None}, "FFFFFFFF"),
        ({"sliding_window": 4096, "use_sliding_window": False}, "FFFFFFFF"),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 5}, "FFFFFsss"),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}, "FFFFFFFF"),
        ({"sliding_window": 4096, "sliding_window_pattern": 4}, "sssFsssF"),
        ({"sliding_window": 4096, "_sliding_window_pattern": 2}, "sFsFsFsF"),
        ({"sliding_window": 4096, "sliding_window_pattern": "LLLG"}, "sssFsssF"),
        ({"sliding_window": 4096, "model_type": "gemma2"}, "sFsFsFsF"),
        ({"sliding_window": 1024, "model_type": "gemma3_text"}, "sssssFss"),
        ({"sliding_window": 512, "model_type": "gemma3n_text", "num_kv_shared_layers": 2}, "ssssFs"),
        ({"num_kv_shared_layers": 0}, "FFFFFFFF"),
        ({"layer_types": ["linear_attention"] * 3 + ["full_attention"] * 5}, "MMMFFFFF"),
        ({"layers_block_type": ["mamba", "moe", "attention", "moe"] * 2}, "M-F-M-F-"),
        ({"hybrid_override_pattern": "M-M*-MEM"}, "M-MF-M-M"),
        ({"attn_layer_period": 4, "attn_layer_offset": 1}, "MFMMMFMM"),
        ({"full_attention_interval": 4}, "MMMFMMMF"),
        ({"linear_attn_config": {"full_attn_layers": [4, 8]}}, "MMMFMMMF"),
        ({"attn_type_list": [0, 0, 0, 1] * 2}, "MMMFMMMF"),
        ({"full_attn_idxs": [2, 5]}, "MMFMMFMM"),
        ({"model_type": "falcon_h1"}, "BBBBBBBB"),
        ({"model_type": "mamba2"}, "MMMMMMMM"),
        ({"model_type": "rwkv6qwen2"}, "MMMMMMMM"),
        ({"cross_attention_layers": [3]}, "FFFxFFFF"),
        ({"block_configs": [{"attention": {"n_heads_in_group": 8}}, {"attention": {"no_op": True}}] * 4}, "F-F-F-F-"),
    ],
)
def test_each_family_says_it_its_own_way(fields: dict[str, Any], expected: str) -> None:
    """Spelled out, by a pattern, by family, or one window for all."""
    assert kinds(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layer_types": ["full_attention"] * 3}, "'layer_types' of m has 3 entries for 8 layers"),
        ({"layer_types": ["full_attention", "warp"] * 4}, "Layer 1 of m is 'warp'"),
        ({"hybrid_override_pattern": "M?M?M?M?"}, "Layer 1 of m is '\\?'"),
        ({"layer_types": [["full_attention"]] * 8}, "Layer 0 of m"),
        ({"num_kv_shared_layers": 8}, "'num_kv_shared_layers' of m is 8, of 8 layers"),
        ({"sliding_window": "wide"}, "'sliding_window' of m is 'wide'"),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], words: str) -> None:
    """Field and value stand in the error."""
    with pytest.raises(EstimatorError, match=words):
        kinds(**fields)


def test_what_is_not_priced_is_refused_by_name() -> None:
    """Never silently wrong: the sentence says what the model keeps besides plain KV."""
    with pytest.raises(EstimatorError, match="'lru_width': the state of recurrent layers"):
        refuse_what_is_not_priced(ConfigFields("m", {"lru_width": 4096}), "GriffinForCausalLM")
    refuse_what_is_not_priced(ConfigFields("m", {"lru_width": None, "linear_bias": True}), "LlamaForCausalLM")
