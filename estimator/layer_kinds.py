"""Which kind of attention each layer of a model has, from the fields its family says it with."""

from __future__ import annotations

from estimator.architecture import AttentionKind
from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError

_KINDS: dict[str, AttentionKind] = {
    "full_attention": "full",
    "attention": "full",
    "deepseek_sparse_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
}
_FULL_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gemma3n_text": 5, "cohere2": 4, "gpt_oss": 2}
"""Every how manieth layer is full where the configuration leaves it to the family; the others are sliding."""
_LLAMA4_FULL_EVERY = 4

_NOT_PRICED = {
    "mamba": "the state of Mamba layers",
    "ssm_": "the state of Mamba layers",
    "state_size": "the state of Mamba layers",
    "time_step": "the state of Mamba layers",
    "hybrid_override_pattern": "the state of Mamba layers",
    "layers_block_type": "layers of several block types",
    "block_types": "layers of several block types",
    "attn_layer_period": "the state of layers between the attention layers",
    "linear_attn": "the state of linear-attention layers",
    "linear_key": "the state of linear-attention layers",
    "linear_num": "the state of linear-attention layers",
    "full_attention_interval": "the state of linear-attention layers",
    "conv_L_cache": "the state of convolution layers",
    "rwkv": "the state of RWKV layers",
    "lru_width": "the state of recurrent layers",
    "recurrent": "the state of recurrent layers",
    "compress_ratios": "compressed attention",
    "block_configs": "attention that differs from layer to layer",
    "num_key_value_heads_per_layer": "attention that differs from layer to layer",
    "attention_types": "attention that differs from layer to layer",
    "cross_attention_layers": "cross-attention layers",
}
"""Starts of field names, and what the model keeps besides plain KV when such a field is set."""
_ENCODERS = ("bert", "electra", "mpnet", "clipmodel", "siglip")
"""Parts of the names of models that only encode: they keep no KV cache. ("is_encoder_decoder" marks the others.)"""


def refuse_what_is_not_priced(fields: ConfigFields, architecture: str) -> None:
    """Stop at a model whose cache holds something that the rules here do not price.

    Raises:
        EstimatorError: naming the field and what is missing.
    """
    if fields.has("is_encoder_decoder") or any(part in architecture.lower() for part in _ENCODERS):
        raise EstimatorError(f"{fields.model} ({architecture}) has an encoder: only plain decoders are priced so far.")
    for name in fields.values:
        for start, what in _NOT_PRICED.items():
            if name.startswith(start) and fields.has(name):
                raise EstimatorError(f"{fields.model} ({architecture}) has {name!r}: {what} cannot be priced yet.")
    if any(kind != 1 for kind in fields.items("attn_type_list")):
        raise EstimatorError(f"{fields.model} has linear layers in 'attn_type_list': their state cannot be priced yet.")


def layer_kinds(fields: ConfigFields, layers: int, context_tokens: int) -> tuple[AttentionKind, ...]:
    """The kind of every layer that keeps KV of its own, first to last.

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


def _all_layers(fields: ConfigFields, layers: int, context_tokens: int) -> tuple[AttentionKind, ...]:
    # 1. Spelled out, layer by layer. 2. Chunks by family. 3. No window at all. 4. A window in the upper layers, in all
    # but every manieth, or in all.
    if types := fields.items("layer_types"):
        return _from_names(fields, [_KINDS.get(str(name)) for name in types], "layer_types", layers)
    if pattern := fields.items("hybrid_layer_pattern"):
        return _from_names(fields, ["sliding" if mark else "full" for mark in pattern], "hybrid_layer_pattern", layers)
    family = fields.text("model_type")
    if family.startswith("llama4") and fields.has("attention_chunk_size"):
        if marks := fields.items("no_rope_layers"):
            return _from_names(fields, ["chunked" if mark else "full" for mark in marks], "no_rope_layers", layers)
        return _full_every(_LLAMA4_FULL_EVERY, layers, "chunked")
    if not fields.has("sliding_window") or fields.values.get("use_sliding_window") is False:
        return _all("full", layers)
    if fields.has("use_sliding_window") and (lower := fields.values.get("max_window_layers")) is not None:
        full = min(layers, lower) if isinstance(lower, int) else layers
        return (*_all("full", full), *_all("sliding", layers - full))
    if every := _sliding_pattern(fields, family):
        return _full_every(every, layers, "sliding")
    # One window for all: no window if no sequence can outgrow it.
    return _all("full" if fields.count("sliding_window") >= context_tokens else "sliding", layers)


def _sliding_pattern(fields: ConfigFields, family: str) -> int | None:
    for name in ("sliding_window_pattern", "_sliding_window_pattern"):
        spelled = fields.text(name)
        if spelled:  # such as "LLLG": local, local, local, global
            return len(spelled)
        if every := fields.count_if_any(name):
            return every
    return _FULL_EVERY.get(family)


def _all(kind: AttentionKind, layers: int) -> tuple[AttentionKind, ...]:
    return (kind,) * layers


def _full_every(every: int, layers: int, other: AttentionKind) -> tuple[AttentionKind, ...]:
    return tuple("full" if (i + 1) % every == 0 else other for i in range(layers))


def _from_names(
    fields: ConfigFields, kinds: list[AttentionKind | None], field: str, layers: int
) -> tuple[AttentionKind, ...]:
    if len(kinds) < layers:
        raise EstimatorError(f"Field {field!r} of {fields.model} has {len(kinds)} entries for {layers} layers.")
    known: list[AttentionKind] = []
    for i, kind in enumerate(kinds[:layers]):  # entries beyond are those of draft layers
        if kind is None:
            name = fields.items(field)[i]
            raise EstimatorError(f"Layer {i} of {fields.model} is {name!r} in {field!r}: it cannot be priced yet.")
        known.append(kind)
    return tuple(known)
