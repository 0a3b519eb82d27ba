"""From what an engine says of its KV pool and what the operator says of it to a Capacity; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from estimator.architecture import Model
from estimator.kv_cache import KvLayout
from gateway.backends.engine import Fault, TelemetryError
from gateway.domain import UNLIMITED, Capacity

BLOCKS_MAX = 2**40


@dataclass(frozen=True, slots=True)
class StatedPool:
    """What the operator says; None where nothing. It takes the place of what the engine says."""

    capacity_tokens: int | None = None
    block_size: int | None = None
    model: Model | None = None
    """Its architecture, for engines whose pool is shared by groups of layers."""


@dataclass(frozen=True, slots=True)
class EnginePool:
    """What an engine says; None where it says nothing."""

    blocks: int | None = None
    """Usable blocks, over all ranks."""
    block_tokens: int | None = None
    tokens: int | None = None
    """Usable tokens; less than blocks times block size where several groups of layers share the blocks."""
    ranks: int = 1
    """Pools of equal size that it is cut into: a sequence lives in one of them."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool in the blocks that admission counts."""

    capacity: Capacity
    engine_blocks: int
    """The whole pool of the engine, in the same blocks; more than the capacity where the operator gives out less."""

    def used_blocks(self, share: float) -> int:
        """Blocks in use, when this share of the engine's pool is. An engine that rounds up may say a little over 1."""
        return round(min(share, 1.0) * self.engine_blocks)

    def limited(self, sequence_tokens_max: int | None) -> Pool:
        """The same pool with the longest sequence that the engine takes, where that is known."""
        if sequence_tokens_max is None or sequence_tokens_max < 1:
            return self
        longest = min(sequence_tokens_max, self.capacity.sequence_tokens_max)
        return replace(self, capacity=replace(self.capacity, sequence_tokens_max=longest))


def pool_of(said: EnginePool, stated: StatedPool, groups: KvLayout | None = None) -> Pool:
    """The operator's word wins over the engine's; the groups of its layers, if they are known, over a uniform pool.

    Raises:
        TelemetryError: neither says how large the pool or its blocks are, or what they say makes no pool.
    """
    block_tokens = stated.block_size or said.block_tokens
    if block_tokens is None or block_tokens < 1:
        raise TelemetryError(Fault.MISSING_METRIC, "the engine does not say its block size; set kv.block_size")
    layout = KvLayout.uniform(block_tokens) if groups is None else groups
    own_blocks = _engine_blocks(said, layout, with_groups=groups is not None)
    blocks = own_blocks if stated.capacity_tokens is None else stated.capacity_tokens // layout.block_tokens
    if blocks is None:
        raise TelemetryError(Fault.MISSING_METRIC, "the engine does not say its KV capacity; set kv.capacity_tokens")
    if not 0 < blocks <= BLOCKS_MAX:
        raise TelemetryError(Fault.PARSE, f"a KV pool of {blocks} blocks makes no sense")
    longest = layout.tokens_in(blocks // said.ranks) if said.ranks > 1 else UNLIMITED
    return Pool(Capacity(blocks, layout, sequence_tokens_max=longest), blocks if own_blocks is None else own_blocks)


def _engine_blocks(said: EnginePool, layout: KvLayout, *, with_groups: bool) -> int | None:
    """The engine's own pool in blocks of this layout: its block ids where the groups are known, else its tokens."""
    if with_groups:
        return said.blocks
    return None if said.tokens is None else said.tokens // layout.block_tokens
