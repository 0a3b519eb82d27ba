"""What is left of a pool that several gateways share."""

from gateway.admission.events import OthersHold
from gateway.admission.others import Others


def test_alone_all_of_it_is_ours() -> None:
    others = Others()
    assert others.are_none
    assert others.leave(90, 100) == 90
    assert others.leave(-5, 100) == 0


def test_what_others_hold_is_kept_free() -> None:
    others = Others()
    others.heard(OthersHold("a", blocks=30, gateways=2))
    assert not others.are_none
    assert others.leave(90, 100) == 60


def test_without_the_store_only_a_part_is_ours() -> None:
    """Of the pool, and of what was free when the store was lost."""
    others = Others()
    others.heard(OthersHold("a", blocks=0, gateways=3, share=1 / 3, limit_blocks=20))
    assert others.leave(90, 100) == 20
    others.heard(OthersHold("a", blocks=0, gateways=3, share=1 / 3))
    assert others.leave(90, 100) == 33
