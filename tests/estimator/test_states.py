"""Recurrent layers by the many names of their sizes."""

from typing import Any

import pytest

from estimator import EstimatorError
from estimator.architecture import State
from estimator.config_fields import ConfigFields
from estimator.states import read_state


def state(**fields: Any) -> State:
    """One layer with these fields."""
    return read_state(ConfigFields("m", fields), 1)


@pytest.mark.parametrize(
    ("fields", "kind", "state_bytes"),
    [
        ({"hidden_size": 4096, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4}, "mamba1", 311_296),
        (
            {"linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_key_head_dim": 128}
            | {"linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "mamba_ssm_dtype": "float32"},
            "delta",
            10_240 * 3 * 2 + 48 * 128 * 128 * 4,
        ),
        (
            {"linear_attn_config": {"num_heads": 32, "head_dim": 128, "short_conv_kernel_size": 4}},
            "kda",
            3 * 4096 * 3 * 2 + 32 * 128 * 128 * 4,
        ),
        (
            {"model_type": "nemotron_h", "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128}
            | {"n_groups": 8, "conv_kernel": 4},
            "mamba2",
            (4096 + 8 * 256) * 3 * 2 + 64 * 64 * 128 * 4,
        ),
        ({"conv_L_cache": 3, "hidden_size": 2048}, "conv", 2048 * 2 * 2),
        ({"model_type": "rwkv6", "hidden_size": 4096}, "rwkv", 4096 * 2 * 4 + 4096 * 64 * 4),
        ({"attn_type_list": [0, 1], "num_attention_heads": 64, "head_dim": 128}, "linear", 64 * 128 * 128 * 4),
    ],
)
def test_one_layers_state(fields: dict[str, Any], kind: str, state_bytes: int) -> None:
    """Bytes of one sequence's state in one layer."""
    found = state(**fields)
    assert (found.kind, found.bytes(1)) == (kind, state_bytes)


def test_mamba_2_derives_the_width_of_its_heads() -> None:
    """Granite says only its heads and how much wider than the model they are together."""
    found = state(mamba_n_heads=128, mamba_d_state=128, mamba_n_groups=1, mamba_expand=2, hidden_size=4096)
    assert (found.channels, found.elements) == (8192, 8192 * 128)


def test_a_state_without_a_size_is_refused() -> None:
    """By name."""
    with pytest.raises(EstimatorError, match="m has layers with a state, but no field that gives"):
        state(hidden_size=64)
