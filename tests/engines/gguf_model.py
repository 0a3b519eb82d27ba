"""Writes a tiny model as a GGUF file with random half-precision weights: what llama.cpp loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.engines import tiny_model
from tests.engines.tiny_model import Shape

SMALL = Shape(layers=8, hidden=512, heads=8, kv_heads=2, head_dim=64)
"""Half as wide as `PACED`: llama.cpp needs weights on disk, and these 37 MB take a third of a second to make."""


def write_gguf(path: Path, shape: Shape = SMALL) -> Path:
    """Writes the model file and gives its path back."""
    tokens, merges = tiny_model.vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    _add_shape(writer, shape)
    special = frozenset(tiny_model.SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokens.index(tiny_model.BEGIN))
    writer.add_eos_token_id(tokens.index(tiny_model.TURN_END))
    writer.add_pad_token_id(tokens.index(tiny_model.PAD))
    writer.add_add_bos_token(False)
    writer.add_chat_template(tiny_model.CHAT_TEMPLATE)
    _add_weights(writer, shape, vocabulary_tokens=len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(tiny_model.CONTEXT_TOKENS)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _add_weights(writer: gguf.GGUFWriter, shape: Shape, vocabulary_tokens: int) -> None:
    random = np.random.default_rng(seed=0)
    hidden, query, key = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def matrix(rows: int, columns: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        return (random.standard_normal((rows, columns), dtype=np.float32) * 0.02).astype(np.float16)

    norm = np.ones(hidden, np.float32)
    writer.add_tensor("token_embd.weight", matrix(vocabulary_tokens, hidden))
    writer.add_tensor("output_norm.weight", norm)
    writer.add_tensor("output.weight", matrix(vocabulary_tokens, hidden))
    for layer in range(shape.layers):
        tensors: dict[str, np.ndarray[Any, Any]] = {
            "attn_norm": norm,
            "ffn_norm": norm,
            "attn_q": matrix(query, hidden),
            "attn_k": matrix(key, hidden),
            "attn_v": matrix(key, hidden),
            "attn_output": matrix(hidden, query),
            "ffn_gate": matrix(shape.feed_forward, hidden),
            "ffn_up": matrix(shape.feed_forward, hidden),
            "ffn_down": matrix(hidden, shape.feed_forward),
        }
        for name, tensor in tensors.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensor)
