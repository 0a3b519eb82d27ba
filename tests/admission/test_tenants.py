"""Limits of tenants, in what admission does and in their own books."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from gateway.admission.events import Arrived, Denied, LimitsChanged
from gateway.admission.limits import AdmissionLimits
from gateway.admission.tenants import Tenants
from gateway.domain import Outcome, TenantLimits, Ticket, Usage
from tests.admission.words import Playbook, ticket

TOKENS = 160
"""Of a ticket of ten blocks."""


def limited(number: int, blocks: float = 10, tenant: str = "a", **limits: int) -> Ticket:
    return replace(ticket(number, blocks, tenant=tenant), tenant_limits=TenantLimits(**limits))


def test_so_many_run_at_once_and_the_next_waits_for_one_of_them() -> None:
    """However much memory is free; whoever else comes goes past it."""
    play = Playbook().engine()
    play.arrives(limited(1, requests_max=2), "1>a").arrives(limited(2, requests_max=2), "2>a")
    play.arrives(limited(3, requests_max=2)).arrives(limited(4, tenant="b", requests_max=2), "4>a")
    play.arrives(ticket(5), "5>a")
    play.at(1.0).ends(4).ends(5)
    play.at(2.0).ends(1, "3>a")
    assert play.admits[3].waited_s == 2.0


def test_as_many_wait_as_may_run_and_further_ones_are_refused() -> None:
    """Told when a place is likely, once it is known how long one lasts."""
    play = Playbook().engine().arrives(limited(1, requests_max=1), "1>a").arrives(limited(2, requests_max=1))
    play.arrives(limited(3, requests_max=1), "3!tenant_limit")
    first = play.refusals[3]
    assert (first.tenant_limit, first.tenant_limit_max, first.retry_after_s) == ("requests_max", 1, 5.0)
    assert first.capacity_tokens == 1600
    play.at(8.0).ends(1, "2>a").arrives(limited(4, requests_max=1))
    play.arrives(limited(5, requests_max=1), "5!tenant_limit")
    assert play.refusals[5].retry_after_s == pytest.approx(2 * 8.0)
    play.leaves(4).at(9.0).ends(2).arrives(limited(6, requests_max=1), "6>a")


def test_who_waits_for_its_limit_in_vain_is_told_so() -> None:
    play = Playbook().engine().arrives(limited(1, requests_max=1), "1>a").arrives(limited(2, requests_max=1))
    play.at(30.0).wakes(30.0, "2!tenant_limit")
    assert (play.refusals[2].tenant_limit, play.refusals[2].waited_s) == ("requests_max", 30.0)


def test_the_limit_holds_at_providers_too() -> None:
    play = Playbook().provider(spill_only=False)
    play.arrives(limited(1, requests_max=1), "1>cloud").arrives(limited(2, requests_max=1))
    play.ends(1, "2>cloud")


@pytest.mark.parametrize("outcome", Outcome)
def test_every_end_gives_the_place_back(outcome: Outcome) -> None:
    play = Playbook().engine().arrives(limited(1, requests_max=1), "1>a").arrives(limited(2, requests_max=1))
    play.leaves(1, "2>a", outcome=outcome)


def test_a_place_that_others_took_first_is_none() -> None:
    """Denied by those who share the engine: it waits again, and another of its tenant may go."""
    play = Playbook().engine().arrives(limited(1, requests_max=1), "1>a")
    play.event(Denied(1, 0.0), "1>a")
    play.arrives(limited(2, requests_max=1)).ends(1, "2>a")


def test_too_many_per_minute_are_refused_at_once() -> None:
    """With the time at which the next is allowed; those refused together are not sent to the same moment."""
    play = Playbook().engine()
    play.arrives(limited(1, requests_per_minute=2), "1>a").arrives(limited(2, requests_per_minute=2), "2>a")
    play.arrives(limited(3, requests_per_minute=2), "3!tenant_limit")
    play.arrives(limited(4, requests_per_minute=2), "4!tenant_limit")
    told = [play.refusals[number] for number in (3, 4)]
    assert [each.retry_after_s for each in told] == [pytest.approx(30.0), pytest.approx(30 + 45.0)]
    assert {(each.tenant_limit, each.tenant_limit_max) for each in told} == {("requests_per_minute", 2)}
    play.arrives(limited(5, tenant="b", requests_per_minute=2), "5>a")
    play.at(29.9).arrives(limited(6, requests_per_minute=2), "6!tenant_limit")
    play.at(30.0).arrives(limited(7, requests_per_minute=2), "7>a")


def test_too_many_tokens_per_minute_are_refused_at_once() -> None:
    """They are drawn as expected, and settled with what was used."""
    most = 2 * TOKENS
    play = Playbook().engine()
    play.arrives(limited(1, tokens_per_minute=most), "1>a").arrives(limited(2, tokens_per_minute=most), "2>a")
    play.arrives(limited(3, tokens_per_minute=most), "3!tenant_limit")
    assert play.refusals[3].retry_after_s == pytest.approx(30.0)
    assert play.refusals[3].tenant_limit == "tokens_per_minute"
    play.leaves(1, outcome=Outcome.REFUSED).arrives(limited(4, tokens_per_minute=most), "4>a")


def test_a_request_larger_than_its_tenants_minute_goes_when_nothing_else_did() -> None:
    """It could never go otherwise; what follows pays for it."""
    play = Playbook().engine().arrives(limited(1, tokens_per_minute=TOKENS // 2), "1>a")
    play.at(60.0).arrives(limited(2, 1, tokens_per_minute=TOKENS // 2), "2!tenant_limit")


def test_what_is_refused_or_leaves_the_line_has_used_nothing() -> None:
    """A full engine is not its tenant's fault."""
    play = Playbook(AdmissionLimits(queue_requests_max=1)).engine().arrives(ticket(9, 100), "9>a")
    play.arrives(limited(1, requests_per_minute=1)).leaves(1, outcome=Outcome.NOT_SENT)
    play.arrives(ticket(8))
    play.arrives(limited(2, requests_per_minute=1), "2!queue_full")
    play.leaves(8).arrives(limited(3, requests_per_minute=1))
    play.at(2.0).arrives(limited(4, requests_per_minute=1), "4!tenant_limit")


def test_a_second_try_is_not_counted_twice() -> None:
    """It gave back what it drew when it could not be sent, and goes however many came meanwhile."""
    play = Playbook().engine().arrives(limited(1, requests_per_minute=1), "1>a")
    play.leaves(1, outcome=Outcome.NOT_SENT).arrives(limited(2, requests_per_minute=1), "2>a")
    play.arrives(replace(limited(3, requests_per_minute=1), retried=True), "3>a")
    play.at(60.0).arrives(limited(4, requests_per_minute=1), "4!tenant_limit")
    assert play.refusals[4].retry_after_s == pytest.approx(60.0)


def test_observe_mode_only_says_it() -> None:
    """What was only let in because of it draws nothing."""
    play = Playbook(AdmissionLimits(observe=True)).engine()
    for number in range(1, 6):
        play.arrives(limited(number, requests_max=2, requests_per_minute=3), f"{number}>a")
    assert [play.admits[number].reason.value for number in range(1, 6)] == ["ok"] * 2 + ["tenant_limit"] * 3
    play.event(LimitsChanged(AdmissionLimits())).at(20.0).ends(1).ends(2).ends(3).ends(4)
    play.arrives(limited(6, requests_max=2, requests_per_minute=3), "6>a")


def test_other_limits_take_effect_with_the_next_request() -> None:
    """Of what was left of the minute the same part is left; none at all is no book at all."""
    play = Playbook().engine().arrives(limited(1, requests_per_minute=2, requests_max=1), "1>a")
    play.arrives(limited(2, requests_per_minute=4, requests_max=3), "2>a")
    play.arrives(limited(3, requests_per_minute=4, requests_max=3), "3>a")
    play.arrives(limited(4, requests_per_minute=4, requests_max=3), "4!tenant_limit")
    play.arrives(limited(5), "5>a").ends(1).ends(5)


def test_a_dry_run_takes_nothing() -> None:
    """It says what would happen, as often as it is asked."""
    play = Playbook().engine().arrives(limited(1, requests_max=1, requests_per_minute=2), "1>a")
    for _ in range(3):
        verdict = play.admission.consider(limited(2, requests_max=1, requests_per_minute=2), play.now)
        assert (verdict.decision, verdict.reason.value) == ("queue", "tenant_limit")
    play.arrives(limited(2, requests_max=1, requests_per_minute=2))
    verdict = play.admission.consider(limited(3, requests_max=1, requests_per_minute=2), play.now)
    assert (verdict.decision, verdict.reason.value) == ("refuse", "tenant_limit")
    assert verdict.retry_after_s == pytest.approx(30.0)
    play.ends(1, "2>a")


def test_a_tenant_at_its_limit_cannot_fill_the_line() -> None:
    """The others find it open."""
    play = Playbook(AdmissionLimits(queue_requests_max=4)).engine()
    for number in range(20):
        play.admission.handle(Arrived(limited(number, requests_max=2)), play.now)
    assert play.depth == 2
    play.arrives(ticket(50, tenant="b"), "50>a")


@given(st.lists(st.tuples(st.sampled_from("asrex"), st.integers(0, 5), st.floats(0, 5)), max_size=60))
def test_the_books_balance_whatever_happens(steps: list[tuple[str, int, float]]) -> None:
    """Arrivals, starts, returns and ends in any order that admission could bring about."""
    tenants, now = Tenants(), 0.0
    waiting: set[int] = set()
    sent: set[int] = set()
    for kind, number, passed in steps:
        now += passed
        one = limited(number, tenant="ab"[number % 2], requests_max=2, requests_per_minute=6, tokens_per_minute=900)
        if kind == "a" and number not in waiting | sent:
            tenants.arrived(one, now)
            waiting.add(number)
        elif kind == "s" and number in waiting:
            tenants.started(one, now)
            waiting.remove(number)
            sent.add(number)
        elif kind == "r" and number in sent:
            tenants.returned(number)
            sent.remove(number)
            waiting.add(number)
        elif kind in "ex":
            usage = Usage(100, 60) if kind == "e" else None
            tenants.ended(number, Outcome.FINISHED if usage else Outcome.CANCELLED, usage, now)
            waiting.discard(number)
            sent.discard(number)
        tenants.check(waiting, sent)
        assert all(0 <= book.running <= 6 and book.requests.level_share(now) <= 1 for book in tenants.books.values())


def test_who_has_no_limits_has_no_book() -> None:
    """Nor does whoever is not known hold anything up."""
    tenants = Tenants()
    assert tenants.arrived(ticket(1), 0.0)
    assert not tenants.is_full(limited(2, requests_max=1))
    assert tenants.limit_reached(ticket(1), 0.0) is None
    tenants.ended(1, Outcome.FINISHED, None, 1.0)
    assert tenants.books == {}
