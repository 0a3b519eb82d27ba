"""Reads a Hugging Face `config.json` into a `Model`: fields by their many names, nested text parts, family defaults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from estimator.architecture import Attention, AttentionKind, Model
from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError
from estimator.layer_kinds import layer_kinds, refuse_what_is_not_priced

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length")
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
_FAMILY_DEFAULTS: dict[str, dict[str, object]] = {
    # transformers writes only what differs from the family's defaults into nested text configurations.
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
    },
}
_SERVED_AS = {"float32": "float16", "float": "float16", "half": "float16", "float64": "float16"}
"""Engines serve 32-bit checkpoints in 16 bits, and keep their KV so, unless told otherwise."""
_LAYERS_MAX = 4096
_SPARSE_FP8_BYTES = 656
"""Bytes per token and layer of a sparse MLA's latent in fp8: 512 values, 4 scales, a 16-bit rotary part (vLLM)."""


def read_config(config: Mapping[str, object], name: str, source: str) -> Model:
    """Read a configuration.

    Args:
        config: the parsed JSON object.
        name: what to call the model.
        source: where the facts come from.

    Raises:
        EstimatorError: naming the field that is missing, wrong or beyond the rules here.
    """
    whole = ConfigFields(name, config)
    fields = _text_part(whole)
    names = whole.items("architectures") or fields.items("architectures")
    architecture = str(names[0]) if names else fields.text("model_type") or "unknown"
    refuse_what_is_not_priced(fields, architecture)
    context = fields.count(*_CONTEXT)
    layers = fields.count(*_LAYERS)
    if layers > _LAYERS_MAX:
        raise EstimatorError(
            f"Field 'num_hidden_layers' of {name} is {layers:,}: no model has more than {_LAYERS_MAX:,}."
        )
    kinds = layer_kinds(fields, layers, context)
    dtype = fields.text("torch_dtype", "dtype") or whole.text("torch_dtype", "dtype")
    return Model(
        name=name,
        architecture=architecture,
        attentions=_attentions(fields, kinds),
        attention_heads=fields.count(*_HEADS),
        context_tokens=context,
        dtype=_SERVED_AS.get(dtype, dtype or "bfloat16"),
        source=source,
        notes=tuple(_notes(whole, fields, dtype)),
    )


def _text_part(whole: ConfigFields) -> ConfigFields:
    text = whole.inner(*_TEXT_PARTS)
    if thinker := whole.inner("thinker_config"):
        text = thinker.inner("text_config")
    fields = text or whole
    defaults = _FAMILY_DEFAULTS.get(fields.text("model_type"))
    return ConfigFields(fields.model, {**defaults, **fields.values}) if defaults else fields


def _attentions(fields: ConfigFields, kinds: tuple[AttentionKind, ...]) -> tuple[Attention, ...]:
    if fields.has("kv_lora_rank"):
        if set(kinds) != {"full"}:
            raise EstimatorError(
                f"{fields.model} has 'kv_lora_rank' and windows: latents in windows cannot be priced yet."
            )
        return (_latent(fields, len(kinds)),)
    return tuple(_heads(fields, kind, layers) for kind, layers in Counter(kinds).items())


def _latent(fields: ConfigFields, layers: int) -> Attention:
    """MLA: one compressed vector with its rotary part, whole on every rank; sparse attention adds an index."""
    key_dim = fields.count("kv_lora_rank") + fields.count("qk_rope_head_dim")
    index_dim = fields.count_if_any("index_head_dim")
    if not index_dim:
        return Attention("full", layers, 1, key_dim, 0)
    types = fields.items("indexer_types")[:layers]
    index_layers = sum(kind == "full" for kind in types) if types else layers
    index_bytes = index_dim + 4 * -(-index_dim // 128)  # fp8, with one 32-bit scale per 128 values
    return Attention(
        "full", layers, 1, key_dim, 0, index_layers=index_layers, index_bytes=index_bytes, fp8_bytes=_SPARSE_FP8_BYTES
    )


def _heads(fields: ConfigFields, kind: AttentionKind, layers: int) -> Attention:
    """MHA, GQA and MQA."""
    kv_heads, key_dim = _kv_heads(fields), _head_dim(fields)
    value_dim = fields.count_if_any("v_head_dim") or key_dim
    window = 0
    match kind:
        case "full":
            kv_heads = fields.count_if_any("num_global_key_value_heads") or kv_heads
            if wide := fields.count_if_any("global_head_dim"):
                key_dim = value_dim = wide
        case "sliding":
            window = fields.count("sliding_window")
            kv_heads = fields.count_if_any("swa_num_key_value_heads") or kv_heads
            key_dim = fields.count_if_any("swa_head_dim") or key_dim
            value_dim = fields.count_if_any("swa_v_head_dim") or value_dim
        case "chunked":
            window = fields.count("attention_chunk_size")
    sparse = fields.inner("sparse_attention_config")
    if sparse is None or not sparse.has("use_sparse_attention"):
        return Attention(kind, layers, kv_heads, key_dim, value_dim, window)
    index_layers = sum(mark == 1 for mark in sparse.items("sparse_attention_freq")[:layers])
    return Attention(
        kind, layers, kv_heads, key_dim, value_dim, window, index_layers, 2 * sparse.count("sparse_index_dim")
    )


def _kv_heads(fields: ConfigFields) -> int:
    if fields.has("multi_query") and not fields.has("new_decoder_architecture"):
        return 1
    if (nested := fields.inner("attn_config")) and (heads := nested.count_if_any("kv_n_heads")):
        return heads
    named = fields.count_if_any("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv")
    return named or fields.count(*_HEADS)


def _head_dim(fields: ConfigFields) -> int:
    if named := fields.count_if_any("head_dim", "attention_head_dim", "kv_channels"):
        return named
    hidden = fields.count("hidden_size", "n_embd", "d_model")
    heads = fields.count(*_HEADS)
    if hidden % heads:
        raise EstimatorError(
            f"{fields.model} has no 'head_dim', and its 'hidden_size' {hidden} is no multiple of its {heads} heads."
        )
    return hidden // heads


def _notes(whole: ConfigFields, fields: ConfigFields, dtype: str) -> list[str]:
    notes = []
    if not dtype:
        notes.append("The configuration names no dtype: a 16-bit KV cache is assumed.")
    elif dtype in _SERVED_AS:
        notes.append(f"The checkpoint is {dtype}; engines serve it, and keep its KV cache, in 16 bits.")
    if (quantised := whole.inner("quantization_config")) and quantised.values.get("kv_cache_scheme"):
        notes.append("The checkpoint carries scales for an 8-bit KV cache: if the engine uses them, price it with fp8.")
    if drafts := fields.count_if_any("num_nextn_predict_layers") if fields.has("num_nextn_predict_layers") else None:
        notes.append(f"With speculative decoding by its own {drafts} draft layer(s), each costs as much KV as a layer.")
    return notes
