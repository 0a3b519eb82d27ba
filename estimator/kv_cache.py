"""What a request costs in KV blocks and bytes, when each of its sequences has grown to its end."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.architecture import Model
from estimator.errors import EstimatorError
from estimator.kv_blocks import UNBOUNDED_TOKENS, KvGroup, KvLayout
from estimator.kv_groups import DEFAULT_RULES, TOKENS_IN_FLIGHT, KvRules, kv_layout

__all__ = ["TOKENS_IN_FLIGHT", "UNBOUNDED_TOKENS", "KvCost", "KvGroup", "KvLayout", "KvRules", "kv_cost", "kv_layout"]


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


def kv_cost(
    m: Model,
    prompt_tokens: int,
    max_tokens: int,
    tp: int = 1,
    block_size: int = 16,
    n: int = 1,
    kv_dtype: str = "auto",
    rules: KvRules = DEFAULT_RULES,
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
    layout = kv_layout(m, block_tokens=block_size, kv_dtype=kv_dtype, tp=tp, rules=rules)
    tokens = prompt_tokens + max(0, max_tokens - 1)
    blocks = n * layout.blocks(tokens)
    return KvCost(
        sequences=n,
        tokens=tokens,
        tp=tp,
        blocks=blocks,
        blocks_if_shared=blocks if n == 1 else _blocks_if_shared(layout, prompt_tokens, tokens, n),
        bytes_per_gpu=n * layout.bytes(tokens),
        layout=layout,
    )


def _blocks_if_shared(layout: KvLayout, prompt_tokens: int, tokens: int, n: int) -> int:
    """Growing groups share the prompt's whole blocks but the one that holds its last token, which is computed anew."""
    blocks = 0
    for group, count in layout.distinct:
        shared = max(0, prompt_tokens - 1) // group.block_tokens if group.grows else 0
        blocks += count * (shared + n * (group.blocks(tokens) - shared))
    return blocks
