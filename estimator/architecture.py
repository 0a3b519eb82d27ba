"""What of a model decides its memory: its layers by what they keep, its parameters by where they live, its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from estimator.errors import EstimatorError
from estimator.kv_formats import KvFormat, kv_format
from estimator.parts import Part
from estimator.quantization import UNQUANTIZED, Quantization

AttentionKind = Literal["full", "sliding", "chunked", "cross", "encoder"]


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
    """Tokens a sliding window spans or a chunk holds, or an encoder's length for "cross"; 0 for full attention."""
    index_layers: int = 0
    """Layers that also keep a sparse-attention index."""
    index_bytes: int = 0
    """Bytes per token of one such index; its precision is its own, whatever the KV dtype."""
    wide_key: int = 0
    """Elements of all heads' keys that a latent stands for: what engines kept before they knew latents."""
    wide_value: int = 0
    tokens_per_state: int = 1
    """Tokens that one latent stands for, where attention compresses them."""
    packed_bytes: int = 0
    """Bytes of one latent in 8 bits, where this model packs them in a way of its own."""

    @property
    def latent(self) -> bool:
        """Whether it keeps one compressed vector instead of keys and values."""
        return self.value_dim == 0

    def bytes_per_token(self, stored: KvFormat, tp: int) -> float:
        """Bytes that one rank keeps for one token in one layer, without index.

        Heads are split over ranks and replicated where there are fewer heads than ranks.
        """
        heads = max(1, self.kv_heads // tp)
        if self.latent:
            packed = stored.sparse_latent_bytes if self.index_bytes else stored.latent_bytes
            if self.packed_bytes and stored.sparse_latent_bytes:
                packed = self.packed_bytes
            return (packed or heads * self.key_dim * stored.element_bytes) / self.tokens_per_state
        return heads * ((self.key_dim + self.value_dim) * stored.element_bytes + 2 * stored.head_bytes)


@dataclass(frozen=True, slots=True)
class State:
    """Layers that keep one state per sequence, whatever its length: Mamba, linear attention, short convolution."""

    kind: Literal["mamba1", "mamba2", "delta", "kda", "linear", "conv", "rwkv"]
    layers: int
    channels: int = 0
    """Channels whose last inputs a convolution keeps; split over ranks."""
    taps: int = 0
    """Inputs kept per channel: the kernel's length less one."""
    groups: int = 0
    """Groups with channels of their own; copied where ranks do not divide them."""
    group_channels: int = 0
    elements: int = 0
    """Values of the recurrent state; split over ranks."""
    element_bytes: int = 2
    """Bytes of one of them."""
    conv_bytes: int = 2
    """Bytes of one kept input."""

    def bytes(self, tp: int, draft_tokens: int = 0) -> int:
        """Bytes of one layer's state on one rank. Checked drafts widen the kept inputs, except in Mamba 1."""
        groups = self.groups if self.groups % tp == 0 else tp
        inputs = (self.channels + groups * self.group_channels) // tp
        taps = self.taps + (draft_tokens if self.kind != "mamba1" else 0)
        return inputs * taps * self.conv_bytes + self.elements // tp * self.element_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model as far as its memory goes. Two are the same only if they are one object, which makes it a quick key."""

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
    doubts: tuple[str, ...] = ()
    """What was read on a guess: a number of such a model is an estimate, not arithmetic."""
    states: tuple[State, ...] = ()
    parts: tuple[Part, ...] = ()
    """Its parameters; empty where the description leaves out what they follow from (`parts_missing`)."""
    parts_missing: str = ""
    """The sentence that says why there are no parts."""
    quantization: Quantization = field(default=UNQUANTIZED)
    hidden_size: int = 0
    """Width of its activations; 0 where unknown."""
    ffn_size: int = 0
    """Widest part of one token's way through a dense feed-forward layer; 0 where unknown."""
    moe_width: int = 0
    """Experts per token times their width; 0 without experts."""
    vocab_size: int = 0
    multimodal: bool = False
    """Whether it also reads images or sound, for which engines profile an encoder."""
    draft_layers: int = 0
    """Layers that predict further tokens (MTP); each costs KV like a layer where they are used."""

    @property
    def layers(self) -> int:
        """Layers that keep KV of their own."""
        return sum(attention.layers for attention in self.attentions)

    @property
    def hybrid(self) -> bool:
        """Whether it has layers of more than one kind, which engines manage in groups."""
        return len(self.attentions) + len(self.states) > 1

    @property
    def mla(self) -> bool:
        """Whether its growing layers keep latents."""
        return bool(self.attentions) and self.attentions[0].latent

    def kv_format(self, kv_dtype: str = "auto") -> KvFormat:
        """How its KV is stored. Quantised weights do not change it: only `kv_dtype` does.

        Raises:
            EstimatorError: for a dtype that is not known.
        """
        return kv_format(self.dtype if kv_dtype == "auto" else kv_dtype)

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
