import pytest

from estimator import kv_layout
from gateway.backends.engine import Fault, TelemetryError
from gateway.backends.pool import EnginePool, StatedPool, pool_of
from gateway.domain import UNLIMITED
from tests.backends.pages import HYBRID

SAID = EnginePool(blocks=100, block_tokens=16, tokens=1600)


def test_the_engines_word() -> None:
    """Without settings the pool is what the engine says."""
    pool = pool_of(SAID, StatedPool())
    assert (pool.capacity.blocks, pool.capacity.tokens, pool.capacity.sequence_tokens_max) == (100, 1600, UNLIMITED)
    assert pool.used_blocks(0.25) == 25
    assert pool.used_blocks(1.04) == 100


def test_the_operators_word_wins_but_use_is_the_engines() -> None:
    """Half the pool given out: what the engine uses is still counted in full."""
    pool = pool_of(SAID, StatedPool(capacity_tokens=800))
    assert pool.capacity.blocks == 50
    assert pool.used_blocks(0.5) == 50


def test_another_block_size() -> None:
    """Blocks are recounted in the size that was stated."""
    pool = pool_of(SAID, StatedPool(block_size=32))
    assert (pool.capacity.blocks, pool.capacity.layout.block_tokens, pool.used_blocks(0.5)) == (50, 32, 25)


def test_an_engine_that_says_nothing_needs_settings() -> None:
    """The message tells which."""
    with pytest.raises(TelemetryError, match=r"kv\.block_size") as error:
        pool_of(EnginePool(), StatedPool(capacity_tokens=1024))
    assert error.value.reason is Fault.MISSING_METRIC
    with pytest.raises(TelemetryError, match=r"kv\.capacity_tokens"):
        pool_of(EnginePool(), StatedPool(block_size=16))
    pool = pool_of(EnginePool(), StatedPool(capacity_tokens=1024, block_size=16))
    assert (pool.capacity.blocks, pool.used_blocks(0.5)) == (64, 32)


def test_groups_of_a_hybrid_count_the_engines_block_ids() -> None:
    """With the architecture known, blocks are ids of the shared pool, not tokens."""
    pool = pool_of(EnginePool(blocks=100, block_tokens=16, tokens=5000), StatedPool(), kv_layout(HYBRID))
    assert pool.capacity.blocks == 100
    assert len(pool.capacity.layout.groups) == 2
    assert pool.capacity.layout.blocks(16) == 2


def test_a_sequence_lives_in_one_rank() -> None:
    """Two pools of 50 blocks do not hold a sequence of 60."""
    pool = pool_of(EnginePool(blocks=100, block_tokens=16, tokens=1600, ranks=2), StatedPool())
    assert pool.capacity.sequence_tokens_max == 800
    assert pool.limited(4096).capacity.sequence_tokens_max == 800
    assert pool.limited(100).capacity.sequence_tokens_max == 100


@pytest.mark.parametrize("said", [EnginePool(100, -1, 1600), EnginePool(1, 16, 1), EnginePool(2**60, 1, 2**60)])
def test_pools_that_cannot_be(said: EnginePool) -> None:
    """Absurd sizes are refused before anybody reckons with them."""
    with pytest.raises(TelemetryError):
        pool_of(said, StatedPool())


@pytest.mark.parametrize("longest", [None, 0, -5])
def test_a_context_that_is_not_told_limits_nothing(longest: int | None) -> None:
    """Only a positive number is a limit."""
    assert pool_of(SAID, StatedPool()).limited(longest).capacity.sequence_tokens_max == UNLIMITED
