"""The policy of admission, rule by rule: several engines, hosted providers, tenants."""

from dataclasses import replace

import pytest

from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendState
from gateway.domain import Outcome, Reason
from tests.admission.words import BLOCK, MODEL, Playbook, reading, ticket

CLOUD_REQUEST = 10 * BLOCK
"""Tokens that a provider is charged in advance for a ticket of ten blocks."""


def test_the_engine_with_the_best_headroom_takes_it() -> None:
    """By part of its pool, so that engines of different sizes fill evenly; ties go by name."""
    play = Playbook().engine("a", 100).engine("b", 200)
    play.arrives(ticket(1, 40), "1>b").arrives(ticket(2, 40), "2>a").arrives(ticket(3, 40), "3>b")


def test_nothing_is_sent_before_the_first_look() -> None:
    """COLD: configured is not known."""
    play = Playbook().arrives(ticket(1), "1!no_backend")
    assert play.refusals[1].retry_after_s is not None


def test_an_unknown_model_has_no_backend() -> None:
    """Nobody has said that it serves it."""
    play = Playbook().engine().arrives(ticket(1, model="other"), "1!no_backend")
    assert play.admission.models() == {MODEL}


def test_down_after_three_up_after_two() -> None:
    """U17: one bad look is no death, one good look no recovery."""
    play = Playbook().engine().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.misses("a", times=2).reads(reading(0.0, used=90, running=1)).misses("a", times=2)
    assert play.backend().state is BackendState.READY
    play.misses("a", "2!no_backend")
    assert play.backend().state is BackendState.DOWN
    play.at(1.0).reads(reading(0.9)).arrives(ticket(3, 1), "3!no_backend")
    play.at(2.0).reads(reading(1.9)).arrives(ticket(4, 1), "4>a")


def test_a_broken_metrics_page_is_no_dead_engine() -> None:
    """T1: it is reachable, so the ledger goes on alone."""
    play = Playbook().engine().misses("a", reachable=True, times=9)
    play.arrives(ticket(1, 90), "1>a")


def test_who_waits_for_a_backend_that_dies_is_told_at_once() -> None:
    """Only those that no living backend may take: this one had failed to take request 3 already."""
    play = Playbook().engine("a", 20).engine("b", 100).arrives(ticket(1, 95), "1>b").arrives(ticket(2, 90))
    play.arrives(ticket(3, 15, excluded=["a"]))
    play.misses("b", "3!no_backend", times=3)
    assert play.depth == 1, "request 2 would need b, which may come back before its deadline"


def test_a_backend_that_failed_to_take_it_is_not_asked_again() -> None:
    """U1: the next one gets it."""
    play = Playbook().engine("a").engine("b").arrives(ticket(1, excluded=["a"]), "1>b")
    play.arrives(ticket(2, excluded=["a", "b"]), "2!no_backend")


def test_a_busy_backend_is_left_alone_until_it_said() -> None:
    """U4: its 429 with Retry-After. Who waits goes at that moment."""
    play = Playbook().engine().is_busy("a", 3.0).arrives(ticket(1, 10))
    assert play.backend().state is BackendState.BUSY
    play.timer("1>a")
    assert play.now == 3.0


def test_a_pause_is_never_cut_short() -> None:
    """The later of two wishes holds."""
    Playbook().engine().is_busy("a", 3.0).is_busy("a", 1.0).arrives(ticket(1, 10)).wakes(2.0).wakes(3.0, "1>a")


def test_who_waits_for_a_busy_backend_holds_nobody_up_elsewhere() -> None:
    """The head fits only the large one, which has asked for a pause: the others go to the small one."""
    play = Playbook().engine("a", 20).engine("b", 100).is_busy("b", 5.0)
    play.arrives(ticket(1, 90)).arrives(ticket(2, 10), "2>a").arrives(ticket(3, 10), "3>a").arrives(ticket(4, 10))
    play.wakes(5.0, "4>b", "1>b").ends(2)


def test_who_waits_for_one_engine_holds_nobody_up_on_another() -> None:
    """It fits only a, which is full; b goes on serving."""
    play = Playbook().engine("a", 100).engine("b", 20)
    play.arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90)).arrives(ticket(3, 15), "3>b").arrives(ticket(4, 12))
    play.ends(3, "4>b").ends(1, "2>a")


def test_models_have_lines_of_their_own() -> None:
    """A full engine of one model does not stop another model."""
    play = Playbook().engine("a").engine("b")
    play.reads(reading(0.0, backend="b", models=["other"]))
    play.arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90)).arrives(ticket(3, 90, model="other"), "3>b")


def test_a_provider_takes_what_own_engines_have_no_room_for() -> None:
    """`spill_only`: while there is room at home nothing is paid for; when there is again, neither."""
    play = Playbook().engine().provider().arrives(ticket(1, 90, output=600), "1>a")
    play.arrives(ticket(2, 90), "2>cloud")
    assert play.admits[2].spilled
    assert play.admits[2].kv_tokens == 0
    play.ends(1).arrives(ticket(3, 90), "3>a")
    assert not play.admits[3].spilled


def test_a_short_wait_is_not_paid_for() -> None:
    """Own engines will have room in half a second; a request that waits longer than predicted spills after all."""
    play = Playbook().engine().provider().arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.arrives(ticket(3, 90)).ends(1, "2>a")
    play.wakes(2.1, "3>cloud")


def test_what_must_begin_sooner_spills_sooner() -> None:
    """Its first token is wanted before own engines will have room."""
    play = Playbook().engine().provider().arrives(ticket(1, 90), "1>a")
    play.arrives(replace(ticket(2, 90), first_token_by=0.2), "2>cloud")


def test_a_provider_takes_what_fits_no_own_engine() -> None:
    """Too large at home is not too large everywhere."""
    Playbook().engine().provider().arrives(ticket(1, 200), "1>cloud")


def test_a_provider_that_is_no_spill_is_one_of_the_backends() -> None:
    """Also as the only one; nothing has spilled then."""
    play = Playbook().provider(spill_only=False).arrives(ticket(1), "1>cloud")
    assert not play.admits[1].spilled
    assert play.backend("cloud").hosted
    assert play.backend("cloud").requests == 1
    play.ends(1)
    assert play.backend("cloud").requests == 0


def test_requests_per_minute_run_out_and_come_back_evenly() -> None:
    """Six a minute: all six at once, then one every ten seconds."""
    play = Playbook().provider(rpm=6)
    for number in range(1, 7):
        play.arrives(ticket(number), f"{number}>cloud")
    play.arrives(ticket(7)).timer("7>cloud")
    assert play.now == pytest.approx(10.0)


def test_tokens_per_minute_are_charged_in_advance_and_settled() -> None:
    """What was not used comes back at once."""
    play = Playbook().provider(tpm=2 * CLOUD_REQUEST).arrives(ticket(1), "1>cloud").arrives(ticket(2), "2>cloud")
    play.arrives(ticket(3)).ends(1, "3>cloud", output=0)


def test_what_a_provider_never_got_or_refused_is_not_charged() -> None:
    """NOT_SENT gives all back; REFUSED the tokens, as nothing was generated."""
    play = Playbook().provider(rpm=2, tpm=2 * CLOUD_REQUEST)
    play.arrives(ticket(1), "1>cloud").arrives(ticket(2), "2>cloud").arrives(ticket(3))
    play.leaves(1, "3>cloud", outcome=Outcome.NOT_SENT)
    play.arrives(ticket(4, deadline=99.0)).leaves(2, outcome=Outcome.REFUSED)
    play.timer("4>cloud")
    assert play.now == pytest.approx(30.0), "the request itself did count"


def test_more_than_a_minute_allows_goes_when_nothing_is_used() -> None:
    """A request above the limit could never go otherwise."""
    play = Playbook().provider(tpm=100).arrives(ticket(1, 20), "1>cloud").arrives(ticket(2, 1, deadline=999.0))
    play.until(lambda: play.depth == 0)
    assert play.now == pytest.approx((20 * BLOCK - 100 + 16) / 100 * 60, abs=0.1)


def test_a_quota_that_is_used_up_holds_the_line() -> None:
    """A small request does not take what a large one waits for."""
    play = Playbook().provider(tpm=CLOUD_REQUEST).arrives(ticket(1), "1>cloud")
    play.arrives(ticket(2, deadline=99.0)).at(30.0).arrives(ticket(3, 1, deadline=99.0)).timer("2>cloud")
    assert play.now == pytest.approx(60.0)


def test_observe_mode_uses_providers_too() -> None:
    """Where there is nothing else."""
    play = Playbook(AdmissionLimits(observe=True)).provider(rpm=1).arrives(ticket(1), "1>cloud")
    play.arrives(ticket(2), "2>cloud")
    assert play.admits[2].reason is Reason.HEADROOM


def test_alone_a_tenant_may_use_everything() -> None:
    """Its share holds only while others want room."""
    play = Playbook().engine()
    for number in (1, 2, 3):
        play.arrives(ticket(number, 30, tenant="t", kv_share=0.5), f"{number}>a")


def test_with_others_in_line_a_tenant_keeps_to_its_share() -> None:
    """It is passed meanwhile by others, and its own requests by nobody else."""
    play = Playbook().engine().arrives(ticket(1, 50, tenant="t"), "1>a").arrives(ticket(2, 40, tenant="u"), "2>a")
    play.arrives(ticket(3, 30, tenant="t", kv_share=0.5)).arrives(ticket(4, 30, tenant="u"))
    play.arrives(ticket(5, 1, tenant="t", kv_share=0.5))
    play.ends(2, "4>a", "5>a").ends(1, "3>a")


def test_shares_stop_binding_with_the_last_of_the_others() -> None:
    """It was passed for its share, then nobody else waits: it goes in the same step."""
    play = Playbook().engine().arrives(ticket(1, 50, tenant="t"), "1>a").arrives(ticket(2, 40, tenant="u"), "2>a")
    play.arrives(ticket(3, 20, tenant="t", kv_share=0.5)).arrives(ticket(4, 30, tenant="u"))
    play.ends(2, "4>a", "3>a")


def test_a_tenant_that_waits_for_its_share_to_the_end_is_told_so() -> None:
    """429 `tenant_limit`, not a full gateway."""
    play = Playbook().engine().arrives(ticket(1, 60, tenant="t"), "1>a")
    play.arrives(ticket(2, 45, tenant="t", kv_share=0.5, deadline=5.0))
    play.arrives(ticket(3, 45, tenant="u", deadline=9.0))
    play.wakes(5.0, "2!tenant_limit")


def test_retry_after_of_a_dead_model_is_a_guess() -> None:
    """Nothing is known that could predict it; spread over a fifth, so that clients do not come back together."""
    play = Playbook()
    times = []
    for number in range(1, 20):
        play.arrives(ticket(number), f"{number}!no_backend")
        times.append(play.refusals[number].retry_after_s or 0.0)
    assert min(times) >= 5.0
    assert max(times) <= 6.0
    assert len(set(times)) == len(times)
