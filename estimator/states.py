"""Recurrent layers of a configuration as `State`s: Mamba, gated delta nets, linear attention, short convolutions."""

from __future__ import annotations

from estimator.architecture import State
from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError

_MAMBA_HEADS = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
_STATE_SIZES = ("mamba_d_state", "ssm_state_size", "state_size")
_KERNELS = ("mamba_d_conv", "conv_kernel", "d_conv")
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOAT32_FAMILIES = ("nemotron_h",)
"""Families whose recurrent state engines keep in 32 bits where the configuration does not say."""


def read_state(fields: ConfigFields, layers: int) -> State:
    """The one kind of recurrent layer that a model has, so many times.

    Raises:
        EstimatorError: where no known field says its size.
    """
    family = fields.text("model_type")
    if linear := fields.inner("linear_attn_config"):
        return _kda(linear, layers)
    if fields.has("linear_num_value_heads"):
        return _delta(fields, layers)
    if fields.count_if_any(*_MAMBA_HEADS) or family == "mamba2":
        return _mamba2(fields, layers)
    if fields.count_if_any(*_STATE_SIZES):
        return _mamba1(fields, layers)
    if kernel := fields.count_if_any("conv_L_cache"):
        channels = fields.count_if_any("conv_dim") or fields.count("hidden_size")
        return State("conv", layers, channels=channels, taps=kernel - 1)
    if family.startswith("rwkv"):
        return _rwkv(fields, layers)
    if fields.has("attn_type_list") or "linear" in family:
        heads = fields.count("num_attention_heads")
        dim = fields.count_if_any("head_dim") or fields.count("hidden_size") // heads
        return State("linear", layers, elements=heads * dim * dim, element_bytes=4)
    raise EstimatorError(f"{fields.model} has layers with a state, but no field that gives the state's size.")


def _element_bytes(fields: ConfigFields) -> int:
    named = fields.text("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
    if named:
        return _DTYPE_BYTES.get(named, 4)
    return 4 if fields.text("model_type") in _FLOAT32_FAMILIES else 2


def _mamba1(fields: ConfigFields, layers: int) -> State:
    inner = fields.count_if_any("mamba_inner_size")
    if inner is None:
        expand = fields.count_if_any("mamba_expand", "expand") or 2
        inner = expand * fields.count("hidden_size", "d_model")
    return State(
        "mamba1",
        layers,
        channels=inner,
        taps=(fields.count_if_any(*_KERNELS) or 4) - 1,
        elements=inner * fields.count(*_STATE_SIZES),
        element_bytes=_element_bytes(fields),
    )


def _mamba2(fields: ConfigFields, layers: int) -> State:
    alone = fields.text("model_type") == "mamba2"
    heads = fields.count(*_MAMBA_HEADS, *(("num_heads",) if alone else ()))
    names = ("mamba_d_head", "mamba_head_dim", "mamba_headdim", *(("head_dim",) if alone else ()))
    inner = fields.count_if_any("mamba_d_ssm")
    dim = fields.count_if_any(*names)
    if dim is None:
        expand = fields.count_if_any("mamba_expand", "expand") or 2
        dim = (inner or expand * fields.count("hidden_size")) // heads
    size = fields.count(*_STATE_SIZES)
    return State(
        "mamba2",
        layers,
        channels=inner or heads * dim,
        taps=(fields.count_if_any(*_KERNELS) or 4) - 1,
        groups=fields.count_if_any("mamba_n_groups", "n_groups", "mamba_ngroups") or 1,
        group_channels=2 * size,
        elements=heads * dim * size,
        element_bytes=_element_bytes(fields),
    )


def _delta(fields: ConfigFields, layers: int) -> State:
    key_heads, value_heads = fields.count("linear_num_key_heads"), fields.count("linear_num_value_heads")
    key_dim, value_dim = fields.count("linear_key_head_dim"), fields.count("linear_value_head_dim")
    return State(
        "delta",
        layers,
        channels=2 * key_heads * key_dim + value_heads * value_dim,
        taps=(fields.count_if_any("linear_conv_kernel_dim") or 4) - 1,
        elements=value_heads * value_dim * key_dim,
        element_bytes=_element_bytes(fields),
    )


def _kda(linear: ConfigFields, layers: int) -> State:
    heads, dim = linear.count("num_heads"), linear.count("head_dim")
    return State(
        "kda",
        layers,
        channels=3 * heads * dim,
        taps=(linear.count_if_any("short_conv_kernel_size") or 4) - 1,
        elements=heads * dim * dim,
        element_bytes=4,
    )


def _rwkv(fields: ConfigFields, layers: int) -> State:
    hidden = fields.count("hidden_size")
    size = fields.count_if_any("head_size", "wkv_head_size", "head_dim") or 64
    shifts = fields.count_if_any("token_shift_count") or 2
    return State("rwkv", layers, channels=hidden, taps=shifts, elements=hidden * size, element_bytes=4, conv_bytes=4)
