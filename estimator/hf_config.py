"""Reads a Hugging Face `config.json` into a `Model`: nested text parts, family defaults, limits and doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from estimator.architecture import Attention, Model, State
from estimator.attention_fields import HEADS, HIDDEN, read_attentions, read_encoder, read_encoder_decoder
from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError
from estimator.layer_kinds import LayerKind, all_layers, layer_kinds, refuse_what_is_not_priced
from estimator.parts import Part
from estimator.quantization import read_quantization
from estimator.states import read_state
from estimator.weight_fields import ffn_size, moe_width, read_parts

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers")
_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "model_max_length",
    "max_target_positions",
    "n_ctx",
)
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "text_model_config")
_MEDIA_PARTS = ("vision_config", "audio_config", "vision_tower_config", "thinker_config", "vit_config", "visual")
_FAMILY_DEFAULTS: dict[str, dict[str, object]] = {
    # transformers writes only what differs from the family's defaults into nested text configurations.
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "vocab_size": 262_208,
    },
}
_SERVED_AS = {"float32": "float16", "float": "float16", "half": "float16", "float64": "float16"}
"""Engines serve 32-bit checkpoints in 16 bits, and keep their KV so, unless told otherwise."""
_LAYERS_MAX = 4096
_ENDLESS_TOKENS = 2**20
"""Context of a model that has nothing but states and names no limit."""
_ENCODERS = ("bert", "electra", "mpnet", "clipmodel", "siglip")
"""Parts of the names of models that only encode."""


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
    fields = text_part(whole)
    names = whole.items("architectures") or fields.items("architectures")
    architecture = str(names[0]) if names else fields.text("model_type") or "unknown"
    refuse_what_is_not_priced(fields, architecture)
    layers = _layers(fields)
    kinds, attentions, states, context = _layers_by_kind(fields, architecture, layers)
    dtype = fields.text("torch_dtype", "dtype") or whole.text("torch_dtype", "dtype")
    parts, missing = _parts(whole, fields, kinds, layers)
    return Model(
        name=name,
        architecture=architecture,
        attentions=attentions,
        attention_heads=_attention_heads(fields, attentions),
        context_tokens=context,
        dtype=_SERVED_AS.get(dtype, dtype or "bfloat16"),
        source=source,
        notes=tuple(_notes(whole, fields, dtype)),
        doubts=tuple(_doubts(fields)),
        states=states,
        parts=parts,
        parts_missing=missing,
        quantization=read_quantization(whole, fields),
        hidden_size=fields.count_if_any(*HIDDEN) or 0,
        ffn_size=ffn_size(fields) or 0,
        moe_width=moe_width(fields),
        vocab_size=fields.count_if_any("vocab_size") or whole.count_if_any("vocab_size") or 0,
        multimodal=whole.inner(*_MEDIA_PARTS) is not None or whole.has("multimodal"),
        draft_layers=draft_layers(fields),
    )


def text_part(whole: ConfigFields) -> ConfigFields:
    """The part that describes the language model, with what its family leaves out."""
    text = whole.inner(*_TEXT_PARTS)
    if thinker := whole.inner("thinker_config"):
        text = thinker.inner("text_config")
    fields = text or whole
    defaults = _FAMILY_DEFAULTS.get(fields.text("model_type"))
    return ConfigFields(fields.model, {**defaults, **fields.values}) if defaults else fields


def draft_layers(fields: ConfigFields) -> int:
    """Layers for multi-token prediction that come with the model."""
    return fields.any_count("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")


def _layers(fields: ConfigFields) -> int:
    layers = fields.count_if_any(*_LAYERS) or len(fields.items("layers_block_type")) or fields.count(*_LAYERS)
    if layers > _LAYERS_MAX:
        raise EstimatorError(
            f"Field 'num_hidden_layers' of {fields.model} is {layers:,}: no model has more than {_LAYERS_MAX:,}."
        )
    return layers


def _layers_by_kind(
    fields: ConfigFields, architecture: str, layers: int
) -> tuple[tuple[LayerKind, ...], tuple[Attention, ...], tuple[State, ...], int]:
    context = fields.count_if_any(*_CONTEXT)
    if fields.has("is_encoder_decoder"):
        return all_layers("full", layers), read_encoder_decoder(fields, layers), (), context or fields.count(*_CONTEXT)
    if any(part in architecture.lower() for part in _ENCODERS):
        return all_layers("full", layers), read_encoder(fields, layers), (), context or fields.count(*_CONTEXT)
    kinds = layer_kinds(fields, layers, context or _ENDLESS_TOKENS)
    attentions = read_attentions(fields, kinds)
    with_state = sum(kind in {"state", "both"} for kind in kinds)
    states = (read_state(fields, with_state),) if with_state else ()
    if attentions and context is None:
        context = fields.count(*_CONTEXT)
    return kinds, attentions, states, context or _ENDLESS_TOKENS


def _attention_heads(fields: ConfigFields, attentions: Sequence[Attention]) -> int:
    """Heads that tensor parallelism divides; a model without attention has those of its state, if it names them."""
    if attentions:
        return fields.count(*HEADS)
    return fields.count_if_any("num_heads", "mamba_num_heads", *HEADS) or fields.count(*HIDDEN)


def _parts(
    whole: ConfigFields, fields: ConfigFields, kinds: tuple[LayerKind, ...], layers: int
) -> tuple[tuple[Part, ...], str]:
    """Weights need more fields than the cache: a description without them is still worth having."""
    try:
        return read_parts(whole, fields, kinds, layers), ""
    except EstimatorError as error:
        return (), str(error)


def _doubts(fields: ConfigFields) -> list[str]:
    doubts = []
    if fields.has("compress_ratios"):
        doubts.append("Its attention compresses tokens: what compressors keep of unfinished groups is left out.")
    if fields.has("use_cla"):
        doubts.append("Its layers share KV in ways that only some engines use: every layer is counted.")
    if fields.has("sparse_attention_config") and fields.text("model_type") not in {"minimax_m3", ""}:
        doubts.append("Its sparse attention may keep an index of another make than the one counted here.")
    return doubts


def _notes(whole: ConfigFields, fields: ConfigFields, dtype: str) -> list[str]:
    notes = []
    if not dtype:
        notes.append("The configuration names no dtype: a 16-bit KV cache is assumed.")
    elif dtype in _SERVED_AS:
        notes.append(f"The checkpoint is {dtype}; engines serve it, and keep its KV cache, in 16 bits.")
    if (quantised := whole.inner("quantization_config")) and quantised.values.get("kv_cache_scheme"):
        notes.append("The checkpoint carries scales for an 8-bit KV cache: if the engine uses them, price it with fp8.")
    if drafts := draft_layers(fields):
        notes.append(f"With speculative decoding by its own {drafts} draft layer(s), each costs as much KV as a layer.")
    return notes
