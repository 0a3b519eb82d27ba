"""Configurations of many families, as their authors write them."""

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from estimator import Attention, EstimatorError
from estimator.hf_config import read_config

PLAIN: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}


def attentions(**changes: Any) -> tuple[Attention, ...]:
    """The attention layers of a small model with these fields."""
    return read_config(PLAIN | changes, "m", "test").attentions


@pytest.mark.parametrize(
    ("changes", "kv_heads", "head_dim"),
    [
        ({}, 8, 64),
        ({"num_key_value_heads": 2}, 2, 64),
        ({"num_key_value_heads": 1, "head_dim": 256}, 1, 256),
        ({"multi_query": True, "num_kv_heads": 8}, 1, 64),
        ({"multi_query": True, "num_kv_heads": 4, "new_decoder_architecture": True}, 4, 64),
        ({"multi_query_group_num": 2, "kv_channels": 128}, 2, 128),
        ({"attn_config": {"kv_n_heads": 4}}, 4, 64),
        ({"attention_head_dim": 80}, 8, 80),
    ],
)
def test_heads_by_their_many_names(changes: dict[str, Any], kv_heads: int, head_dim: int) -> None:
    """MHA, GQA and MQA."""
    assert attentions(**changes) == (Attention("full", 4, kv_heads, head_dim, head_dim),)


def test_gpt2_names() -> None:
    """The oldest family has names of its own."""
    config = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "model_type": "gpt2"}
    model = read_config(config, "gpt2", "test")
    assert model.attentions == (Attention("full", 12, 12, 64, 64),)
    assert (model.architecture, model.context_tokens, model.layers) == ("gpt2", 1024, 12)


def test_latents_are_one_head_without_values() -> None:
    """DeepSeek V3; with an index on some layers, GLM 5.2."""
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "v_head_dim": 128}
    (plain,) = attentions(**latent, qk_nope_head_dim=128)
    assert plain == Attention("full", 4, 1, 576, 0, wide_key=8 * 192, wide_value=8 * 128)
    (indexed,) = attentions(**latent, index_head_dim=128, indexer_types=["full", "shared", "shared", "full", "full"])
    assert (indexed.index_layers, indexed.index_bytes) == (2, 132)
    (everywhere,) = attentions(**latent, index_head_dim=128)
    assert everywhere.index_layers == 4
    with pytest.raises(EstimatorError, match="latents in windows"):
        attentions(**latent, sliding_window=16)


def test_windows_may_have_heads_of_their_own() -> None:
    """MiMo V2 names the window's heads, Gemma 4 those of the full layers."""
    pattern = {"sliding_window": 128, "hybrid_layer_pattern": [0, 1, 1, 1], "v_head_dim": 32}
    full, window = attentions(**pattern, swa_num_key_value_heads=4, swa_head_dim=96, swa_v_head_dim=48)
    assert full == Attention("full", 1, 8, 64, 32)
    assert window == Attention("sliding", 3, 4, 96, 48, window=128)
    types = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    window, full = attentions(layer_types=types, sliding_window=64, num_global_key_value_heads=2, global_head_dim=128)
    assert full == Attention("full", 1, 2, 128, 128)
    assert window == Attention("sliding", 3, 8, 64, 64, window=64)
    full, _ = attentions(layer_types=[*types[1:], types[0]], sliding_window=64, num_global_key_value_heads=2)[::-1]
    assert full == Attention("full", 1, 2, 64, 64)


def test_sparse_index_beside_plain_heads() -> None:
    """MiniMax M3 keeps an index on its sparse layers."""
    sparse = {"use_sparse_attention": True, "sparse_attention_freq": [0, 1, 1, 1], "sparse_index_dim": 128}
    (attention,) = attentions(sparse_attention_config=sparse)
    assert (attention.index_layers, attention.index_bytes) == (3, 256)
    (plain,) = attentions(sparse_attention_config=sparse | {"use_sparse_attention": False})
    assert plain.index_layers == 0


@pytest.mark.parametrize("part", ["text_config", "llm_config", "language_config"])
def test_the_text_part_of_a_multimodal_model_counts(part: str) -> None:
    """Dtype and architecture stand outside, sizes inside."""
    config = {"architectures": ["VLM"], "dtype": "float16", part: PLAIN | {"torch_dtype": None, "architectures": None}}
    model = read_config(config, "m", "test")
    assert (model.architecture, model.dtype, model.layers) == ("VLM", "float16", 4)
    thinker = {"thinker_config": {"text_config": PLAIN}}
    assert read_config(thinker, "m", "test").layers == 4


def test_a_family_fills_in_what_nested_configurations_leave_out() -> None:
    """Gemma 3 4B publishes only what differs from its family's defaults."""
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024}
    model = read_config({"text_config": text}, "gemma", "test")
    assert {(a.kind, a.layers, a.kv_heads, a.key_dim) for a in model.attentions} == {
        ("full", 5, 4, 256),
        ("sliding", 29, 4, 256),
    }
    assert model.notes == ("The configuration names no dtype: a 16-bit KV cache is assumed.",)


def test_notes_say_what_to_know() -> None:
    """32-bit checkpoints, scales for 8-bit KV, draft layers."""
    extra = {"torch_dtype": "float32", "num_nextn_predict_layers": 1}
    model = read_config(PLAIN | extra | {"quantization_config": {"kv_cache_scheme": {"num_bits": 8}}}, "m", "test")
    assert model.dtype == "float16"
    assert [word in note for word, note in zip(["float32", "8-bit", "draft"], model.notes, strict=True)] == [True] * 3


@pytest.mark.parametrize("field", sorted(set(PLAIN) - {"architectures", "torch_dtype"}))
def test_missing_fields_are_named(field: str) -> None:
    """One sentence with the model and the field."""
    config = {name: value for name, value in PLAIN.items() if name != field}
    with pytest.raises(EstimatorError, match=f"of m has no field '{field}'"):
        read_config(config, "m", "test")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 5000}, "'num_hidden_layers' of m is 5,000"),
        ({"hidden_size": 513}, "'hidden_size' 513 is no multiple of its 8 heads"),
        ({"num_key_value_heads": [8, 4]}, r"'num_key_value_heads' of m is \[8, 4\]"),
        ({"num_attention_heads": -8}, "'num_attention_heads' of m is -8"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], words: str) -> None:
    """Field and value stand in the error."""
    with pytest.raises(EstimatorError, match=words):
        attentions(**changes)


FIELDS = [*PLAIN, "layer_types", "sliding_window", "head_dim", "kv_lora_rank", "text_config", "quantization_config"]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 10**12),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=5),
    st.dictionaries(st.sampled_from(FIELDS), st.integers(), max_size=3),
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8))
@settings(deadline=None)
def test_any_object_gives_a_model_or_an_error(changes: dict[str, object]) -> None:
    """Never another exception, never a model without layers."""
    try:
        model = read_config(PLAIN | changes, "m", "test")
    except EstimatorError:
        return
    assert model.layers >= 1
    assert all(attention.kv_heads * attention.key_dim >= 1 for attention in model.attentions)
