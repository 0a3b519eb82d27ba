"""Attention layers of a configuration as `Attention`s: heads, latents, windows and indices by their many names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from estimator.architecture import Attention, AttentionKind
from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError
from estimator.layer_kinds import LayerKind

HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim")
_WINDOW_PLUS_ONE = ("cohere2",)
"""Families whose layers also see the token just before their window."""
_ENCODER_TOKENS = 1500
"""Length of Whisper's encoder, for models that do not say theirs."""
_COMPRESSED_BYTES, _INDEXED_UP_TO = 584, 4
_IMAGE_TOKENS = 6404
"""Four tiles of 1,601 patches: what the vision part of Llama 3.2 hands to its cross-attention at most."""


def read_attentions(fields: ConfigFields, kinds: Sequence[LayerKind]) -> tuple[Attention, ...]:
    """Group the attention layers by what they keep, in the order of their first layer."""
    counts: Counter[AttentionKind] = Counter()
    for kind in kinds:
        match kind:
            case "both":
                counts["full"] += 1
            case "full" | "sliding" | "chunked" | "cross":
                counts[kind] += 1
            case _:
                pass
    if ratios := fields.items("compress_ratios"):
        return _compressed(fields, ratios[: len(kinds)])
    if fields.has("kv_lora_rank"):
        if set(counts) - {"full"}:
            raise EstimatorError(
                f"{fields.model} has 'kv_lora_rank' and windows: latents in windows cannot be priced yet."
            )
        return (_latent(fields, counts["full"]),) if counts["full"] else ()
    if per_layer := _kv_heads_per_layer(fields, kinds):
        dim = head_dim(fields)
        return tuple(Attention("full", layers, heads, dim, dim) for heads, layers in Counter(per_layer).items())
    return tuple(_heads(fields, kind, layers) for kind, layers in counts.items())


def _latent(fields: ConfigFields, layers: int) -> Attention:
    """MLA: one compressed vector with its rotary part, whole on every rank; sparse attention adds an index."""
    rope, heads = fields.count("qk_rope_head_dim"), fields.count_if_any(*HEADS) or 0
    key_dim = fields.count("kv_lora_rank") + rope
    wide_key = heads * ((fields.count_if_any("qk_nope_head_dim") or 0) + rope)
    wide_value = heads * (fields.count_if_any("v_head_dim") or 0)
    index_dim = fields.count_if_any("index_head_dim")
    if not index_dim:
        return Attention("full", layers, 1, key_dim, 0, wide_key=wide_key, wide_value=wide_value)
    types = fields.items("indexer_types")[:layers]
    index_layers = sum(kind == "full" for kind in types) if types else layers
    index_bytes = index_dim + 4 * -(-index_dim // 128)  # fp8, with one 32-bit scale per 128 values
    return Attention("full", layers, 1, key_dim, 0, 0, index_layers, index_bytes, wide_key, wide_value)


def _compressed(fields: ConfigFields, ratios: Sequence[object]) -> tuple[Attention, ...]:
    """DeepSeek V4: a window of plain latents in every layer, and latents of several tokens each in most.

    Those of few tokens have an index beside them. In 8 bits a latent takes 448 + 128 bytes and 8 of scales.
    """
    dim, packed = head_dim(fields), _COMPRESSED_BYTES
    window = Attention("sliding", len(ratios), 1, dim, 0, fields.count("sliding_window"), packed_bytes=packed)
    index = (fields.count_if_any("index_head_dim") or 0) + 4
    found = []
    for ratio, layers in sorted(Counter(ratio for ratio in ratios if isinstance(ratio, int) and ratio > 1).items()):
        indexed = layers if ratio <= _INDEXED_UP_TO else 0
        per_token = index // ratio if indexed else 0
        found.append(Attention("full", layers, 1, dim, 0, 0, indexed, per_token, 0, 0, ratio, packed))
    return (*found, window)


def _kv_heads_per_layer(fields: ConfigFields, kinds: Sequence[LayerKind]) -> list[int]:
    """KV heads of each attention layer where they differ: models cut down by architecture search."""
    if heads := fields.items("num_key_value_heads_per_layer"):
        return [ConfigFields(fields.model, {"num_key_value_heads": n}).count("num_key_value_heads") for n in heads]
    blocks = fields.items("block_configs")
    found: list[int] = []
    for kind, block in zip(kinds, blocks, strict=False):
        if kind == "none" or not isinstance(block, dict):
            continue
        attention = ConfigFields(fields.model, block).inner("attention")
        if attention is not None:
            found.append(fields.count(*HEADS) // attention.count("n_heads_in_group"))
    return found


def _heads(fields: ConfigFields, kind: AttentionKind, layers: int) -> Attention:
    """MHA, GQA and MQA."""
    heads, key_dim = kv_heads(fields), head_dim(fields)
    value_dim = fields.count_if_any("v_head_dim") or key_dim
    window = 0
    match kind:
        case "full":
            heads = fields.count_if_any("num_global_key_value_heads") or heads
            if wide := fields.count_if_any("global_head_dim"):
                key_dim = value_dim = wide
        case "sliding":
            window = fields.count("sliding_window") + (fields.text("model_type") in _WINDOW_PLUS_ONE)
            heads = fields.count_if_any("swa_num_key_value_heads") or heads
            key_dim = fields.count_if_any("swa_head_dim") or key_dim
            value_dim = fields.count_if_any("swa_v_head_dim") or value_dim
        case "chunked":
            window = fields.count("attention_chunk_size")
        case "cross":
            window = fields.count_if_any("max_source_positions") or _IMAGE_TOKENS
        case "encoder":
            pass
    sparse = fields.inner("sparse_attention_config")
    if sparse is None or not sparse.has("use_sparse_attention"):
        return Attention(kind, layers, heads, key_dim, value_dim, window)
    index_layers = sum(mark == 1 for mark in sparse.items("sparse_attention_freq")[:layers])
    return Attention(
        kind, layers, heads, key_dim, value_dim, window, index_layers, 2 * sparse.count("sparse_index_dim")
    )


def read_encoder(fields: ConfigFields, layers: int) -> tuple[Attention, ...]:
    """Layers that look both ways: engines built for them keep nothing, the others a cache they do not need."""
    return (_heads(fields, "encoder", layers),)


def read_encoder_decoder(fields: ConfigFields, layers: int) -> tuple[Attention, ...]:
    """Each decoder layer keeps its own tokens, and the encoder's once per request."""
    own = _heads(fields, "full", layers)
    length = fields.count_if_any("max_source_positions") or _ENCODER_TOKENS
    return own, Attention("cross", layers, own.kv_heads, own.key_dim, own.value_dim, length)


def kv_heads(fields: ConfigFields) -> int:
    """Heads that keep keys and values.

    Raises:
        EstimatorError: where no field says how many.
    """
    if fields.has("multi_query") and not fields.has("new_decoder_architecture"):
        return 1
    if (nested := fields.inner("attn_config")) and (heads := nested.count_if_any("kv_n_heads")):
        return heads
    named = fields.count_if_any("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "n_head_kv")
    return named or fields.count(*HEADS)


def head_dim(fields: ConfigFields) -> int:
    """Elements of one head.

    Raises:
        EstimatorError: where it is neither named nor a whole part of the width.
    """
    if named := fields.count_if_any("head_dim", "attention_head_dim", "kv_channels", "d_kv"):
        return named
    hidden = fields.count(*HIDDEN)
    heads = fields.count(*HEADS)
    if hidden % heads:
        raise EstimatorError(
            f"{fields.model} has no 'head_dim', and its 'hidden_size' {hidden} is no multiple of its {heads} heads."
        )
    return hidden // heads
