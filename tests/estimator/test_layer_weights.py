"""Parameters of attention and recurrent layers."""

from typing import Any

import pytest

from estimator.config_fields import ConfigFields
from estimator.layer_weights import attention_parts, state_parts

BASE: dict[str, Any] = {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128}


def roles(**fields: Any) -> dict[str, int]:
    """Parameters of one full layer, by role."""
    return {part.role: part.params for part in attention_parts(ConfigFields("m", BASE | fields), ["full"])}


def test_grouped_heads() -> None:
    """Queries and output as wide as all heads, keys and values as wide as theirs."""
    assert roles() == {"attention": 2 * 1024 * 1024, "kv": 2 * 256 * 1024}


def test_gates_biases_and_shared_keys() -> None:
    """Qwen3.5 doubles its queries; Gemma 4 takes its keys for values; Qwen2 has biases."""
    assert roles(attn_output_gate=True)["attention"] == 3 * 1024 * 1024
    assert roles(attention_k_eq_v=True)["kv"] == 256 * 1024
    assert roles(attention_bias=True)["norm"] == 1024 + 2 * 256


def test_latents_lead_down_and_up() -> None:
    """What leads down is whole on every rank."""
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
    down, up = attention_parts(ConfigFields("m", BASE | latent | {"q_lora_rank": 256}), ["full"])
    assert (down.role, down.split, down.params) == ("latent", "none", 1024 * (512 + 64 + 256))
    assert up.params == 256 * 8 * 192 + 512 * 8 * 256 + 8 * 128 * 1024
    indexed = roles(**latent, index_head_dim=128, index_n_heads=4)
    assert indexed["index"] == 1024 * 4 * 128 + 1024 * (128 + 4)


@pytest.mark.parametrize("kind", ["state", "none"])
def test_layers_without_attention_have_none_of_it(kind: str) -> None:
    """States have parts of their own, and need fields of their own."""
    assert attention_parts(ConfigFields("m", BASE), [kind]) == []  # type: ignore[list-item]
    assert state_parts(ConfigFields("m", BASE), ["full"]) == []


@pytest.mark.parametrize(
    ("fields", "main"),
    [
        ({"mamba_d_state": 16, "mamba_expand": 2}, 3 * 1024 * 2048),
        ({"conv_L_cache": 3}, 4 * 1024 * 1024),
        (
            {"linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 128}
            | {"linear_value_head_dim": 128},
            1024 * (2048 + 1024 + 16) + 1024 * 1024,
        ),
        ({"mamba_n_heads": 16, "mamba_d_head": 128, "mamba_d_state": 64}, 1024 * (2 * 2048 + 128) + 2048 * 1024),
    ],
)
def test_projections_of_states(fields: dict[str, Any], main: int) -> None:
    """The large matrices are one part, what is small another."""
    large, small = state_parts(ConfigFields("m", BASE | fields), ["state"])
    assert large.params == main
    assert 0 < small.params < main / 3
