"""One backend's page: what is asked, what is told to admission, and what is assumed when nobody answers."""

from __future__ import annotations

from dataclasses import replace

from gateway.admission.commands import Admit
from gateway.admission.events import Denied, Event, OthersHold
from gateway.admission.holding import Holding
from gateway.domain import UNLIMITED, Reason
from gateway.shared_ledger.book import HEARTBEAT_S, KEPT_S, PAUSE_S, POLL_S, RELEASE_S, RETRY_S, Book, Heard
from gateway.shared_ledger.claims import LedgerSettings, Reply

SETTINGS = LedgerSettings("redis://store", replicas_max=10, ttl_s=5.0)
ROOM = 120
ALONE = Reply(
    granted=True,
    replicas=1,
    blocks=0,
    resident_blocks=0,
    sequences=0,
    promised_blocks=0,
    others_want=False,
    lapsed_blocks=0,
    lapsed_now=0,
    age_s=60.0,
)
THREE = replace(ALONE, replicas=3, blocks=30, resident_blocks=20, sequences=4)


def holding(blocks: int = 0, *, wanted: int = 0, allowed: int = ROOM) -> Holding:
    return Holding(blocks, 1, ROOM, allowed, wanted, 1.0 if wanted else 0.0, blocks)


class Talk:
    """A book and its store, one exchange at a time."""

    def __init__(self) -> None:
        self.book = Book("a", SETTINGS)
        self.number = 0

    def says(self, reply: Reply | None, now: float, held: Holding | None = None) -> Heard:
        """One exchange; None: no answer."""
        self.number += 1
        claim = self.book.claim(held or holding(), self.number, now)
        return self.book.failed(claim, now) if reply is None else self.book.answered(claim, reply, now)


def others(heard: Heard) -> OthersHold:
    """The one word about the others."""
    (event,) = [event for event in heard.events if isinstance(event, OthersHold)]
    return event


def denied(events: Heard) -> list[Event]:
    return [event for event in events.events if isinstance(event, Denied)]


def test_before_anything_is_heard_the_pool_is_taken_to_be_shared_by_many() -> None:
    book = Book("a", SETTINGS)
    assert book.opening() == (OthersHold("a", 0, share=0.1),)
    assert book.opening() == ()
    assert book.due() == float("-inf")


def test_a_ledger_in_use_is_believed_at_once() -> None:
    talk = Talk()
    assert others(talk.says(THREE, 0.0)) == OthersHold("a", 30, 20, 4, gateways=3)
    assert (talk.book.share, talk.book.replicas, talk.book.is_settled) == (1.0, 3, True)
    assert not talk.says(THREE, 0.25).events
    assert talk.book.due() == 0.25 + HEARTBEAT_S


def test_a_new_ledger_is_believed_after_a_while() -> None:
    talk = Talk()
    assert others(talk.says(replace(THREE, age_s=1.0), 0.0)).share == 0.1
    assert talk.book.due() == POLL_S
    assert others(talk.says(replace(THREE, age_s=5.0), 4.0)).share == 1.0


def test_what_is_admitted_waits_for_its_grant() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    first, second = Admit(7, "a", Reason.OK, 160), Admit(8, "a", Reason.OK, 160)
    talk.book.hold_back(first, 1.0, over_blocks=0)
    assert talk.book.due() < 1.0
    claim = talk.book.claim(holding(20), 9, 1.0)
    assert (claim.is_request, claim.blocks, claim.room_blocks) == (True, 20, ROOM)
    talk.book.hold_back(second, 1.0, over_blocks=0)
    heard = talk.book.answered(claim, THREE, 1.001)
    assert list(heard.granted) == [first]
    assert list(talk.book.pending) == [8]
    assert talk.book.due() < 1.0


def test_a_denied_request_goes_back_with_the_time_it_came() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    talk.book.hold_back(Admit(7, "a", Reason.OK_AFTER_WAIT, 160, waited_s=0.4), 1.0, over_blocks=0)
    heard = talk.says(replace(THREE, granted=False, blocks=110, promised_blocks=5), 1.0, holding(20))
    assert not heard.granted
    assert heard.events == [OthersHold("a", 115, 20, 4, gateways=3), Denied(7, 0.6)]
    talk.book.hold_back(Admit(7, "a", Reason.OK_AFTER_WAIT, 160), 1.0, over_blocks=0)
    assert talk.book.due() == 1.0 + PAUSE_S


def test_a_client_that_has_left_is_neither_granted_nor_denied() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    talk.book.hold_back(Admit(7, "a", Reason.OK, 160), 1.0, over_blocks=0)
    claim = talk.book.claim(holding(20), 9, 1.0)
    talk.book.pending.clear()
    assert not talk.book.answered(claim, THREE, 1.001).granted


def test_who_is_alone_may_be_given_more_than_there_is_and_asks_for_what_there_is() -> None:
    talk = Talk()
    talk.says(ALONE, 0.0)
    talk.book.hold_back(Admit(7, "a", Reason.OK, 2400), 1.0, over_blocks=30)
    assert talk.book.claim(holding(ROOM + 30), 9, 1.0).blocks == ROOM


def test_who_waits_asks_more_often_and_says_what_it_needs() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    claim = talk.book.claim(holding(80, wanted=15), 9, 1.0)
    assert (claim.is_request, claim.wanted_blocks, claim.waited_s) == (False, 15, 1.0)
    talk.book.answered(claim, THREE, 1.0)
    assert talk.book.due() == 1.0 + POLL_S


def test_what_comes_free_is_told_soon_where_somebody_wants_it() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    talk.book.freed()
    assert talk.book.due() == HEARTBEAT_S
    talk.says(replace(THREE, others_want=True), 1.0)
    talk.book.freed()
    assert talk.book.due() == 1.0 + RELEASE_S


def test_a_lost_store_leaves_what_was_granted_and_then_a_part() -> None:
    talk = Talk()
    talk.says(THREE, 0.0, holding(45))
    lost = others(talk.says(None, 1.0, holding(45)))
    assert (lost.blocks, lost.limit_blocks, lost.share) == (30, 45, 1 / 3)
    assert talk.book.due() == 1.0 + RETRY_S
    assert not talk.says(None, 4.9, holding(10)).events
    free = ROOM - 45 - 30
    later = others(talk.says(None, 5.0, holding(10)))
    assert (later.blocks, later.resident_blocks, later.limit_blocks) == (30, 20, 45 + free // 3)
    last = others(talk.says(None, 1.0 + KEPT_S, holding(10)))
    assert (last.blocks, last.resident_blocks, last.orphaned_blocks) == (0, 0, 20)
    assert (last.limit_blocks, last.share) == (UNLIMITED, 1 / 3)
    assert not talk.says(None, 2.0 + KEPT_S).events


def test_a_lost_call_gives_nothing_away() -> None:
    """The store may have heard it or not: what stands there is at least the less of both."""
    talk = Talk()
    talk.says(THREE, 0.0, holding(45))
    assert others(talk.says(None, 1.0, holding(25))).limit_blocks == 25
    assert talk.book.claim(holding(5), 9, 1.5).blocks == 25
    talk = Talk()
    talk.says(THREE, 0.0, holding(45))
    assert others(talk.says(None, 1.0, holding(60))).limit_blocks == 45


def test_when_the_store_is_lost_all_that_wait_for_it_go_back() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    for ticket_id in (7, 8):
        talk.book.hold_back(Admit(ticket_id, "a", Reason.OK, 160), 1.0, over_blocks=0)
    heard = talk.says(None, 1.25, holding(20))
    assert isinstance(heard.events[0], OthersHold)
    assert denied(heard) == [Denied(7, 1.0), Denied(8, 1.0)]
    assert not talk.book.is_reachable


def test_a_store_that_is_back_is_believed_once_all_are_back() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    talk.says(None, 1.0)
    empty = replace(ALONE, age_s=0.1)
    assert others(talk.says(empty, 2.0)).share == 1 / 3
    assert others(talk.says(replace(THREE, age_s=0.5), 2.5)) == OthersHold("a", 30, 20, 4, gateways=3)


def test_who_does_not_come_back_is_waited_for_but_not_for_ever() -> None:
    talk = Talk()
    talk.says(THREE, 0.0)
    talk.says(None, 1.0)
    talk.says(replace(ALONE, age_s=60.0), 2.0)
    assert not talk.book.is_settled
    back = others(talk.says(replace(ALONE, age_s=65.0), 7.0))
    assert (back.share, back.gateways, back.orphaned_blocks) == (1.0, 1, 20)


def test_a_store_that_forgets_in_between_is_not_believed() -> None:
    talk = Talk()
    talk.says(THREE, 0.0, holding(45))
    flushed = others(talk.says(replace(ALONE, age_s=0.0), 1.0, holding(45)))
    free = ROOM - 45 - 30
    assert (flushed.blocks, flushed.limit_blocks, flushed.share) == (30, 45 + free // 3, 1 / 3)


def test_what_the_dead_leave_is_nobodys() -> None:
    talk = Talk()
    talk.says(replace(THREE, lapsed_blocks=100), 0.0)
    left = others(talk.says(replace(THREE, replicas=2, blocks=10, lapsed_blocks=120), 1.0))
    assert (left.blocks, left.orphaned_blocks, left.gateways) == (10, 20, 2)
    assert not talk.says(replace(THREE, replicas=2, blocks=10, lapsed_blocks=120), 2.0).events


def test_without_a_pool_there_is_nothing_to_say_but_that_we_are_there() -> None:
    book = Book("a", SETTINGS)
    claim = book.claim(None, 1, 0.0)
    assert (claim.blocks, claim.room_blocks, claim.is_request) == (0, 0, False)
    assert book.closing() == []
