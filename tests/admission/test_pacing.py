"""Work, and the spacing of starts."""

import pytest

from gateway.admission.pacing import PACE_FILL, hold_steps, spacing_steps, work_token_steps
from tests.admission.words import BLOCK, ticket


def test_work_is_the_area_under_the_growth() -> None:
    """A prompt of 144 tokens held for 16 steps, and an answer that grows to 16."""
    assert work_token_steps(ticket(1, 10)) == pytest.approx((144 + 8) * 16)
    assert work_token_steps(ticket(1, 10, n=3)) == pytest.approx(3 * (144 + 8) * 16)
    assert hold_steps(ticket(1, 10)) == BLOCK


def test_what_generates_nothing_is_held_for_a_step() -> None:
    """Embeddings."""
    assert hold_steps(ticket(1, 2, output=0)) == 1.0
    assert work_token_steps(ticket(1, 2, output=0)) == pytest.approx(32.5)


def test_starts_at_this_spacing_fill_the_pool() -> None:
    """Each holds 15 blocks on average for 100 steps: so many at once fill its part of the pool."""
    spacing = spacing_steps(10, 20, 100.0, 500)
    assert 100 / spacing * 15 == pytest.approx(PACE_FILL * 500)
    assert spacing_steps(10, 20, 100.0, 0) > spacing
