"""Where a request goes."""

from gateway.routing.choose import AFFINITY, Offer, choose


def test_most_room_wins() -> None:
    """By the part of the pool that stays free."""
    assert choose([Offer("a", 0.2), Offer("b", 0.5), Offer("c", 0.1)]) == Offer("b", 0.5)


def test_a_prompt_that_is_there_already_is_worth_a_part_of_a_pool() -> None:
    """It goes past an emptier backend, but not past one that is emptier by more than that."""
    for less, best in ((0.9 * AFFINITY, "warm"), (1.1 * AFFINITY, "cold")):
        offers = [Offer("warm", 0.8 - less, matched_share=1.0), Offer("cold", 0.8)]
        chosen = choose(offers)
        assert chosen is not None
        assert chosen.backend == best


def test_half_a_prompt_counts_half() -> None:
    """So the longest beginning wins where room is the same."""
    offers = [Offer("a", 0.5, matched_share=0.25), Offer("b", 0.5, matched_share=0.75), Offer("c", 0.5)]
    assert choose(offers) == offers[1]


def test_no_beginning_makes_up_for_being_late_or_for_spilling() -> None:
    """First tokens in time, and own engines, come first."""
    late = Offer("a", 1.0, late=True, matched_share=1.0)
    spill = Offer("b", 1.0, spill=True, matched_share=1.0)
    assert choose([late, spill, Offer("c", 0.0)]) == Offer("c", 0.0)


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
