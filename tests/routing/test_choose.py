"""Where a request goes."""

from gateway.routing.choose import Offer, choose


def test_most_room_wins() -> None:
    """By the part of the pool that stays free."""
    assert choose([Offer("a", 0.2), Offer("b", 0.5), Offer("c", 0.1)]) == Offer("b", 0.5)


def test_ties_go_by_name() -> None:
    """The same offers in any order give the same choice."""
    offers = [Offer("b", 0.5), Offer("a", 0.5)]
    assert choose(offers) == choose(reversed(offers)) == Offer("a", 0.5)


def test_spilling_is_the_last_resort() -> None:
    """However much room there is."""
    assert choose([Offer("cloud", 1.0, spill=True), Offer("a", 0.0)]) == Offer("a", 0.0)
    assert choose([Offer("cloud", 1.0, spill=True)]) == Offer("cloud", 1.0, spill=True)


def test_no_offers_no_choice() -> None:
    """Nobody has room."""
    assert choose([]) is None
