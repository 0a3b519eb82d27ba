"""KV cache in blocks: what one sequence holds in an engine's pool, and what a request costs.

Law: engines hand out whole blocks, per group of layers, all groups from one pool of block ids. So sequences are priced
in blocks per group, never in tokens times bytes. Rules as vLLM's KV cache manager applies them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from estimator.architecture import Attention, Model
from estimator.errors import EstimatorError

UNBOUNDED_TOKENS = 2**62
"""A length that no engine reaches: stands for "as long as you like"."""
TOKENS_IN_FLIGHT = 2 * 8192
"""Tokens that vLLM's window groups may hold beyond the window while a prompt is being read: two batches of 8192."""


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers that an engine manages as one: each block of it holds the same tokens in every layer."""

    kind: str
    """"full", "sliding", "chunked" or "state"."""
    layers: int
    block_tokens: int
    bytes_per_block: int
    """Page bytes times layers, on one GPU; 0 where the model is unknown."""
    window: int = 0
    """Tokens that one sequence keeps at most, those of prompt chunks in flight included; 0 for no such end."""
    state_blocks: int = 1
    """Blocks of a "state" group, whatever the length."""

    def blocks(self, tokens: int) -> int:
        """Blocks that one sequence of so many tokens holds. A window may straddle one block more than it fills."""
        if tokens <= 0:
            return 0
        if self.kind == "state":
            return self.state_blocks
        blocks = -(-tokens // self.block_tokens)
        return min(blocks, self.blocks_max) if self.window else blocks

    @property
    def blocks_max(self) -> int:
        """Blocks that one sequence holds at most."""
        if self.kind == "state":
            return self.state_blocks
        if not self.window:
            return UNBOUNDED_TOKENS
        return -(-self.window // self.block_tokens) + (self.kind == "sliding")

    @property
    def grows(self) -> bool:
        """Whether each token adds to it, however long the sequence."""
        return self.kind == "full"


@dataclass(frozen=True, slots=True)
class KvLayout:
    """How a pool is cut: the groups that one sequence takes blocks for."""

    groups: tuple[KvGroup, ...]

    @classmethod
    def uniform(cls, block_tokens: int) -> KvLayout:
        """One group of full attention and unknown bytes, for engines that say only their block size."""
        return cls((KvGroup("full", 1, block_tokens, 0),))

    @property
    def block_tokens(self) -> int:
        """Tokens that one block of the growing groups stands for, in the long run; for display."""
        rates = [1 / g.block_tokens for g in self.groups if g.grows] or [1 / g.block_tokens for g in self.groups]
        return max(1, int(1 / sum(rates) + 1e-9))

    @property
    def bytes_per_token(self) -> float:
        """Bytes on one GPU that each further token of a long sequence adds; 0 where only windows or states are kept."""
        return sum(g.bytes_per_block / g.block_tokens for g in self.groups if g.grows)

    def blocks(self, tokens: int) -> int:
        """Blocks that one sequence of so many tokens holds, over all groups."""
        groups = self.groups
        if len(groups) == 1:
            return groups[0].blocks(tokens)
        return sum([group.blocks(tokens) for group in groups])

    def bytes(self, tokens: int) -> int:
        """Bytes that one sequence of so many tokens holds on one GPU."""
        return sum(group.blocks(tokens) * group.bytes_per_block for group in self.groups)

    def tokens_in(self, blocks: int) -> int:
        """Length of the longest sequence that fits in so many blocks; `UNBOUNDED_TOKENS` where none is too long."""
        if len(self.groups) == 1 and self.groups[0].grows:
            return max(0, blocks) * self.groups[0].block_tokens
        if self.blocks(UNBOUNDED_TOKENS) <= blocks:
            return UNBOUNDED_TOKENS
        low, high = 0, max(1, blocks + 1) * max(group.block_tokens for group in self.groups)
        while low < high:
            middle = (low + high + 1) // 2
            if self.blocks(middle) <= blocks:
                low = middle
            else:
                high = middle - 1
        return low


@dataclass(frozen=True, slots=True)
class KvCost:
    """What one request holds at its longest."""

    sequences: int
    tokens: int
    """Of one sequence: the last generated token is never written."""
    tp: int
    blocks: int
    """Of all sequences, each with its own copy of the prompt. The same block ids count on every GPU."""
    blocks_if_shared: int
    """The same where the engine's prefix cache lets the sequences share the prompt's whole blocks."""
    bytes_per_gpu: int
    layout: KvLayout

    @property
    def bytes(self) -> int:
        """Bytes on all GPUs of the tensor-parallel group."""
        return self.bytes_per_gpu * self.tp

    @property
    def bytes_per_token(self) -> float:
        """Bytes that one more token adds on all GPUs."""
        return self.layout.bytes_per_token * self.tp


def kv_layout(
    model: Model,
    *,
    block_tokens: int = 16,
    kv_dtype: str = "auto",
    tp: int = 1,
    tokens_in_flight: int = TOKENS_IN_FLIGHT,
) -> KvLayout:
    """Cut a model's KV cache into groups, as vLLM does.

    Pages of different sizes are made one size by longer blocks. Then the groups get as many layers as the kind with
    fewest has (or most, if that is less than half more), so that one block is the same number of bytes in every group.

    Args:
        model: from `load_model`.
        block_tokens: the engine's block size.
        kv_dtype: "auto" or a key of `KV_DTYPE_BYTES`.
        tp: GPUs that share the heads.
        tokens_in_flight: what a window group may hold beyond its window while a prompt is being read.

    Raises:
        EstimatorError: for sizes that no engine takes, and for page sizes that cannot be made equal.
    """
    model.check_tp(tp)
    if block_tokens < 1:
        raise EstimatorError(f"The block size is {block_tokens}: it must be 1 or more.")
    element_bytes = model.element_bytes(kv_dtype)
    if len(model.attentions) == 1:
        only = model.attentions[0]
        return KvLayout((_group(only, only.layers, block_tokens, element_bytes, tp, tokens_in_flight),))
    per_token = [attention.bytes_per_token(element_bytes, tp) for attention in model.attentions]
    if any(attention.index_bytes for attention in model.attentions):
        raise EstimatorError(f"{model.name} mixes windows with a sparse index: how its pages are grouped is not known.")
    counts = [attention.layers for attention in model.attentions]
    size = max(counts) if max(counts) < 1.5 * min(counts) else min(counts)
    groups: list[KvGroup] = []
    for attention, bytes_per_token in zip(model.attentions, per_token, strict=True):
        longer, rest = divmod(max(per_token), bytes_per_token)
        if rest:
            raise EstimatorError(f"{model.name} has layers of {per_token} bytes a token: no common page size.")
        group = _group(attention, size, int(block_tokens * longer), element_bytes, tp, tokens_in_flight)
        groups += [group] * math.ceil(attention.layers / size)
    return KvLayout(tuple(groups))


def _group(
    attention: Attention, layers: int, block_tokens: int, element_bytes: float, tp: int, tokens_in_flight: int
) -> KvGroup:
    page = attention.bytes_per_token(element_bytes, tp) * block_tokens * layers
    index = attention.index_bytes * attention.index_layers * block_tokens
    window = 0
    if attention.window:
        window = attention.window + tokens_in_flight - (attention.kind == "sliding")
    return KvGroup(attention.kind, layers, block_tokens, int(page + index), window)


def kv_cost(
    m: Model,
    prompt_tokens: int,
    max_tokens: int,
    tp: int = 1,
    block_size: int = 16,
    n: int = 1,
    kv_dtype: str = "auto",
) -> KvCost:
    """What a request holds when each of its `n` sequences has generated all of `max_tokens`.

    Raises:
        EstimatorError: for counts below their least value, more tokens than the context, and as `kv_layout`.
    """
    for name, value, least in (("prompt_tokens", prompt_tokens, 0), ("max_tokens", max_tokens, 0), ("n", n, 1)):
        if value < least:
            raise EstimatorError(f"{name} is {value}: it must be {least} or more.")
    if prompt_tokens + max_tokens > m.context_tokens:
        raise EstimatorError(
            f"prompt_tokens {prompt_tokens:,} + max_tokens {max_tokens:,} exceed the context of {m.name}, "
            f"{m.context_tokens:,} tokens."
        )
    layout = kv_layout(m, block_tokens=block_size, kv_dtype=kv_dtype, tp=tp)
    tokens = prompt_tokens + max(0, max_tokens - 1)
    return KvCost(
        sequences=n,
        tokens=tokens,
        tp=tp,
        blocks=n * layout.blocks(tokens),
        blocks_if_shared=_blocks_if_shared(layout, prompt_tokens, tokens, n),
        bytes_per_gpu=n * layout.bytes(tokens),
        layout=layout,
    )


def _blocks_if_shared(layout: KvLayout, prompt_tokens: int, tokens: int, n: int) -> int:
    """Growing groups share the prompt's whole blocks but the one that holds its last token, which is computed anew."""
    blocks = 0
    for group in layout.groups:
        shared = max(0, prompt_tokens - 1) // group.block_tokens if group.grows else 0
        blocks += shared + n * (group.blocks(tokens) - shared)
    return blocks
