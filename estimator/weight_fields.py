"""A configuration's parameters as `Part`s: embeddings, feed-forward layers and experts, norms, vision towers.

Attention and recurrent layers are counted in `layer_weights`.
"""

from __future__ import annotations

from collections.abc import Sequence

from estimator.attention_fields import HEADS, HIDDEN, head_dim
from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError
from estimator.layer_kinds import LayerKind
from estimator.layer_weights import attention_parts, state_parts
from estimator.parts import Part, Role
from estimator.vision_weights import vision_params

_FFN = ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "d_ff", "decoder_ffn_dim", "inner_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_k", "top_k_experts", "moe_topk")
_EXPERT_FFN = ("moe_intermediate_size", "expert_intermediate_size", "expert_ffn_hidden_size")
_SHARED_FFN = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "share_expert_dim",
    "shared_intermediate_size",
)
_TWO_MATRICES = (
    "opt", "falcon", "mpt", "phi", "starcoder2", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "bloom", "nemotron",
    "nemotron_h", "whisper", "codeshell", "t5",
)  # fmt: skip
"""Families without a gate: two matrices per feed-forward layer instead of three."""
_TIED = (
    "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "cohere", "cohere2",
    "opt", "falcon", "mpt", "gpt2", "gpt_bigcode", "bloom", "whisper",
)  # fmt: skip
"""Families whose output layer is their embedding where the configuration does not say."""
_NO_ROTATION = ("jamba", "mpt", "bloom", "nemotron_h", "opt", "gpt2", "bert", "xlm-roberta", "whisper", "t5")
_VOCAB_STEP = 64
"""Engines pad the vocabulary to a multiple of it."""


def read_parts(whole: ConfigFields, fields: ConfigFields, kinds: Sequence[LayerKind], layers: int) -> tuple[Part, ...]:
    """All parameters but those of draft layers.

    Raises:
        EstimatorError: naming the field that is missing.
    """
    hidden = fields.count(*HIDDEN)
    kinds = _every_layer(fields, kinds, layers)
    parts = [*attention_parts(fields, kinds), *state_parts(fields, kinds), *_feed_forward(fields, kinds, hidden)]
    parts.append(Part("norm", 2 * layers * hidden + hidden, "none", layers=layers))
    parts += _embeddings(whole, fields, hidden, layers)
    if vision := vision_params(whole, hidden):
        parts.append(Part("vision", vision))
    parts += _extras(fields, kinds)
    return tuple(part for part in parts if part.params)


def _extras(fields: ConfigFields, kinds: Sequence[LayerKind]) -> list[Part]:
    """What engines make of the weights: sines and cosines of every position, and MLA's absorbed matrices."""
    parts: list[Part] = []
    attends = any(kind not in {"state", "none"} for kind in kinds)
    positions = fields.count_if_any("max_position_embeddings", "seq_length")
    if attends and positions and not fields.has("learned_pos") and fields.text("model_type") not in _NO_ROTATION:
        scaling = fields.inner("rope_scaling", "rope_parameters")
        factor = scaling.values.get("factor") if scaling else None
        linear = scaling is not None and scaling.text("rope_type", "type") == "linear"
        stretch = int(factor) if linear and isinstance(factor, int | float) and factor >= 1 else 1
        dim = fields.count_if_any("qk_rope_head_dim") or head_dim(fields)
        parts.append(Part("rope", positions * stretch * dim, "none", extra=True))
    if fields.has("kv_lora_rank"):
        layers = sum(kind in {"full", "both"} for kind in kinds)
        each = fields.count(*HEADS) * (fields.count("qk_nope_head_dim") + fields.count("v_head_dim"))
        parts.append(Part("absorbed", layers * each * fields.count("kv_lora_rank"), layers=layers, extra=True))
    return parts


def ffn_size(fields: ConfigFields) -> int | None:
    """Width of a dense feed-forward layer, if there is one."""
    if named := fields.count_if_any("intermediate_size_mlp", "dense_intermediate_size"):
        return named
    if isinstance(fields.values.get("intermediate_size"), list):
        sizes = fields.items("intermediate_size")
        return max((size for size in sizes if isinstance(size, int)), default=None)
    size = fields.count_if_any(*_FFN)
    if size is None and fields.text("model_type") in {"mpt", "falcon", "gpt2", "gpt_bigcode", "bloom"}:
        return 4 * fields.count(*HIDDEN)
    return size


def expert_size(fields: ConfigFields) -> int | None:
    """Width of one expert, if there are any."""
    if fields.count_if_any(*_EXPERTS) is None:
        return None
    return fields.count_if_any(*_EXPERT_FFN) or fields.count_if_any(*_FFN)


def moe_width(fields: ConfigFields) -> int:
    """Experts per token times their width; 0 without experts."""
    size = expert_size(fields)
    return (fields.count_if_any(*_TOP_K) or 1) * size if size else 0


def _every_layer(fields: ConfigFields, kinds: Sequence[LayerKind], layers: int) -> list[LayerKind]:
    """Layers that share the KV of others have weights of their own; they repeat the kinds' pattern."""
    found = list(kinds)
    types = fields.items("layer_types")
    while len(found) < layers:
        i = len(found)
        found.append("full" if i < len(types) and types[i] == "full_attention" else found[-1])
    return found


def _moe_layers(fields: ConfigFields, kinds: Sequence[LayerKind]) -> int:
    layers = len(kinds)
    if word := fields.text("hybrid_override_pattern"):
        return word.count("E")
    for name, marks in (("layers_block_type", {"moe"}), ("mlp_layer_types", {"sparse"})):
        if types := fields.items(name):
            if not marks & set(types) and name == "layers_block_type":
                break
            return sum(kind in marks for kind in types[:layers])
    if freq := fields.values.get("moe_layer_freq"):
        if isinstance(freq, list):
            return sum(1 for mark in freq[:layers] if mark)
        return len(range(fields.whole("first_k_dense_replace"), layers, freq if isinstance(freq, int) else 1))
    if period := fields.count_if_any("expert_layer_period"):
        offset = fields.whole("expert_layer_offset")
        return sum(i % period == offset % period for i in range(layers))
    if named := fields.items("moe_layers"):
        return len(named)
    if step := fields.count_if_any("interleave_moe_layer_step"):
        return layers // step
    first = fields.whole("first_k_dense_replace", fields.whole("num_dense_layers"))
    step = fields.count_if_any("decoder_sparse_step") or 1
    dense = {i for i in fields.items("mlp_only_layers") if isinstance(i, int)}
    return sum((i + 1) % step == 0 and i >= first and i not in dense for i in range(layers))


def _feed_forward(fields: ConfigFields, kinds: Sequence[LayerKind], hidden: int) -> list[Part]:
    family = fields.text("model_type")
    two = family in _TWO_MATRICES and not fields.text("feed_forward_proj").startswith("gated")
    matrices = 2 if two or fields.text("ffn") == "2mat" else 3
    experts = fields.count_if_any(*_EXPERTS)
    spelled = fields.text("hybrid_override_pattern") or any(kind == "moe" for kind in fields.items("layers_block_type"))
    if experts and experts > 1:
        parts = _experts(fields, kinds, hidden, matrices, experts)
        moe = _moe_layers(fields, kinds)
        dense = len(kinds) if fields.has("enable_moe_block") else len(kinds) - moe
    else:
        parts, dense = [], len(kinds)
    if spelled:
        dense = fields.text("hybrid_override_pattern").count("-")
    if configs := fields.items("block_configs"):
        return [*parts, _searched(fields, configs, hidden)]
    if family in {"mamba", "mamba2", "falcon_mamba"}:
        return parts
    if family.startswith("rwkv"):
        raise EstimatorError(f"{fields.model} is of the RWKV family, whose parameters cannot be counted yet.")
    if dense:
        size = ffn_size(fields)
        if size is None:
            size = fields.count(*_FFN)
        # Engines build Jamba's dense layers as one expert each, and quantise them as such.
        role: Role = "experts" if family == "jamba" else "mlp"
        parts.append(Part(role, dense * matrices * hidden * size, layers=dense, width=size))
        parts.append(Part("norm", dense * (size + hidden) if _biased(fields) else 0, layers=dense))
    return parts


def _biased(fields: ConfigFields) -> bool:
    return fields.has("lin_bias") or fields.has("mlp_bias") or fields.text("model_type") in {"opt", "gpt2", "phi"}


def _experts(fields: ConfigFields, kinds: Sequence[LayerKind], hidden: int, matrices: int, experts: int) -> list[Part]:
    layers = _moe_layers(fields, kinds)
    size = fields.count_if_any(*_EXPERT_FFN) or fields.count(*_FFN)
    if fields.text("model_type").startswith("llama4"):
        size = fields.count("intermediate_size")
    inner = fields.count_if_any("moe_latent_size", "routed_expert_hidden_size") or hidden
    parts = [
        Part("experts", layers * experts * matrices * inner * size, "experts", layers=layers, width=size),
        Part("router", layers * experts * hidden, "none", layers=layers),
    ]
    if inner != hidden:
        parts.append(Part("shared", layers * 2 * hidden * inner, "none", layers=layers))
    shared = fields.any_count(*_SHARED_FFN)
    if not shared:
        shared = size * fields.any_count("n_shared_experts", "num_shared_experts")
    if not shared and fields.text("model_type").startswith("llama4"):
        shared = size
    if shared:
        parts.append(Part("shared", layers * matrices * hidden * shared, layers=layers, width=shared))
    return parts


def _searched(fields: ConfigFields, configs: Sequence[object], hidden: int) -> Part:
    """Models cut down by architecture search: each layer's width is a multiple of its own."""
    total = 0
    for block in configs:
        ffn = ConfigFields(fields.model, block).inner("ffn") if isinstance(block, dict) else None
        if ffn is None or ffn.has("no_op"):
            continue
        if ffn.has("replace_with_linear"):
            total += hidden * hidden
            continue
        size = ffn.count_if_any("intermediate_size")
        if size is None:
            factor = ffn.values.get("ffn_mult")
            if not isinstance(factor, int | float):
                raise EstimatorError(f"Field 'block_configs' of {fields.model} names no width for a layer.")
            size = -(-int(2 * factor * hidden / 3) // 256) * 256
        total += 3 * hidden * size
    return Part("mlp", total, layers=len(configs))


def _embeddings(whole: ConfigFields, fields: ConfigFields, hidden: int, layers: int) -> list[Part]:
    vocab = fields.count_if_any("vocab_size", "padded_vocab_size") or whole.count("vocab_size")
    rows = -(-vocab // _VOCAB_STEP) * _VOCAB_STEP
    parts = [Part("embedding", rows * hidden, "vocab")]
    if not _tied(whole, fields):
        parts.append(Part("head", rows * hidden, "vocab"))
    if positions := fields.count_if_any("learned_pos"):
        parts.append(Part("embedding", positions * hidden, "none"))
    if inner := fields.any_count("hidden_size_per_layer_input"):
        own = fields.count_if_any("vocab_size_per_layer_input") or vocab
        parts.append(Part("embedding", own * inner * layers, "vocab"))
        parts.append(Part("mlp", 3 * hidden * inner * layers, layers=layers))
    return parts


def _tied(whole: ConfigFields, fields: ConfigFields) -> bool:
    if fields.text("model_type") in {"gemma3_text", "gemma4_text", "gemma3n_text"}:
        return fields.values.get("tie_word_embeddings") is not False
    for level in (whole, fields):
        said = level.values.get("tie_word_embeddings")
        if isinstance(said, bool):
            return said
    return fields.text("model_type") in _TIED
