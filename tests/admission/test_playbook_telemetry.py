"""The policy of admission, rule by rule: what engines say of themselves, and what to think of it."""

import pytest

from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendState, Telemetry
from gateway.domain import Outcome
from tests.admission.words import BLOCK, POOL, Playbook, reading, ticket

BROKEN = Outcome.BROKEN


def test_a_client_that_left_keeps_its_memory_until_the_engine_shows_it_free() -> None:
    """C3, C4: draining counts against admission; only a look that began after the end tells anything."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.at(5.0).leaves(1)
    assert play.backend().draining_tokens == 90 * BLOCK
    play.at(5.1).reads(reading(4.9, used=0))
    play.at(5.6).reads(reading(5.5, used=90, running=1))
    play.at(6.1).reads(reading(6.0, used=0), "2>a")
    assert play.backend().draining_tokens == 0
    assert play.backend().drain_timeouts == 0


@pytest.mark.parametrize("outcome", [Outcome.FINISHED, Outcome.REFUSED, Outcome.NOT_SENT])
def test_ends_that_prove_memory_free_need_no_look(outcome: Outcome) -> None:
    """U1, U3, U4: nothing reached the engine, or it answered."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.leaves(1, "2>a", outcome=outcome)


def test_one_that_hangs_does_not_keep_the_others_reserved() -> None:
    """Of three that left, the engine shows one: two are free, and the youngest is the one to doubt."""
    play = Playbook().engine()
    play.arrives(ticket(1, 20), "1>a").arrives(ticket(2, 30), "2>a").arrives(ticket(3, 40), "3>a")
    play.at(1.0).leaves(1).at(1.1).leaves(2).at(1.2).leaves(3)
    play.at(2.0).reads(reading(1.9, used=20, running=1))
    assert play.backend().draining_tokens == 40 * BLOCK


def test_a_drain_that_is_never_shown_becomes_foreign() -> None:
    """U19: after the drain time and two looks it is somebody else's memory, counted until the engine shows it free."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a").arrives(ticket(2, 60, deadline=100.0))
    play.at(1.0).leaves(1, outcome=BROKEN)
    for second in range(2, 11):
        play.at(second).reads(reading(second - 0.1, used=60, running=1))
        assert play.backend().draining_tokens == 60 * BLOCK
    play.at(11.5).reads(reading(11.4, used=60, running=1))
    now = play.backend()
    assert (now.draining_tokens, now.foreign_tokens, now.drain_timeouts) == (0, 60 * BLOCK, 1)
    play.at(20.0).reads(reading(19.9, used=0), "2>a")


def test_an_engine_that_says_nothing_of_itself_ends_drains_by_time() -> None:
    """No gauge and no count: nothing could ever show the memory free, so it must not stay counted."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a")
    play.at(1.0).leaves(1)
    for second in (5.0, 9.0, 12.0):
        play.at(second).reads(reading(second - 0.1, used=None, running=None, waiting=None))
    now = play.backend()
    assert (now.draining_tokens, now.foreign_tokens, now.drain_timeouts) == (0, 0, 1)


def test_an_engine_that_only_counts_can_still_clear_a_drain_and_what_became_of_it() -> None:
    """Requests running tell that nobody is left."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a").arrives(ticket(2, 30), "2>a")
    play.at(1.0).leaves(1)
    for second in (5.0, 9.0, 12.0):
        play.at(second).reads(reading(second - 0.1, used=None, running=2))
    assert play.backend().foreign_tokens == 60 * BLOCK
    play.at(13.0).reads(reading(12.9, used=None, running=1))
    assert play.backend().foreign_tokens == 0


def test_without_telemetry_drains_end_by_time() -> None:
    """A minute without a look: the drain time is all there is."""
    play = Playbook().engine().arrives(ticket(1, 60), "1>a")
    play.at(1.0).leaves(1)
    play.at(50.0).misses("a", reachable=True)
    assert play.backend().draining_tokens == 60 * BLOCK
    play.at(61.0).misses("a", reachable=True)
    assert play.backend().draining_tokens == 0
    assert play.backend().drain_timeouts == 1


def test_memory_of_others_counts_after_three_looks() -> None:
    """One look may have caught the ledger between two events."""
    play = Playbook().engine()
    for second, foreign in ((1.0, 0), (2.0, 0), (3.0, 40)):
        play.at(second).reads(reading(second - 0.1, used=40, running=3, work=second))
        assert play.backend().foreign_tokens == foreign * BLOCK
    play.arrives(ticket(1, 70)).at(4.0).reads(reading(3.9, used=20, running=1, work=9), "1>a")
    assert play.backend().foreign_tokens == 20 * BLOCK


def test_memory_of_others_counts_at_the_first_look() -> None:
    """G2: after a restart of this gateway the engine may be full of its predecessor's requests."""
    play = Playbook().engine("a", used=70, running=2)
    assert play.backend().foreign_tokens == 70 * BLOCK
    play.arrives(ticket(1, 40)).at(1.0).reads(reading(0.9, used=0), "1>a")


def test_what_ended_or_started_around_a_look_is_no_stranger() -> None:
    """A look that was asked for before an end still shows it; one asked for before a start cannot."""
    play = Playbook().engine().arrives(ticket(1, 50, output=8), "1>a")
    play.at(2.0).ends(1, output=8).arrives(ticket(2, 50), "2>a")
    for _ in range(4):
        play.at(2.1).reads(reading(1.9, used=50, running=1))
    assert play.backend().foreign_tokens == 0


def test_small_differences_are_no_strangers() -> None:
    """Ledger and engine differ by a few blocks all the time."""
    play = Playbook().engine()
    for second in range(1, 9):
        play.at(second).reads(reading(second - 0.1, used=5, running=1, work=second))
    assert play.backend().foreign_tokens == 0


def test_an_engine_that_runs_nothing_uses_nothing() -> None:
    """T3, vllm#29928: its gauge froze when its last request was aborted."""
    play = Playbook().engine()
    for second in range(1, 9):
        play.at(second).reads(reading(second - 0.1, used=99, running=0))
    play.arrives(ticket(1, 90), "1>a")


def test_a_frozen_engine_gets_a_probe() -> None:
    """T3 where it shows running requests too, though nothing moves: one request at a time, to make it step."""
    play = Playbook().engine("a", used=99, running=2)
    play.arrives(ticket(1, 10, deadline=60.0)).arrives(ticket(2, 10, deadline=60.0))
    for second in range(1, 10):
        play.at(second).reads(reading(float(second), used=99, running=2))
    play.at(9.5)
    assert play.backend().telemetry is Telemetry.FRESH
    play.timer("1>a")
    assert play.now == 10.0
    play.at(10.2).reads(reading(10.1, used=1, running=1, work=1.0), "2>a")


def test_probes_of_a_frozen_engine_are_paced() -> None:
    """If the probe did not help, the next one follows a second after it."""
    play = Playbook().engine("a", used=99, running=2)
    for second in range(1, 11):
        play.at(second).reads(reading(float(second), used=99, running=2))
    play.arrives(ticket(1, 10, deadline=60.0), "1>a").arrives(ticket(2, 10, deadline=60.0))
    assert play.backend().telemetry is Telemetry.FRESH, "somebody works: a gauge may stand still"
    play.at(10.5).ends(1)
    assert play.backend().telemetry is Telemetry.FROZEN
    play.timer("2>a")
    assert play.now == 11.0


def test_a_lie_low_admits_no_more_than_the_ledger_allows() -> None:
    """T5."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 20))
    for second in range(1, 20):
        play.at(second).reads(reading(second - 0.1, used=0, running=0))
    assert play.depth == 1


@pytest.mark.parametrize("used", [-1, 106, 10**9])
def test_impossible_gauges_are_no_measurements(used: int) -> None:
    """T1: a page that shows more than the pool, or less than nothing, changes nothing."""
    play = Playbook().engine()
    for second in range(1, 9):
        play.at(second).reads(reading(second - 0.1, used=used, running=1))
    assert play.backend().foreign_tokens == 0
    play.arrives(ticket(1, 95), "1>a")


def test_old_telemetry_holds_a_margin_back() -> None:
    """T2: a tenth after 5 s, three tenths after a minute; never all."""
    play = Playbook().engine()
    assert (play.backend().telemetry, play.backend().headroom_tokens) == (Telemetry.FRESH, 100 * BLOCK)
    play.wakes(5.1)
    assert (play.backend().telemetry, play.backend().headroom_tokens) == (Telemetry.STALE, 90 * BLOCK)
    play.wakes(61.0)
    assert (play.backend().telemetry, play.backend().headroom_tokens) == (Telemetry.LOST, 70 * BLOCK)
    assert play.backend().held_back_tokens == 30 * BLOCK
    play.arrives(ticket(1, 71, deadline=99.0)).arrives(ticket(2, 30, deadline=99.0), "2>a")
    play.at(62.0).reads(reading(61.9, used=30, running=1)).ends(2, "1>a")


def test_a_request_that_no_emptying_lets_in_holds_nobody_up() -> None:
    """Half the pool is somebody else's and stays so: the large one waits for its deadline, the small ones go on."""
    play = Playbook().engine("a", used=50, running=2)
    play.arrives(ticket(1, 70, deadline=9.0))
    for second in range(1, 9):
        play.at(second).reads(reading(second - 0.1, used=50, running=2, work=second))
        play.arrives(ticket(10 + second, 30), f"{10 + second}>a").ends(10 + second)
    play.wakes(9.0, "1!queue_timeout")


def test_and_it_goes_first_once_it_can() -> None:
    """The others left: it could come in now, so those behind it wait again."""
    play = Playbook().engine("a", used=50, running=2)
    play.arrives(ticket(1, 70)).arrives(ticket(2, 40), "2>a")
    play.at(1.0).reads(reading(0.9, used=40, running=1)).arrives(ticket(3, 40, output=600))
    play.ends(2, "1>a", "3>a")


def test_looks_that_arrive_in_the_wrong_order_count_once() -> None:
    """An older answer says nothing new."""
    play = Playbook().engine()
    play.at(2.0).reads(reading(1.5, used=0)).reads(reading(0.5, used=90, running=1))
    assert play.backend().observed_tokens == 0


def test_a_restart_begins_with_an_empty_pool() -> None:
    """U16: leases of the old generation, live or draining, do not haunt the new one; their ends find the old books."""
    play = Playbook().engine().arrives(ticket(1, 50), "1>a").arrives(ticket(2, 40), "2>a").arrives(ticket(3, 70))
    play.at(1.0).leaves(2)
    play.at(2.0).reads(reading(1.9, generation="2", blocks=80), "3>a")
    now = play.backend()
    assert (now.draining_tokens, now.capacity_tokens, now.requests) == (0, 80 * BLOCK, 1)
    play.at(2.1).leaves(1, outcome=BROKEN).ends(3)
    assert play.backend().reserved_tokens == play.backend().draining_tokens == 0
    assert play.admission.snapshot().double_releases == 0


def test_a_restarted_engine_takes_nothing_until_it_has_described_its_pool() -> None:
    """A page without a capacity is enough for a pool that is known, not for a new one."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.at(1.0).reads(reading(0.9, blocks=None, used=90, running=1))
    play.at(2.0).reads(reading(1.9, blocks=None, generation="2"), "2!no_backend")
    assert play.backend().state is BackendState.COLD
    play.at(3.0).reads(reading(2.9, generation="2")).arrives(ticket(3, 90), "3>a")


def test_a_pool_of_no_blocks_is_no_pool() -> None:
    """A capacity of zero on a page that was read too early."""
    play = Playbook().engine("a", blocks=0).arrives(ticket(1, 1), "1!no_backend")
    assert play.backend().state is BackendState.COLD


def test_a_pool_that_is_described_anew_prices_its_leases_again() -> None:
    """Totals stay the sum of the leases."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").at(1.0).leaves(1)
    play.at(2.0).reads(reading(1.9, blocks=POOL + 50, used=90, running=1)).arrives(ticket(2, 55), "2>a")


def test_preemptions_count_from_the_first_look_on() -> None:
    """Across restarts, and not what the engine had counted before."""
    play = Playbook().engine("a", preemptions=1000)
    play.at(1.0).reads(reading(0.9, preemptions=1003)).at(2.0).reads(reading(1.9, preemptions=2, generation="2"))
    play.at(3.0).reads(reading(2.9, preemptions=None, generation="2"))
    play.at(4.0).reads(reading(3.9, preemptions=7, generation="2"))
    assert play.backend().preemptions == 5


def test_frozen_needs_time() -> None:
    """The limit is a setting."""
    play = Playbook(AdmissionLimits(frozen_after_s=2.0)).engine("a", used=99, running=2)
    play.at(2.5).reads(reading(2.4, used=99, running=2))
    assert play.backend().telemetry is Telemetry.FROZEN


def test_a_restart_with_a_smaller_pool_turns_away_who_cannot_fit_any_more() -> None:
    """It need not wait for its deadline to learn that."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.at(1.0).reads(reading(0.9, generation="2", blocks=80), "2!too_large")
    assert play.refusals[2].capacity_tokens == 80 * BLOCK
