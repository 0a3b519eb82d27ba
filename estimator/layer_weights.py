"""Parameters of attention and recurrent layers as `Part`s, by how their heads are shared out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from estimator.attention_fields import HEADS, HIDDEN, head_dim, read_attentions
from estimator.config_fields import ConfigFields
from estimator.layer_kinds import LayerKind
from estimator.parts import Part
from estimator.states import read_state

_QKV_BIAS = (
    "qwen",
    "qwen2",
    "qwen2_moe",
    "qwen2_vl",
    "qwen2_5_vl",
    "gpt_oss",
    "phi",
    "opt",
    "starcoder2",
    "gpt2",
    "glm4_moe",
)
"""Families with a bias on their attention where the configuration does not say."""


def attention_parts(fields: ConfigFields, kinds: Sequence[LayerKind]) -> list[Part]:
    """Query, key, value and output matrices of all attention layers."""
    if fields.has("compress_ratios"):
        return _compressed(fields, len(kinds))
    if fields.has("kv_lora_rank"):
        return _latent(fields, sum(kind in {"full", "both"} for kind in kinds))
    hidden, heads = fields.count(*HIDDEN), fields.count_if_any(*HEADS)
    if not any(kind not in {"state", "none"} for kind in kinds) or heads is None:
        return []
    gate = 2 if fields.has("attn_output_gate") else 1
    parts = []
    for a in read_attentions(fields, kinds):
        values = 0 if fields.has("attention_k_eq_v") and a.kind == "full" else a.value_dim
        query = heads * (gate * a.key_dim + a.value_dim) * hidden
        keys = a.kv_heads * (a.key_dim + values) * hidden
        parts.append(Part("attention", a.layers * query, layers=a.layers))
        parts.append(Part("kv", a.layers * keys, "kv", a.kv_heads, a.layers))
        if fields.has("attention_bias") or fields.has("qkv_bias") or fields.text("model_type") in _QKV_BIAS:
            bias = heads * a.key_dim + 2 * a.kv_heads * a.key_dim
            parts.append(Part("norm", a.layers * bias, layers=a.layers))
        if a.index_layers:
            index = fields.inner("sparse_attention_config")
            per = (index.count_if_any("sparse_num_index_heads") or 1) if index else 1
            parts.append(Part("index", a.index_layers * hidden * (per + 1) * a.index_bytes // 2, "none"))
    return parts


def _latent(fields: ConfigFields, layers: int) -> list[Part]:
    """MLA: what leads down to the latents is whole on every rank; what leads up from them is split by heads."""
    hidden, heads = fields.count(*HIDDEN), fields.count(*HEADS)
    rank, rope = fields.count("kv_lora_rank"), fields.count("qk_rope_head_dim")
    nope, value = fields.count("qk_nope_head_dim"), fields.count("v_head_dim")
    q_rank = fields.count_if_any("q_lora_rank")
    down = hidden * (rank + rope) + (hidden * q_rank if q_rank else 0)
    up = (q_rank or hidden) * heads * (nope + rope) + rank * heads * (nope + value) + heads * value * hidden
    parts = [Part("latent", layers * down, "none", layers=layers), Part("attention", layers * up, layers=layers)]
    if dim := fields.count_if_any("index_head_dim"):
        index_heads = fields.count_if_any("index_n_heads") or 1
        types = fields.items("indexer_types")[:layers]
        count = sum(kind == "full" for kind in types) if types else layers
        index = (q_rank or hidden) * index_heads * dim + hidden * (dim + index_heads)
        parts.append(Part("index", count * index, "none", layers=count))
    return parts


def _compressed(fields: ConfigFields, layers: int) -> list[Part]:
    """DeepSeek V4: low-rank queries, one latent per token or group of tokens, and a low-rank output by groups."""
    hidden, heads, dim = fields.count(*HIDDEN), fields.count(*HEADS), head_dim(fields)
    q_rank, o_rank, o_groups = fields.count("q_lora_rank"), fields.count("o_lora_rank"), fields.count("o_groups")
    ratios = [ratio for ratio in fields.items("compress_ratios")[:layers] if isinstance(ratio, int)]
    up = q_rank * heads * dim + heads * dim * o_rank + o_groups * o_rank * hidden
    compressors = sum(2 * hidden * dim * (2 if ratio <= 4 else 1) for ratio in ratios if ratio > 1)
    index_dim, index_heads = fields.count("index_head_dim"), fields.count("index_n_heads")
    each = q_rank * index_heads * index_dim + hidden * index_heads + 4 * hidden * index_dim
    return [
        Part("latent", layers * hidden * (q_rank + dim), "none", layers=layers),
        Part("attention", layers * up, layers=layers),
        Part("index", compressors + sum(1 < ratio <= 4 for ratio in ratios) * each, "none", layers=layers),
    ]


def state_parts(fields: ConfigFields, kinds: Sequence[LayerKind]) -> list[Part]:
    """Projections into and out of recurrent layers."""
    layers = Counter(kinds)["state"] + Counter(kinds)["both"]
    if not layers:
        return []
    hidden, state = fields.count(*HIDDEN), read_state(fields, layers)
    each = 0
    small = (state.channels + state.groups * state.group_channels) * (state.taps + 1)
    match state.kind:
        case "mamba1":
            size = state.elements // state.channels
            rank = fields.count_if_any("mamba_dt_rank", "time_step_rank") or -(-hidden // 16)
            each = state.channels * 3 * hidden
            # Its A is kept in 32 bits: twice. GGUF files keep all that is small so.
            small = state.channels * (2 * rank + 4 * size + state.taps + 1)
        case "mamba2":
            each = hidden * (2 * state.channels + state.groups * state.group_channels) + state.channels * hidden
        case "delta":
            values = fields.count("linear_num_value_heads") * fields.count("linear_value_head_dim")
            gates = 2 * fields.count("linear_num_value_heads")
            each = hidden * (state.channels + values + gates) + values * hidden
        case "kda":
            inner = state.channels // 3
            linear = fields.inner("linear_attn_config") or fields
            dim = linear.count("head_dim")
            gate = hidden * inner if linear.has("use_full_rank_gate") else (hidden + inner) * dim
            each = hidden * (state.channels + inner // dim) + gate + (hidden + inner) * dim + inner * hidden
        case "conv":
            each = hidden * 3 * state.channels + state.channels * hidden
        case "linear" | "rwkv":
            each = 5 * hidden * hidden
    return [Part("state", layers * each, layers=layers), Part("norm", layers * small, layers=layers)]
