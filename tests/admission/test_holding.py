"""Several gateways in front of one engine, as admission sees it: what it tells, and what it makes of their word."""

from __future__ import annotations

from gateway.admission.events import Denied, DrainStarted, OthersHold
from gateway.admission.holding import Holding
from gateway.admission.limits import AdmissionLimits
from tests.admission.words import POOL, Playbook, reading, ticket


def others(blocks: int, **words: float) -> OthersHold:
    return OthersHold("a", blocks, **words)  # type: ignore[arg-type]


def test_what_others_hold_is_not_given_out() -> None:
    play = Playbook().engine()
    play.event(others(60, resident_blocks=10))
    play.arrives(ticket(1, 40), "1>a").arrives(ticket(2, 10))
    play.event(others(50), "2>a")


def test_what_comes_free_elsewhere_goes_to_who_waits_first() -> None:
    """A large prompt waits for what others hold; small ones behind it must not take that away."""
    play = Playbook().engine()
    play.event(others(60))
    play.arrives(ticket(1, 70)).at(1.0).arrives(ticket(2, 80))
    assert play.depth == 2
    play.at(2.0).event(others(20), "1>a")


def test_alone_is_only_who_has_no_neighbours() -> None:
    """An empty pool takes what fits at its start; not when others fill it too."""
    play = Playbook().engine()
    play.reads(reading(0.0, used=60, running=1))
    play.at(1.0).reads(reading(1.0, used=60, running=1)).at(2.0).reads(reading(2.0, used=60, running=1))
    assert play.backend().foreign_tokens == 60 * 16
    play.event(others(1))
    play.arrives(ticket(1, 80, output=700))
    assert play.depth == 1
    play.event(others(0), "1>a")


def test_their_use_is_not_foreign() -> None:
    play = Playbook().engine()
    play.event(others(50, resident_blocks=30, sequences=3))
    for second in range(1, 5):
        play.at(second).reads(reading(second, used=30, running=3))
    assert play.backend().foreign_tokens == 0
    for second in range(5, 9):
        play.at(second).reads(reading(second, used=50, running=4))
    assert play.backend().foreign_tokens == 20 * 16


def test_what_the_dead_leave_is_foreign_until_the_engine_shows_less() -> None:
    play = Playbook().engine()
    play.event(others(0, orphaned_blocks=40))
    assert play.backend().foreign_tokens == 40 * 16
    play.at(1.0).reads(reading(1.0, used=25, running=2))
    assert play.backend().foreign_tokens == 25 * 16
    play.at(2.0).reads(reading(2.0, used=0))
    assert play.backend().foreign_tokens == 0


def test_a_part_is_a_part_and_a_limit_a_limit() -> None:
    play = Playbook().engine()
    play.event(others(0, share=0.25))
    play.arrives(ticket(1, 20), "1>a").arrives(ticket(2, 10))
    play.event(others(0, share=0.3), "2>a")
    play.arrives(ticket(3, 10))
    play.event(others(0, share=0.5, limit_blocks=30)).event(others(0), "3>a")


def test_other_backends_do_not_mind() -> None:
    play = Playbook().engine().provider()
    play.event(OthersHold("cloud", 5)).event(OthersHold("nobody", 5))
    play.arrives(ticket(1, POOL), "1>a")


def test_a_denied_request_waits_as_if_it_had_never_left() -> None:
    play = Playbook().engine()
    play.arrives(ticket(1, 60, deadline=9.0), "1>a").at(0.1).arrives(ticket(2, 60, deadline=9.0))
    play.event(others(50)).event(Denied(1, 0.0))
    assert play.backend().reserved_tokens == 0
    play.at(0.2).event(others(0), "1>a")
    assert play.admits[1].waited_s == 0.2
    play.event(Denied(77, 0.0))


def test_a_denied_request_leaves_at_its_deadline() -> None:
    play = Playbook().engine()
    play.arrives(ticket(1, 60, deadline=1.0), "1>a").event(others(50)).event(Denied(1, 0.0))
    play.wakes(1.0, "1!queue_timeout")


def test_who_may_not_wait_is_refused() -> None:
    play = Playbook(AdmissionLimits(queue_requests_max=0)).engine()
    play.arrives(ticket(1, 60), "1>a").event(others(50)).event(Denied(1, 0.0), "1!headroom")
    play = Playbook().engine()
    play.arrives(ticket(1, 60), "1>a").event(DrainStarted()).event(Denied(1, 0.0), "1!shutdown")


def test_a_client_that_left_is_not_denied() -> None:
    play = Playbook().engine()
    play.arrives(ticket(1, 60), "1>a").leaves(1).event(Denied(1, 0.0))


def test_what_is_told() -> None:
    play = Playbook()
    assert play.admission.holding("a", 0.0) is None
    play.engine()
    assert play.admission.holding("a", 0.0, closely=True) == Holding(0, 0, POOL, POOL, 0, 0.0, 0)
    play.arrives(ticket(1, 60), "1>a").event(others(30)).at(1.0).arrives(ticket(2, 20))
    held = play.admission.holding("a", 1.5, closely=True)
    assert held is not None
    assert (held.blocks, held.sequences, held.room_blocks, held.allowed_blocks) == (60, 1, POOL, 70)
    assert (held.wanted_blocks, held.waited_s) == (20, 0.5)
    assert held.resident_blocks is not None
    assert 59 <= held.resident_blocks <= 60
    play.event(others(20), "2>a")
    later = play.admission.holding("a", 1.5)
    assert later is not None
    assert (later.wanted_blocks, later.resident_blocks) == (0, None)
