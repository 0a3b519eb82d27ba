"""KV cache of llama.cpp: cells allocated at start for the whole context, in buffers by kind of layer.

Source: llama.cpp's KV cache classes of 2023 to 2025, checked against their own "KV self size" lines.
"""

from __future__ import annotations

from dataclasses import dataclass

from estimator.architecture import Attention, Model
from estimator.kv_formats import kv_format

_PAD_FLASH, _PAD, _PAD_WINDOW = 256, 32, 256


@dataclass(frozen=True, slots=True)
class LlamaLayers:
    """Layers that keep the same."""

    layers: int
    key_elements: int
    """Elements of one token's keys in one layer, over all heads ("n_embd_k_gqa")."""
    value_elements: int
    window: int = 0


@dataclass(frozen=True, slots=True)
class LlamaContext:
    """How a context is opened."""

    tokens: int
    """"n_ctx"."""
    key_type: str = "f16"
    value_type: str = "f16"
    """Other than f16 only with flash attention."""
    batch_tokens: int = 512
    """"n_ubatch"."""
    sequences: int = 1
    flash_attention: bool = False
    padded: bool = True
    """False for versions of 2023 and early 2024, which allocate exactly what is asked for."""
    windows: bool = True
    """Whether layers with a window have a small buffer of their own (since May 2025, without `--swa-full`)."""


@dataclass(frozen=True, slots=True)
class LlamaCache:
    """What is allocated."""

    kv_bytes: int
    state_bytes: int
    """Recurrent states ("RS buffer"; a part of "KV self size" in versions before 2025)."""
    cells: int
    """Of the layers that see everything."""


def layers_of(model: Model, *, expanded: bool = False) -> tuple[LlamaLayers, ...]:
    """A model's layers as llama.cpp keeps them.

    Args:
        model: from `load_model`.
        expanded: whether latents are kept as keys and values of all heads, as before April 2025.
    """
    return tuple(_layers(attention, expanded=expanded) for attention in model.attentions)


def _layers(attention: Attention, *, expanded: bool) -> LlamaLayers:
    if attention.latent:
        if expanded:
            return LlamaLayers(attention.layers, attention.wide_key, attention.wide_value)
        # The values are a view of the keys, but counted beside them: all but the rotary part of 64.
        return LlamaLayers(attention.layers, attention.key_dim, attention.key_dim - 64)
    heads = attention.kv_heads
    window = attention.window if attention.kind in {"sliding", "chunked"} else 0
    return LlamaLayers(attention.layers, heads * attention.key_dim, heads * attention.value_dim, window)


def llama_cache(layers: tuple[LlamaLayers, ...], context: LlamaContext, model: Model | None = None) -> LlamaCache:
    """Bytes of all buffers.

    Args:
        layers: from `layers_of`, or as the file's header says.
        context: how it is opened.
        model: for the states of its recurrent layers.

    Raises:
        EstimatorError: for types that are not known.
    """
    cells = (
        _padded(context.tokens, _PAD_FLASH if context.flash_attention else _PAD) if context.padded else context.tokens
    )
    small = context.batch_tokens
    key, value = kv_format(context.key_type).element_bytes, kv_format(context.value_type).element_bytes
    total = 0.0
    for each in layers:
        held = cells
        if each.window and context.windows:
            held = _padded(min(cells, each.window * context.sequences + small), _PAD_WINDOW)
        total += each.layers * held * (each.key_elements * key + each.value_elements * value)
    states = 0
    for state in model.states if model else ():
        inputs = (state.channels + state.groups * state.group_channels) * state.taps
        states += state.layers * context.sequences * 4 * (inputs + state.elements)
    return LlamaCache(round(total), states, cells)


def _padded(tokens: int, step: int) -> int:
    return -(-tokens // step) * step
