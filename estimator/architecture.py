"""What of a model decides its KV cache: its attention layers by kind, and the limits that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from estimator.errors import EstimatorError

AttentionKind = Literal["full", "sliding", "chunked"]

KV_DTYPE_BYTES: dict[str, float] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
}
"""Bytes of one KV element. Per-tensor scales cost nothing per token."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Layers that keep the same thing for each token."""

    kind: AttentionKind
    layers: int
    kv_heads: int
    """Heads whose keys and values are kept; 1 for a latent, which every rank keeps whole."""
    key_dim: int
    """Elements of one head's key; for a latent the compressed vector with its rotary part."""
    value_dim: int
    """Elements of one head's value; 0 for a latent, whose values are a part of the keys."""
    window: int = 0
    """Tokens a sliding window spans or a chunk holds; 0 for full attention."""
    index_layers: int = 0
    """Layers that also keep a sparse-attention index."""
    index_bytes: int = 0
    """Bytes per token of one such index; its precision is its own, whatever the KV dtype."""
    fp8_bytes: int = 0
    """Bytes per token and layer where 8-bit KV has a format of its own; 0 where an element is simply one byte."""

    def bytes_per_token(self, element_bytes: float, tp: int) -> float:
        """Bytes that one rank keeps for one token in one layer, without index.

        Heads are split over ranks and replicated where there are fewer heads than ranks.
        """
        if self.fp8_bytes and element_bytes == 1:
            return self.fp8_bytes
        heads = max(1, self.kv_heads // tp)
        return heads * (self.key_dim + self.value_dim) * element_bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A model as far as the price of its KV cache goes."""

    name: str
    architecture: str
    attentions: tuple[Attention, ...]
    attention_heads: int
    context_tokens: int
    """Longest sequence its positions reach, as its configuration says."""
    dtype: str
    """Element type of its activations, and of its KV cache where the engine's `kv_dtype` is "auto"."""
    source: str = ""
    """Where the facts come from."""
    notes: tuple[str, ...] = ()
    """What a reader should know before trusting a number."""

    @property
    def layers(self) -> int:
        """Layers that keep KV of their own."""
        return sum(attention.layers for attention in self.attentions)

    def element_bytes(self, kv_dtype: str = "auto") -> float:
        """Bytes of one KV element. Quantised weights do not change it: only `kv_dtype` does.

        Raises:
            EstimatorError: for a dtype that is not in `KV_DTYPE_BYTES`.
        """
        name = self.dtype if kv_dtype == "auto" else kv_dtype
        if name not in KV_DTYPE_BYTES:
            raise EstimatorError(f"KV dtype {name!r} is not known: use auto or one of {', '.join(KV_DTYPE_BYTES)}.")
        return KV_DTYPE_BYTES[name]

    def check_tp(self, tp: int) -> None:
        """Accept only tensor-parallel sizes that engines accept.

        Raises:
            EstimatorError: where `tp` does not divide the heads.
        """
        if tp < 1:
            raise EstimatorError(f"tp is {tp}: it must be 1 or more.")
        if self.attention_heads % tp:
            raise EstimatorError(f"tp {tp} does not divide the {self.attention_heads} attention heads of {self.name}.")
        for attention in self.attentions:
            heads = attention.kv_heads
            if heads % tp and tp % heads:
                raise EstimatorError(
                    f"tp {tp} does not fit the {heads} KV heads of {self.name}: one must divide the other."
                )
