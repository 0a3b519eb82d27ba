"""Backends that fail one request after the other are left alone for a while, and tried again with one at a time."""

from __future__ import annotations

import pytest

from gateway.admission.events import BackendMissed, Left, LimitsChanged
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendState
from gateway.domain import Outcome
from gateway.routing.breaker import ALONE_MIN, FAILED_MIN, OPEN_MIN_S, PROBE_MAX_S, BreakerState
from tests.admission.words import Playbook, reading, ticket


def fails(play: Playbook, ticket_id: int, *expected: str, name: str = "") -> Playbook:
    """Its backend failed it, before it had got it."""
    return play.event(Left(ticket_id, Outcome.NOT_SENT, failure=(name or str(ticket_id)).encode()), *expected)


def failing(play: Playbook, backend: str, count: int, *, first: int = 1, name: str = "") -> Playbook:
    """So many requests in a row come, go nowhere but there, and fail."""
    others = [known.name for known in play.admission.snapshot().backends if known.name != backend]
    for ticket_id in range(first, first + count):
        play.arrives(ticket(ticket_id, 1, excluded=others), f"{ticket_id}>{backend}")
        fails(play, ticket_id, name=name)
    return play


def state(play: Playbook, backend: str = "a") -> tuple[BackendState, BreakerState]:
    """What is shown of a backend."""
    play.admission.check()
    shown = next(known for known in play.admission.snapshot().backends if known.name == backend)
    return shown.state, shown.breaker


EJECTED = BackendState.EJECTED, BreakerState.OPEN
FINE = BackendState.READY, BreakerState.CLOSED


def test_it_is_ejected_tried_with_one_request_and_taken_back() -> None:
    """Meanwhile the others serve; the first token of the probe is enough."""
    play = failing(Playbook().engine("a", 200).engine("b"), "a", FAILED_MIN)
    assert state(play) == EJECTED
    play.arrives(ticket(11), "11>b")
    play.at(OPEN_MIN_S).arrives(ticket(12), "12>a")
    assert state(play) == (BackendState.BUSY, BreakerState.HALF_OPEN)
    play.arrives(ticket(13), "13>b")
    play.progresses(12, 1)
    assert state(play) == FINE
    play.arrives(ticket(14), "14>a")


def test_the_line_waits_for_the_probe() -> None:
    """Where the others are full, one who waits goes there when its time has come, the rest when that one speaks."""
    play = failing(Playbook().engine("a").engine("b"), "a", FAILED_MIN)
    play.arrives(ticket(11, 100), "11>b")
    play.arrives(ticket(12, 50)).arrives(ticket(13, 50))
    play.until(lambda: 12 in play.admits)
    assert play.now == OPEN_MIN_S
    play.at(OPEN_MIN_S + 0.5).progresses(12, 1)
    assert [command.ticket_id for command in play.admission.handle_timer(play.now)] == [13]


def test_a_probe_that_says_nothing_does_not_hold_up_the_line_for_ever() -> None:
    """An answer in one piece takes its time."""
    play = failing(Playbook().engine("a").engine("b"), "a", FAILED_MIN)
    play.arrives(ticket(11, 100), "11>b")
    play.arrives(ticket(12, 10)).arrives(ticket(13, 20))
    play.until(lambda: 12 in play.admits)
    for at, served in ((OPEN_MIN_S + PROBE_MAX_S - 0.01, []), (OPEN_MIN_S + PROBE_MAX_S, [13])):
        assert [command.ticket_id for command in play.admission.handle_timer(at)] == served


def test_a_probe_that_fails_keeps_it_away_for_longer() -> None:
    play = failing(Playbook().engine("a", 200).engine("b"), "a", FAILED_MIN)
    play.at(OPEN_MIN_S).arrives(ticket(11), "11>a")
    fails(play, 11)
    play.at(3 * OPEN_MIN_S - 0.01).arrives(ticket(12), "12>b")
    play.at(3 * OPEN_MIN_S).arrives(ticket(13), "13>a")


def test_a_probe_whose_client_left_frees_the_place_for_the_next() -> None:
    play = failing(Playbook().engine("a", 200).engine("b"), "a", FAILED_MIN)
    play.at(OPEN_MIN_S).arrives(ticket(11), "11>a").arrives(ticket(12), "12>b")
    play.leaves(11)
    play.arrives(ticket(13), "13>a")


def test_a_request_counts_once_however_often_it_is_sent() -> None:
    play = failing(Playbook().engine("a").engine("b"), "a", 50, name="poison")
    assert state(play) == FINE


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.CANCELLED, Outcome.NOT_SENT, Outcome.BROKEN])
def test_what_is_not_its_fault_never_counts(outcome: Outcome) -> None:
    """The client's own 4xx, a 429, clients that leave, a gateway without a free connection."""
    play = Playbook().engine("a").engine("b")
    for ticket_id in range(100):
        play.arrives(ticket(ticket_id, 1, excluded=["b"]), f"{ticket_id}>a")
        play.leaves(ticket_id, outcome=outcome)
        if outcome is Outcome.BROKEN:
            play.reads(reading(play.now))
    assert state(play) == FINE


def test_requests_that_succeed_alongside_keep_it() -> None:
    """An answer, or a token of a stream that runs: whatever fails besides, it works."""
    play = Playbook().engine("a").engine("b").arrives(ticket(900, excluded=["b"]), "900>a")
    for k in range(10):
        failing(play, "a", FAILED_MIN - 1, first=10 * k)
        if k % 2:
            play.arrives(ticket(10 * k + 9, 1, excluded=["b"]), f"{10 * k + 9}>a").ends(10 * k + 9)
        else:
            play.progresses(900, 1 + k)
    assert state(play) == FINE


def test_the_last_one_is_not_ejected_for_a_few() -> None:
    """Ten requests that are poison, and the next one is served."""
    play = failing(Playbook().engine("a"), "a", ALONE_MIN - 1)
    assert state(play) == FINE
    play.arrives(ticket(99), "99>a")


def test_where_there_is_no_other_who_comes_is_told_when_to_come_back() -> None:
    """503 and the time of the next probe, for those too who wait."""
    play = failing(Playbook().engine("a"), "a", ALONE_MIN - 1, first=100)
    play.arrives(ticket(1, 100), "1>a").arrives(ticket(2, 100))
    fails(play, 1, "2!no_backend")
    assert state(play) == EJECTED
    play.arrives(ticket(3), "3!no_backend")
    retry_after_s = play.refusals[3].retry_after_s
    assert retry_after_s is not None
    assert OPEN_MIN_S <= retry_after_s < 3
    play.at(OPEN_MIN_S).arrives(ticket(4), "4>a").arrives(ticket(5))
    play.ends(4, "5>a")
    assert state(play) == FINE


def test_at_most_half_are_ejected() -> None:
    """When the next one fails too, it is the requests, or there is nothing to be gained."""
    play = Playbook().engine("a").engine("b").engine("c").engine("d").engine("e")
    for k, name in enumerate("abcde"):
        failing(play, name, 2 * ALONE_MIN if name > "b" else FAILED_MIN, first=100 * k)
    out = [known.name for known in play.admission.snapshot().backends if known.state is BackendState.EJECTED]
    assert out == ["a", "b"]


def test_one_that_is_down_stands_in_for_nobody() -> None:
    play = Playbook().engine("a").engine("b").misses("b", times=3)
    failing(play, "a", FAILED_MIN)
    assert state(play) == FINE


def test_observe_mode_refuses_nobody() -> None:
    play = Playbook(AdmissionLimits(observe=True)).engine("a")
    failing(play, "a", 2 * ALONE_MIN)
    assert state(play) == FINE
    play.event(LimitsChanged(AdmissionLimits()))
    failing(play, "a", 1, first=100)
    assert state(play) == EJECTED


def test_a_look_does_not_take_it_back_but_a_new_process_is_tried() -> None:
    """And one that is not reachable is down, whatever its breaker says."""
    play = failing(Playbook().engine("a", 200).engine("b"), "a", FAILED_MIN)
    play.reads(reading(0.0, blocks=200)).arrives(ticket(11), "11>b")
    play.reads(reading(0.0, blocks=200, generation="2")).arrives(ticket(12), "12>a").arrives(ticket(13), "13>b")
    for _ in range(3):
        play.event(BackendMissed("a", reachable=False))
    assert state(play) == (BackendState.DOWN, BreakerState.HALF_OPEN)


def test_providers_have_one_too() -> None:
    """And who waits for another backend is woken when its time has come."""
    play = failing(Playbook().provider("cloud", spill_only=False).engine("a"), "cloud", FAILED_MIN)
    assert state(play, "cloud") == EJECTED
    play.arrives(ticket(11, 100), "11>a").arrives(ticket(12))
    play.until(lambda: 12 in play.admits)
    assert play.now == OPEN_MIN_S
    assert state(play, "cloud") == (BackendState.BUSY, BreakerState.HALF_OPEN)
    play.ends(12)
    assert state(play, "cloud") == FINE


def test_a_dry_run_knows_of_it_and_changes_nothing() -> None:
    """It is no probe."""
    play = failing(Playbook().engine("a", 200).engine("b"), "a", FAILED_MIN)
    assert play.admission.consider(ticket(50), 0.0).backend == "b"
    for _ in range(3):
        assert play.admission.consider(ticket(50), OPEN_MIN_S).backend == "a"
    play.at(OPEN_MIN_S).arrives(ticket(11), "11>a")
