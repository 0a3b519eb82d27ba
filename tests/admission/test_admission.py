"""What holds for every call of admission; the rules are in the playbooks, the promises in the machine."""

import pytest

from gateway.admission.admission import TIMER_MIN_S, Admission
from gateway.admission.events import Arrived, BackendBusy, BackendMissed, BackendRead, Left, Progressed
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Outcome, ServedModel
from tests.admission.words import MODEL, Playbook, reading, ticket


def test_time_never_goes_back() -> None:
    """Promise 6: a caller whose clock does is mistaken."""
    admission = Admission(AdmissionLimits())
    admission.handle_timer(2.0)
    with pytest.raises(AssertionError, match="time went back"):
        admission.handle(Left(1, Outcome.FINISHED), 1.0)


def test_news_of_strangers_change_nothing() -> None:
    """Backends that were never configured, requests that are not known."""
    admission = Admission(AdmissionLimits())
    for event in (
        BackendRead(reading(0.0)),
        BackendMissed("a", reachable=False),
        BackendBusy("a", 9.0),
        Progressed(((7, 100),)),
    ):
        assert admission.handle(event, 0.0) == []
    assert admission.snapshot().backends == ()
    assert admission.next_timer() is None


def test_a_deadline_that_has_come_already_is_no_use_waiting_for() -> None:
    """It is answered at once where it cannot go at once."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 5, deadline=0.0), "2>a")
    play.arrives(ticket(3, 50, deadline=0.0), "3!headroom")


def test_a_timer_is_never_due_at_once() -> None:
    """Promise 5: the caller would spin."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 50, deadline=30.0)).at(29.9999)
    play.wakes(29.9999)
    assert play.admission.next_timer() == 29.9999 + TIMER_MIN_S


def test_looking_changes_nothing() -> None:
    """Promise 7 holds however often metrics are scraped: decisions do not depend on who watches."""
    answers = []
    for watched in (False, True):
        play = Playbook().engine().provider(rpm=7, tpm=1000)
        for number in range(40):
            play.at(number * 0.0137).arrives_somehow(ticket(number, 4 + number % 7, output=30))
            if watched:
                play.admission.snapshot()
                play.admission.next_timer()
        answers.append((play.admits, play.refusals))
    assert answers[0] == answers[1]


def test_context_and_models() -> None:
    """For those who price requests."""
    play = Playbook().engine("a", 10).engine("b", 20)
    assert play.admission.served(MODEL) == ServedModel(2, 320)
    assert play.admission.served("other") is None
    assert play.admission.models() == {MODEL}


def test_queues_are_shown() -> None:
    """By model and class, with the tokens that they are going to need."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 60)).at(2.0).arrives(ticket(3, 30))
    (row,) = play.admission.snapshot().queues
    assert (row.model, row.depth, row.tokens, row.oldest_wait_s) == (MODEL, 2, 90 * 16, 2.0)


def test_an_arrival_is_answered_in_the_same_call() -> None:
    """Nothing is left for a timer that can be decided now."""
    admission = Playbook().engine().admission
    assert len(admission.handle(Arrived(ticket(1)), 0.0)) == 1
