"""The policy of admission, rule by rule, for one engine: who goes, who waits, who is turned away with which numbers."""

import pytest

from estimator.output_length import OutputLengths
from gateway.admission.account import LOOK_BLOCKS
from gateway.admission.events import DrainStarted, Learned
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Outcome, Priority, Reason
from tests.admission.words import BLOCK, MODEL, Playbook, reading, ticket

QUICK = AdmissionLimits(queue_requests_max=2)


def test_what_fits_goes_at_once() -> None:
    """An Admit names what it reserves."""
    play = Playbook().engine()
    play.arrives(ticket(1, 40), "1>a").arrives(ticket(2, 40), "2>a")
    assert play.admits[1].kv_tokens == 40 * BLOCK
    assert play.admits[1].reason is Reason.OK
    assert play.backend().headroom_tokens == 20 * BLOCK


def test_what_does_not_fit_waits_for_an_end() -> None:
    """Memory is given to who waits in the very step in which it is freed."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a").arrives(ticket(2, 60))
    play.at(3.0).ends(1, "2>a")
    assert play.admits[2].reason is Reason.OK_AFTER_WAIT
    assert play.admits[2].waited_s == 3.0


def test_the_shorter_goes_first() -> None:
    """A small request that fits passes a large one that does not."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a").arrives(ticket(2, 60)).arrives(ticket(3, 5), "3>a")
    play.ends(1, "2>a")


def test_but_nobody_is_passed_for_ever() -> None:
    """Who has waited long goes first: those behind wait, even if they would fit."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a").arrives(ticket(2, 60, deadline=99.0))
    play.at(15.0).reads(reading(14.9, used=59, running=1)).arrives(ticket(3, 5, deadline=99.0), "3>a")
    play.at(20.0).reads(reading(19.9, used=64, running=2)).arrives(ticket(4, 5, deadline=99.0))
    play.ends(1, "2>a", "4>a")


COSTLY = 600
"""Tokens of an answer that makes a request stand behind others that need more memory."""


def test_a_client_that_leaves_the_queue_makes_place() -> None:
    """C1: nothing was reserved, and those behind move up."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a").arrives(ticket(2, 60))
    play.arrives(ticket(3, 40, output=COSTLY)).leaves(2, "3>a")


def test_a_grant_that_its_client_does_not_take_goes_to_the_next() -> None:
    """C2: gone in the tick of the grant."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90)).arrives(ticket(3, 90))
    play.ends(1, "2>a").leaves(2, "3>a", outcome=Outcome.NOT_SENT)


def test_a_deadline_is_met_to_the_moment() -> None:
    """Not before it, and not after the timer that is due then."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90, deadline=7.25))
    play.wakes(7.2).wakes(7.25, "2!queue_timeout")
    assert play.refusals[2].waited_s == 7.25
    assert play.admission.next_timer() is None


def test_the_queue_has_a_bound() -> None:
    """Who finds it full is told what it needed and what there was."""
    play = Playbook(QUICK).engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90)).arrives(ticket(3, 90))
    play.arrives(ticket(4, 50), "4!queue_full")
    refusal = play.refusals[4]
    assert (refusal.need_tokens, refusal.headroom_tokens, refusal.capacity_tokens) == (800, 160, 1600)
    assert refusal.retry_after_s is not None
    assert refusal.retry_after_s > 0


def test_a_full_queue_does_not_stop_who_need_not_wait() -> None:
    """The bound is on waiting: a request for another engine of the model goes at once."""
    play = Playbook(QUICK).engine("a").engine("b", 20)
    play.arrives(ticket(1, 95), "1>a").arrives(ticket(2, 90)).arrives(ticket(3, 90))
    play.arrives(ticket(4, 9), "4>b").arrives(ticket(5, 90), "5!queue_full")


def test_without_a_queue_no_room_is_an_answer_at_once() -> None:
    """`queue_requests_max` 0."""
    play = Playbook(AdmissionLimits(queue_requests_max=0)).engine().arrives(ticket(1, 60), "1>a")
    play.arrives(ticket(2, 60), "2!headroom")


def test_a_hopeless_wait_is_refused_at_once() -> None:
    """The running request needs 3000 tokens more, minutes away: who can wait a second need not try."""
    play = Playbook().engine(blocks=1000).arrives(ticket(1, 900, output=3000), "1>a")
    play.arrives(ticket(2, 300, deadline=1.0), "2!headroom").arrives(ticket(3, 300, deadline=600.0))
    retry_after_s = play.refusals[2].retry_after_s
    assert retry_after_s is not None
    assert retry_after_s == pytest.approx(3000 / 30, rel=0.25)


def test_a_retry_stands_behind_who_waits_now() -> None:
    """Who gives up at the head of the line does not come back to it: those behind it go before its retry."""
    waits = []
    for others in (0, 20):
        play = Playbook().engine().arrives(ticket(1, 90, output=300), "1>a").arrives(ticket(2, 60, deadline=9.0))
        for number in range(3, 3 + others):
            play.arrives(ticket(number, 80, deadline=99.0))
        play.wakes(9.0, "2!queue_timeout")
        waits.append(play.refusals[2].retry_after_s or 0.0)
    assert waits[1] > waits[0] + 5.0


def test_too_large_is_refused_for_good_with_what_would_fit() -> None:
    """No Retry-After. One token less than the number that is named fits too; one more does not."""
    play = Playbook().engine(blocks=10)
    play.arrives(ticket(1, 11, output=100), "1!too_large")
    refusal = play.refusals[1]
    assert (refusal.need_tokens, refusal.capacity_tokens, refusal.retry_after_s) == (176, 160, None)
    prompt = 11 * BLOCK - 100
    assert refusal.largest_max_tokens == 10 * BLOCK - prompt
    exact = refusal.largest_max_tokens
    play.arrives(ticket(2, (prompt + exact) / BLOCK, output=exact), "2>a").ends(2)
    play.arrives(ticket(3, (prompt + exact + 1) / BLOCK, output=exact + 1), "3!too_large")


def test_a_prompt_that_fits_no_backend_is_told_so() -> None:
    """0 as the largest `max_tokens` means that the prompt alone is too long."""
    play = Playbook().engine(blocks=10).arrives(ticket(1, 20), "1!too_large")
    assert play.refusals[1].largest_max_tokens == 0


def test_the_limit_of_a_sequence_counts_apart_from_the_pool() -> None:
    """Need and capacity are those of the limit that was exceeded."""
    play = Playbook().engine(sequence_tokens_max=320)
    play.arrives(ticket(1, 21), "1!too_large").arrives(ticket(2, 19, n=6), "2!too_large")
    assert (play.refusals[1].need_tokens, play.refusals[1].capacity_tokens) == (336, 320)
    assert (play.refusals[2].need_tokens, play.refusals[2].capacity_tokens) == (6 * 19 * BLOCK, 1600)


def test_a_request_without_a_bound_is_never_too_large_for_its_possible_end() -> None:
    """Its end is the engine's context; what counts is that it can begin."""
    Playbook().engine(blocks=10).arrives(ticket(1, 10, output=100, bounded=False), "1>a")


def test_clamp_cuts_to_what_fits() -> None:
    """By configuration; the Admit carries the new bound."""
    play = Playbook(AdmissionLimits(clamp=True)).engine(blocks=10).arrives(ticket(1, 11, output=100), "1>a")
    assert play.admits[1].max_tokens == 10 * BLOCK - (11 * BLOCK - 100)
    play.ends(1).arrives(ticket(2, 12, output=16), "2!too_large")


def test_alone_a_request_may_take_what_there_is() -> None:
    """Its prompt fits, its likely end does not: nobody is crowded out by it, and nobody joins it."""
    play = Playbook().engine(blocks=10).arrives(ticket(1, 20, output=200, bounded=False), "1>a").arrives(ticket(2, 1))
    play.ends(1, "2>a")


def test_the_margin_of_an_estimate_keeps_nobody_out_for_ever() -> None:
    """The bounds of eight copies of a prompt exceed the pool, their expected lengths do not: alone, it goes."""
    Playbook().engine(blocks=10).arrives(ticket(1, 2, output=8, n=8, expected=8), "1>a")


def test_growth_beyond_the_bound_reserves_more() -> None:
    """U15: the lease grows and nobody is cut."""
    lengths = OutputLengths()
    for _ in range(500):
        lengths.learn(40, ended=True)
    play = Playbook(AdmissionLimits(risk=0.1)).engine(blocks=1000)
    play.arrives(ticket(1, 64, output=1000, forecast=lengths.forecast()), "1>a")
    first = play.admits[1].kv_tokens
    before = play.backend().reserved_tokens
    play.at(60.0).progresses(1, 400)
    assert first < 24 + 400
    assert play.backend().reserved_tokens > before


def test_answers_get_shorter_than_thought_and_those_who_wait_profit() -> None:
    """`Learned` prices anew who runs and who waits; room is found at the next look."""
    play = Playbook().engine(blocks=100)
    lengths = OutputLengths()
    long = lengths.forecast()
    for number in range(1, 5):
        arrival = ticket(number, 70, output=1000, forecast=long)
        play.arrives(arrival, *([f"{number}>a"] if number == 1 else []))
    for _ in range(3000):
        lengths.learn(5, ended=True)
    play.event(Learned(MODEL, lengths.forecast()))
    play.until(lambda: play.depth == 0)
    assert sorted(play.admits) == [1, 2, 3, 4]


def test_who_runs_to_its_bound_is_not_priced_by_others() -> None:
    """`ignore_eos`: what others do tells nothing about it."""
    play = Playbook().engine(blocks=100)
    lengths = OutputLengths()
    for _ in range(3000):
        lengths.learn(5, ended=True)
    stubborn = ticket(1, 70, output=1000)
    play.event(Learned(MODEL, lengths.forecast()))
    object.__setattr__(stubborn, "runs_to_max", True)
    play.arrives(stubborn, "1>a")
    assert play.admits[1].kv_tokens == 70 * BLOCK


def test_a_class_with_a_handicap_is_passed_only_for_a_while() -> None:
    """STANDARD counts as having come 5 s later: it is passed by who comes 4 s after it, not by who comes 6 s after."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90, priority=Priority.STANDARD))
    play.at(4.0).arrives(ticket(3, 90)).at(6.0).arrives(ticket(4, 90))
    play.ends(1, "3>a").ends(3, "2>a").ends(2, "4>a")


def test_the_engine_runs_only_so_many_sequences() -> None:
    """`n` counts as so many; a lone request that exceeds it goes all the same."""
    play = Playbook().engine(sequences_max=4).arrives(ticket(1, 2, n=3), "1>a").arrives(ticket(2, 2, n=2))
    play.ends(1, "2>a").arrives(ticket(3, 2, n=8)).ends(2, "3>a")


def test_shutdown_turns_away_who_waits_and_who_comes() -> None:
    """What runs may end."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.event(DrainStarted(), "2!shutdown").arrives(ticket(3, 1), "3!shutdown").ends(1)
    assert play.admission.snapshot().draining
    assert play.backend().reserved_tokens == 0


def test_repeated_ends_change_nothing_but_are_counted() -> None:
    """A release happens once."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").ends(1).ends(1).leaves(1)
    assert play.admission.snapshot().double_releases == 2


def test_observe_mode_sends_everything_and_says_what_it_would_have_done() -> None:
    """Refusals become reasons of an Admit; nobody waits; nothing is cut."""
    play = Playbook(AdmissionLimits(observe=True, clamp=True)).engine()
    play.arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90), "2>a").arrives(ticket(3, 200), "3>a")
    assert [play.admits[k].reason for k in (1, 2, 3)] == [Reason.OK, Reason.HEADROOM, Reason.TOO_LARGE]
    assert play.admits[3].max_tokens is None
    play.event(DrainStarted()).arrives(ticket(4, 1), "4!shutdown")


def test_an_idle_gateway_has_no_timer() -> None:
    """Nothing to wait for, nothing to wake for: not even while requests run."""
    play = Playbook().engine()
    assert play.admission.next_timer() is None
    play.arrives(ticket(1, 90), "1>a")
    assert play.admission.next_timer() is None


def test_the_timer_does_not_spin() -> None:
    """While somebody waits behind a running request, looks are a fraction of a block's growth apart."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90, deadline=20.0))
    looks = 0
    while play.depth:
        due = play.admission.next_timer()
        assert due is not None
        play.now = due
        play.admission.handle_timer(due)
        looks += 1
    assert looks <= 20 / (LOOK_BLOCKS * BLOCK / 30) + 2
