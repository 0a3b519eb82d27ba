"""What each layer of a model keeps, from the fields its family says it with."""

from __future__ import annotations

from typing import Literal

from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError

LayerKind = Literal["full", "sliding", "chunked", "cross", "state", "both", "none"]
"""Attention by what it sees; a state per sequence; both side by side; or nothing that lasts."""

_KINDS: dict[str, LayerKind] = {
    "full_attention": "full",
    "attention": "full",
    "global_attention": "full",
    "deepseek_sparse_attention": "full",
    "sparse_attention": "full",
    "sliding_attention": "sliding",
    "sliding_window_attention": "sliding",
    "local_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "state",
    "gated_deltanet": "state",
    "mamba": "state",
    "mamba2": "state",
    "kda": "state",
    "conv": "state",
    "short_conv": "state",
    "hybrid": "both",
    "mlp": "none",
    "moe": "none",
}
_LETTERS: dict[str, LayerKind] = {"M": "state", "*": "full", "-": "none", "E": "none"}
"""Nemotron-H spells its layers out in one word."""
FULL_EVERY = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3_text": 6,
    "gemma3n": 5,
    "gemma3n_text": 5,
    "gemma4_text": 6,
    "cohere2": 4,
    "exaone4": 4,
    "gpt_oss": 2,
}
"""Every how manieth layer is full where the configuration leaves it to the family; the others are sliding."""
_LLAMA4_FULL_EVERY = 4
_BOTH = ("falcon_h1",)
_STATE_ONLY = ("mamba", "mamba2", "falcon_mamba")

_NOT_PRICED = {
    "lru_width": "the state of recurrent layers",
    "recurrent": "the state of recurrent layers",
    "mtp_block_configs": "draft layers of their own make",
}
"""Starts of field names, and what the model keeps besides plain KV when such a field is set."""


def refuse_what_is_not_priced(fields: ConfigFields, architecture: str) -> None:
    """Stop at a model whose cache holds something that the rules here do not price.

    Raises:
        EstimatorError: naming the field and what is missing.
    """
    for name in fields.values:
        for start, what in _NOT_PRICED.items():
            if name.startswith(start) and fields.has(name):
                raise EstimatorError(f"{fields.model} ({architecture}) has {name!r}: {what} cannot be priced yet.")


def layer_kinds(fields: ConfigFields, layers: int, context_tokens: int) -> tuple[LayerKind, ...]:
    """The kind of every layer that keeps something of its own, first to last.

    Raises:
        EstimatorError: for kinds that are not known, and lists that do not fit the number of layers.
    """
    kinds = _all_layers(fields, layers, context_tokens)
    if not fields.has("num_kv_shared_layers"):
        return kinds
    shared = fields.count("num_kv_shared_layers")
    if shared >= layers:
        raise EstimatorError(f"Field 'num_kv_shared_layers' of {fields.model} is {shared}, of {layers} layers in all.")
    return kinds[: layers - shared]


def _all_layers(fields: ConfigFields, layers: int, context_tokens: int) -> tuple[LayerKind, ...]:
    # 1. Spelled out, layer by layer. 2. States by rule. 3. Windows by family or pattern.
    return _spelled_out(fields, layers) or _with_states(fields, layers) or _windows(fields, layers, context_tokens)


def _spelled_out(fields: ConfigFields, layers: int) -> tuple[LayerKind, ...]:
    for name in ("layer_types", "layers_block_type", "block_types"):
        if types := fields.items(name):
            return _from_names(fields, [_KINDS.get(str(kind)) for kind in types], name, layers)
    if word := fields.text("hybrid_override_pattern"):
        return _from_names(fields, [_LETTERS.get(letter) for letter in word], "hybrid_override_pattern", layers)
    if pattern := fields.items("hybrid_layer_pattern"):
        return _from_names(fields, ["sliding" if mark else "full" for mark in pattern], "hybrid_layer_pattern", layers)
    if marks := fields.items("attn_type_list"):
        return _from_names(fields, ["full" if mark == 1 else "state" for mark in marks], "attn_type_list", layers)
    if configs := fields.items("block_configs"):
        return _from_names(
            fields, ["full" if _attends(block) else "none" for block in configs], "block_configs", layers
        )
    return ()


def _attends(block: object) -> bool:
    attention = block.get("attention") if isinstance(block, dict) else None
    return isinstance(attention, dict) and not (attention.get("no_op") or attention.get("replace_with_linear"))


def _with_states(fields: ConfigFields, layers: int) -> tuple[LayerKind, ...]:
    family = fields.text("model_type")
    if family in _BOTH:
        return all_layers("both", layers)
    if family in _STATE_ONLY or family.startswith("rwkv"):
        return all_layers("state", layers)
    if period := fields.count_if_any("attn_layer_period"):
        first = fields.whole("attn_layer_offset")
        return tuple("full" if i % period == first % period else "state" for i in range(layers))
    if every := fields.count_if_any("full_attention_interval"):
        return tuple("full" if (i + 1) % every == 0 else "state" for i in range(layers))
    if linear := fields.inner("linear_attn_config"):
        full = linear.items("full_attn_layers")  # counted from 1
        return tuple("full" if i + 1 in full else "state" for i in range(layers))
    for name in ("full_attn_idxs", "attn_layer_indices"):
        if full := fields.items(name):
            return tuple("full" if i in full else "state" for i in range(layers))
    if cross := fields.items("cross_attention_layers"):
        return tuple("cross" if i in cross else "full" for i in range(layers))
    return ()


def _windows(fields: ConfigFields, layers: int, context_tokens: int) -> tuple[LayerKind, ...]:
    family = fields.text("model_type")
    if family.startswith("llama4") and fields.has("attention_chunk_size"):
        if marks := fields.items("no_rope_layers"):
            return _from_names(fields, ["chunked" if mark else "full" for mark in marks], "no_rope_layers", layers)
        return _full_every(_LLAMA4_FULL_EVERY, layers, "chunked")
    if not fields.has("sliding_window") or fields.values.get("use_sliding_window") is False:
        return all_layers("full", layers)
    if fields.has("use_sliding_window") and (lower := fields.values.get("max_window_layers")) is not None:
        full = min(layers, lower) if isinstance(lower, int) else layers
        return (*all_layers("full", full), *all_layers("sliding", layers - full))
    if every := _sliding_pattern(fields, family):
        return _full_every(every, layers, "sliding")
    # One window for all: no window if no sequence can outgrow it.
    return all_layers("full" if fields.count("sliding_window") >= context_tokens else "sliding", layers)


def _sliding_pattern(fields: ConfigFields, family: str) -> int | None:
    for name in ("sliding_window_pattern", "_sliding_window_pattern"):
        spelled = fields.text(name)
        if spelled:  # such as "LLLG": local, local, local, global
            return len(spelled)
        if every := fields.count_if_any(name):
            return every
    return FULL_EVERY.get(family)


def all_layers(kind: LayerKind, layers: int) -> tuple[LayerKind, ...]:
    """Layers of one kind."""
    return (kind,) * layers


def _full_every(every: int, layers: int, other: LayerKind) -> tuple[LayerKind, ...]:
    return tuple("full" if (i + 1) % every == 0 else other for i in range(layers))


def _from_names(fields: ConfigFields, kinds: list[LayerKind | None], field: str, layers: int) -> tuple[LayerKind, ...]:
    if len(kinds) < layers:
        raise EstimatorError(f"Field {field!r} of {fields.model} has {len(kinds)} entries for {layers} layers.")
    known: list[LayerKind] = []
    for i, kind in enumerate(kinds[:layers]):  # entries beyond are those of draft layers
        if kind is None:
            value = fields.values[field]
            name = value[i] if isinstance(value, list | tuple | str) else value
            raise EstimatorError(f"Layer {i} of {fields.model} is {name!r} in {field!r}: it cannot be priced yet.")
        known.append(kind)
    return tuple(known)
