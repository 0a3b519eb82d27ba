"""Groups and layouts by themselves: what a sequence holds, and what vLLM sets aside for it."""

import pytest
from hypothesis import given, strategies as st

from estimator import KvGroup, KvLayout
from estimator.kv_blocks import UNBOUNDED_TOKENS

KINDS = st.sampled_from(["full", "sliding", "chunked", "state", "cross"])


@given(KINDS, st.integers(1, 300_000), st.integers(1, 64), st.integers(1, 9000))
def test_what_is_set_aside_is_never_less_than_what_is_held(kind: str, tokens: int, block: int, window: int) -> None:
    """And at most one block more: a window may start within a block."""
    group = KvGroup(kind, 1, block, 1, window if kind in {"sliding", "chunked"} else 0, 3)
    assert group.blocks(tokens) <= group.planned(tokens) <= group.blocks(tokens) + 1


def test_a_window_is_given_one_block_more_even_if_it_is_longer_than_the_sequence() -> None:
    """As a log of a pure sliding-window model shows: 34,236 blocks / 526.71 = 65 for 1,024 tokens."""
    assert KvGroup("sliding", 32, 16, 1, window=4095 + 16_384).planned(1024) == 65


def test_an_encoder_is_kept_once() -> None:
    """Whisper's 1,500 positions take 94 blocks of 16, however long the answer."""
    cross = KvGroup("cross", 4, 16, 1, state_blocks=94)
    assert (cross.blocks(0), cross.blocks(1), cross.blocks(400), cross.blocks_max) == (0, 94, 94, 94)


def test_a_model_that_keeps_nothing_has_an_empty_layout() -> None:
    """No sequence is too long for it."""
    empty = KvLayout(())
    assert (empty.blocks(1000), empty.bytes(1000), empty.bytes_per_block, empty.block_tokens) == (0, 0, 0, 1)
    assert empty.tokens_in(0) == UNBOUNDED_TOKENS


@pytest.mark.parametrize("blocks", [0, 1, 7, 100])
def test_states_take_their_blocks_first(blocks: int) -> None:
    """Two states of two blocks each, then blocks of 528 tokens."""
    layout = KvLayout((KvGroup("state", 8, 528, 1, state_blocks=2),) * 2 + (KvGroup("full", 8, 528, 1),))
    assert layout.tokens_in(blocks) == max(0, blocks - 4) * 528
