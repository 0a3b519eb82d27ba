"""Attention layers of kinds that few models have."""

from typing import Any

import pytest

from estimator import EstimatorError
from estimator.attention_fields import head_dim, kv_heads, read_attentions, read_encoder, read_encoder_decoder
from estimator.config_fields import ConfigFields
from estimator.kv_formats import kv_format

HEADS = {"num_attention_heads": 64, "hidden_size": 8192}


def fields(**values: Any) -> ConfigFields:
    """A configuration with 64 heads of 128."""
    return ConfigFields("m", HEADS | values)


def test_heads_may_differ_from_layer_to_layer() -> None:
    """Models cut down by architecture search: each attention layer says how many queries share a KV head."""
    blocks = [
        {"attention": {"n_heads_in_group": 8}},
        {"attention": {"no_op": True}},
        {"attention": {"n_heads_in_group": 16}},
    ]
    found = read_attentions(fields(block_configs=blocks), ["full", "none", "full"])
    assert [(attention.layers, attention.kv_heads) for attention in found] == [(1, 8), (1, 4)]
    listed = read_attentions(fields(num_key_value_heads_per_layer=[8, 8, 4]), ["full"] * 3)
    assert [(attention.layers, attention.kv_heads) for attention in listed] == [(2, 8), (1, 4)]


def test_layers_with_both_count_as_attention_too() -> None:
    """Falcon H1 keeps KV and a state in each layer."""
    (attention,) = read_attentions(fields(num_key_value_heads=2), ["both"] * 44)
    assert (attention.kind, attention.layers) == ("full", 44)


def test_cohere_sees_one_token_more() -> None:
    """Its window is inclusive, which engines make good by one."""
    (window,) = read_attentions(fields(model_type="cohere2", sliding_window=4096), ["sliding"])
    assert window.window == 4097


def test_cross_attention_keeps_what_it_looks_at() -> None:
    """An encoder's length, or four tiles of an image."""
    own, cross = read_encoder_decoder(fields(max_source_positions=1500), 4)
    assert (own.kind, cross.kind, cross.window) == ("full", "cross", 1500)
    (image,) = read_attentions(fields(), ["cross"])
    assert image.window == 6404
    assert read_encoder(fields(), 12)[0].kind == "encoder"


def test_latents_in_windows_are_refused() -> None:
    """Nobody builds them yet."""
    with pytest.raises(EstimatorError, match="latents in windows"):
        read_attentions(fields(kv_lora_rank=512, qk_rope_head_dim=64, sliding_window=8), ["sliding"])


def test_a_model_of_states_alone_has_no_attention() -> None:
    """Also with latents named."""
    assert read_attentions(fields(), ["state"] * 4) == ()
    assert read_attentions(fields(kv_lora_rank=512, qk_rope_head_dim=64), ["state"]) == ()


def test_heads_and_their_width() -> None:
    """Named, or derived."""
    assert (kv_heads(fields()), head_dim(fields())) == (64, 128)
    assert (kv_heads(fields(num_key_value_heads=8)), head_dim(fields(head_dim=192))) == (8, 192)


def test_compressed_attention_keeps_a_latent_for_several_tokens() -> None:
    """DeepSeek V4: plain latents in windows everywhere; four tokens a latent with an index, or 128 without."""
    few, many, window = read_attentions(
        fields(head_dim=512, compress_ratios=[0, 4, 128, 4, 0], sliding_window=128, index_head_dim=128), ["sliding"] * 4
    )
    assert (few.layers, few.tokens_per_state, few.index_layers, few.index_bytes) == (2, 4, 2, 33)
    assert (many.layers, many.tokens_per_state, many.index_layers) == (1, 128, 0)
    assert (window.kind, window.layers, window.window) == ("sliding", 4, 128)
    assert few.bytes_per_token(kv_format("fp8"), 8) == 584 / 4
    assert many.bytes_per_token(kv_format("bfloat16"), 1) == 8
