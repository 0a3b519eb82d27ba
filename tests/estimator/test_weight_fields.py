"""Feed-forward layers, experts and embeddings by their many names."""

from typing import Any

import pytest

from estimator import load_model
from estimator.weights import weights

BASE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "vocab_size": 1000,
    "intermediate_size": 1024,
}


def roles(**fields: Any) -> dict[str, int]:
    """Parameters of a small model by role."""
    model = load_model(BASE | fields)
    assert model.parts, model.parts_missing
    found: dict[str, int] = {}
    for part in model.parts:
        found[part.role] = found.get(part.role, 0) + part.params
    return found


def test_a_gate_is_a_third_matrix() -> None:
    """Most families have one; OPT and GPT-2 have not."""
    assert roles()["mlp"] == 4 * 3 * 256 * 1024
    assert roles(model_type="opt")["mlp"] == 4 * 2 * 256 * 1024
    assert roles(model_type="mpt", intermediate_size=None)["mlp"] == 4 * 2 * 256 * 1024


def test_vocabularies_are_padded_and_outputs_may_be_tied() -> None:
    """1,000 words become 1,024 rows."""
    assert roles()["head"] == roles()["embedding"] == 1024 * 256
    assert "head" not in roles(tie_word_embeddings=True)
    assert "head" not in roles(model_type="gemma2")
    assert roles(learned_pos=514)["embedding"] == (1024 + 514) * 256


@pytest.mark.parametrize(
    ("fields", "experts", "dense"),
    [
        ({}, 4, 0),
        ({"first_k_dense_replace": 1}, 3, 1),
        ({"moe_layer_freq": [0, 1, 0, 1]}, 2, 2),
        ({"moe_layer_freq": 2, "first_k_dense_replace": 1}, 2, 2),
        ({"interleave_moe_layer_step": 2}, 2, 2),
        ({"expert_layer_period": 2, "expert_layer_offset": 1}, 2, 2),
        ({"decoder_sparse_step": 2}, 2, 2),
        ({"mlp_only_layers": [0]}, 3, 1),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}, 3, 1),
        ({"enable_moe_block": True}, 4, 4),
    ],
)
def test_which_layers_have_experts(fields: dict[str, Any], experts: int, dense: int) -> None:
    """Eight experts of 128 in some layers, a dense one of 1,024 in the others."""
    found = roles(num_experts=8, moe_intermediate_size=128, **fields)
    assert found["experts"] == experts * 8 * 3 * 256 * 128
    assert found["router"] == experts * 8 * 256
    assert found.get("mlp", 0) == dense * 3 * 256 * 1024


def test_shared_experts_by_number_or_width() -> None:
    """Zero and missing mean none."""
    moe = {"num_experts": 8, "moe_intermediate_size": 128}
    assert roles(**moe, n_shared_experts=2)["shared"] == 4 * 3 * 256 * 256
    assert roles(**moe, shared_expert_intermediate_size=64)["shared"] == 4 * 3 * 256 * 64
    assert "shared" not in roles(**moe, shared_expert_intermediate_size=0)
    assert roles(**moe, moe_latent_size=128)["experts"] == 4 * 8 * 3 * 128 * 128


def test_what_engines_make_while_loading_is_no_parameter() -> None:
    """Sines and cosines of all positions: 512 of 64 values in 16 bits."""
    model = load_model(BASE)
    assert weights(model).bytes_per_gpu - weights(model, loaded=False).bytes_per_gpu == 512 * 64 * 2
    assert weights(model).params == weights(model, loaded=False).params


def test_a_description_without_a_width_has_no_weights_but_a_cache() -> None:
    """The sentence says what is missing."""
    model = load_model({name: value for name, value in BASE.items() if name != "intermediate_size"})
    assert model.parts == ()
    assert "no field 'intermediate_size'" in model.parts_missing
    assert model.layers == 4


def test_searched_models_say_each_layers_width() -> None:
    """As a width, as a multiple, as one matrix, or as nothing."""
    blocks = [
        {"attention": {"n_heads_in_group": 1}, "ffn": {"intermediate_size": 512}},
        {"attention": {"n_heads_in_group": 1}, "ffn": {"ffn_mult": 1.5}},
        {"attention": {"n_heads_in_group": 1}, "ffn": {"replace_with_linear": True}},
        {"attention": {"n_heads_in_group": 1}, "ffn": {"no_op": True}},
    ]
    assert roles(block_configs=blocks)["mlp"] == 3 * 256 * (512 + 256) + 256 * 256
