"""llama.cpp's buffers, as its logs print them."""

import pytest

from estimator import load_model
from estimator.llamacpp import LlamaContext, LlamaLayers, layers_of, llama_cache

MIB = 2**20


@pytest.mark.parametrize(
    ("layers", "context", "mib"),
    [
        (LlamaLayers(32, 1024, 1024), LlamaContext(131_072), 16_384),
        (LlamaLayers(28, 1024, 1024), LlamaContext(32_768, "q8_0", "q8_0", flash_attention=True), 1904),
        (LlamaLayers(61, 24_576, 16_384), LlamaContext(8192, "q4_0", "f16"), 22_204),
        (LlamaLayers(60, 24_576, 16_384), LlamaContext(4096), 19_200),
        (LlamaLayers(40, 5120, 5120), LlamaContext(512), 400),
        (LlamaLayers(62, 1024, 1024), LlamaContext(6120, padded=False), 1482.19),
    ],
)
def test_one_buffer(layers: LlamaLayers, context: LlamaContext, mib: float) -> None:
    """Types of keys and values, padding, and what is asked for."""
    assert llama_cache((layers,), context).kv_bytes / MIB == pytest.approx(mib, abs=0.01)


@pytest.mark.parametrize(
    ("name", "tokens", "mib"),
    [("google/gemma-3-4b-it", 4096, 80 + 174), ("google/gemma-3n-E4B-it", 32_768, 256 + 32)],
)
def test_windows_have_small_buffers(name: str, tokens: int, mib: float) -> None:
    """The window, a batch, padded to 256; Gemma 3n's last layers keep nothing."""
    layers = layers_of(load_model(name))
    assert llama_cache(layers, LlamaContext(tokens)).kv_bytes == mib * MIB
    whole = llama_cache(layers, LlamaContext(tokens, windows=False)).kv_bytes
    assert whole > 2 * mib * MIB


@pytest.mark.parametrize(
    ("name", "mib"),
    [("state-spaces/mamba-2.8b-hf", 23.75), ("RWKV/v6-Finch-7B-HF", 33), ("featherless-ai/Qwerky-72B", 322.5)],
)
def test_states_are_kept_in_32_bits(name: str, mib: float) -> None:
    """One per sequence, whatever the context."""
    model = load_model(name)
    found = llama_cache(layers_of(model), LlamaContext(2048), model)
    assert (found.kv_bytes, found.state_bytes) == (0, mib * MIB)
    assert llama_cache((), LlamaContext(2048, sequences=4), model).state_bytes == 4 * mib * MIB


def test_latents_before_and_after_april_2025() -> None:
    """DeepSeek R1: keys and values of all heads, then 576 and 512 elements a layer."""
    model = load_model("deepseek-ai/DeepSeek-R1")
    (wide,), (narrow,) = layers_of(model, expanded=True), layers_of(model)
    assert (wide.key_elements, wide.value_elements) == (24_576, 16_384)
    assert llama_cache((narrow,), LlamaContext(256)).kv_bytes == 256 * 132_736


@pytest.mark.parametrize(
    ("context", "cells"),
    [
        (LlamaContext(32_678), 32_704),
        (LlamaContext(32_678, flash_attention=True), 32_768),
        (LlamaContext(3900, padded=False), 3900),
    ],
)
def test_cells_are_padded(context: LlamaContext, cells: int) -> None:
    """To 32, to 256 with flash attention, or not at all in old versions."""
    assert llama_cache((LlamaLayers(1, 1, 1),), context).cells == cells
