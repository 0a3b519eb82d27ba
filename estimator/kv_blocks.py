"""KV cache in blocks: groups of layers that an engine manages as one, and what a sequence holds of them.

Law: engines hand out whole blocks, per group of layers, all groups from one pool of block ids. So sequences are priced
in blocks per group, never in tokens times bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

UNBOUNDED_TOKENS = 2**62
"""A length that no engine reaches: stands for "as long as you like"."""
_CONSTANT = ("state", "cross")


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Layers that an engine manages as one: each block of it holds the same tokens in every layer."""

    kind: str
    """"full", "sliding", "chunked", "state" or "cross"."""
    layers: int
    block_tokens: int
    bytes_per_block: int
    """Page bytes times layers, on one GPU; 0 where the model is unknown."""
    window: int = 0
    """Tokens that one sequence keeps at most, those of prompt chunks in flight included; 0 for no such end."""
    state_blocks: int = 1
    """Blocks of a "state" or "cross" group, whatever the length."""

    def blocks(self, tokens: int) -> int:
        """Blocks that one sequence of so many tokens holds. A window may straddle one block more than it fills."""
        if tokens <= 0:
            return 0
        if self.kind in _CONSTANT:
            return self.state_blocks
        blocks = -(-tokens // self.block_tokens)
        if self.window:
            most = -(-self.window // self.block_tokens) + (self.kind == "sliding")
            return min(blocks, most)
        return blocks

    def planned(self, tokens: int) -> int:
        """Blocks that vLLM sets aside for a sequence of so many tokens when it states its concurrency.

        A window is given its further block even where the sequence is shorter than the window.
        """
        if self.kind in _CONSTANT or not self.window:
            return self.blocks(tokens)
        return -(-min(tokens, self.window) // self.block_tokens) + (self.kind == "sliding")

    @property
    def blocks_max(self) -> int:
        """Blocks that one sequence holds at most."""
        if self.kind in _CONSTANT:
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
    """How a pool is cut: the groups that one sequence takes blocks for; none for a model that keeps nothing."""

    groups: tuple[KvGroup, ...]
    distinct: tuple[tuple[KvGroup, int], ...] = field(init=False, repr=False, compare=False)
    """The same groups, each with how often it occurs: hybrids have many that are alike."""
    block_tokens: int = field(init=False, repr=False, compare=False)
    """Tokens that one block of the growing groups stands for, in the long run; for display."""
    _plain: int = field(init=False, repr=False, compare=False)
    """Tokens of a block where one group of full attention is all there is; else 0."""

    def __post_init__(self) -> None:
        counts: dict[KvGroup, int] = {}
        for group in self.groups:
            counts[group] = counts.get(group, 0) + 1
        object.__setattr__(self, "distinct", tuple(counts.items()))
        rates = [1 / g.block_tokens for g in self.groups if g.grows] or [1 / g.block_tokens for g in self.groups]
        object.__setattr__(self, "block_tokens", max(1, int(1 / sum(rates) + 1e-9)) if rates else 1)
        is_plain = len(self.groups) == 1 and self.groups[0].grows and not self.groups[0].window
        object.__setattr__(self, "_plain", self.groups[0].block_tokens if is_plain else 0)

    @classmethod
    def uniform(cls, block_tokens: int) -> KvLayout:
        """One group of full attention and unknown bytes, for engines that say only their block size."""
        return cls((KvGroup("full", 1, block_tokens, 0),))

    @property
    def bytes_per_token(self) -> float:
        """Bytes on one GPU that each further token of a long sequence adds; 0 where only windows or states are kept."""
        return sum(g.bytes_per_block / g.block_tokens for g in self.groups if g.grows)

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block id of the pool on one GPU."""
        return max((group.bytes_per_block for group in self.groups), default=0)

    def blocks(self, tokens: int) -> int:
        """Blocks that one sequence of so many tokens holds, over all groups."""
        if self._plain:
            return -(-tokens // self._plain) if tokens > 0 else 0
        blocks = 0
        for group, count in self.distinct:
            blocks += count * group.blocks(tokens)
        return blocks

    def planned(self, tokens: int) -> int:
        """Blocks that vLLM sets aside for a sequence of so many tokens when it states its concurrency."""
        return sum(count * group.planned(tokens) for group, count in self.distinct)

    def bytes(self, tokens: int) -> int:
        """Bytes that one sequence of so many tokens holds on one GPU."""
        size = 0
        for group, count in self.distinct:
            size += count * group.blocks(tokens) * group.bytes_per_block
        return size

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
