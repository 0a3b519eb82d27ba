"""What the operator orders while requests run: backends out of service and back, gone, another; other limits."""

from dataclasses import replace

from gateway.admission.events import (
    BackendAdded,
    BackendChanged,
    BackendDraining,
    BackendRemoved,
    BackendResumed,
    LimitsChanged,
)
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendState
from gateway.domain import BackendLimits, BackendSpec
from tests.admission.words import BLOCK, Playbook, reading, ticket

LIMITS = AdmissionLimits()


def test_a_draining_backend_gets_nothing_more() -> None:
    """Who runs there may end; who comes goes elsewhere; resumed, it takes requests again."""
    play = Playbook().engine("a").engine("b", blocks=50)
    play.arrives(ticket(1, 20), "1>a")
    play.event(BackendDraining("a"))
    assert play.backend("a").state is BackendState.DRAINING
    assert (play.backend("a").requests, play.backend("a").headroom_tokens) == (1, 0)
    play.arrives(ticket(2, 20), "2>b").ends(1)
    play.event(BackendResumed("a")).arrives(ticket(3, 20), "3>a")
    assert play.backend("a").state is BackendState.READY


def test_who_waits_for_a_backend_that_drains_is_told() -> None:
    """At once, and whether another could take it."""
    play = Playbook().engine("a").engine("b", blocks=20)
    play.arrives(ticket(1, 90), "1>a").arrives(ticket(2, 80)).arrives(ticket(3, 15), "3>b").arrives(ticket(4, 15))
    play.event(BackendDraining("a"), "2!too_large")
    play.event(BackendDraining("b"), "4!no_backend").arrives(ticket(5), "5!no_backend")
    assert play.depth == 0


def test_a_drained_backend_that_dies_is_down() -> None:
    """And drains on once it is back."""
    play = Playbook().engine("a").event(BackendDraining("a")).misses("a", times=3)
    assert play.backend("a").state is BackendState.DOWN
    play.reads(reading(0.0)).reads(reading(0.0))
    assert play.backend("a").state is BackendState.DRAINING


def test_a_backend_that_is_removed_leaves_nothing_but_what_was_used() -> None:
    """Ends of its requests are no double releases; what tenants have used there still counts."""
    play = (
        Playbook().engine("a").engine("b").arrives(ticket(1, tenant="t"), "1>a").arrives(ticket(2, tenant="t"), "2>b")
    )
    play.at(10.0).reads(reading(10.0, backend="a")).reads(reading(10.0, backend="b"))
    (before,) = play.admission.snapshot().tenants
    play.event(BackendRemoved("a"))
    (after,) = play.admission.snapshot().tenants
    assert after.kv_token_seconds == before.kv_token_seconds > 0
    assert 0 < after.reserved_tokens < before.reserved_tokens
    play.progresses(1, 8).ends(1).reads(reading(10.0, backend="a"))
    play.event(BackendDraining("a")).event(BackendResumed("a"))
    assert [backend.name for backend in play.admission.snapshot().backends] == ["b"]
    assert play.admission.snapshot().double_releases == 0


def test_another_engine_may_take_a_name() -> None:
    """Who waits stays, and goes to it when it is heard of; who runs ends on the books of the one before."""
    play = Playbook().engine("a").arrives(ticket(1, 90), "1>a").arrives(ticket(2, 90))
    play.event(BackendAdded(BackendSpec("a")))
    assert (play.depth, play.backend("a").state) == (1, BackendState.COLD)
    play.reads(reading(0.0, generation="other"), "2>a").progresses(1, 8).ends(1)
    assert play.backend("a").requests == 1
    assert play.admission.snapshot().double_releases == 0


def test_what_a_provider_allows_may_change() -> None:
    """Of what is left of its minute, the same part is left; who waited for it goes."""
    play = Playbook().provider("c", rpm=2)
    play.arrives(ticket(1), "1>c").arrives(ticket(2), "2>c").arrives(ticket(3))
    play.event(BackendChanged(BackendSpec("c", hosted=True, limits=BackendLimits(0, 0))), "3>c")
    play.event(BackendChanged(BackendSpec("nobody")))


def test_a_shorter_queue_turns_nobody_out() -> None:
    """But nobody more comes in until it is short enough."""
    play = Playbook().engine("a").arrives(ticket(1, 100), "1>a")
    for number in (2, 3, 4):
        play.arrives(ticket(number, 100))
    play.event(LimitsChanged(replace(LIMITS, queue_requests_max=2)))
    assert play.depth == 3
    play.arrives(ticket(5, 100), "5!queue_full")
    play.ends(1, "2>a").arrives(ticket(6, 100), "6!queue_full").ends(2, "3>a").arrives(ticket(7, 100))
    assert play.admission.snapshot().queue_requests_max == 2


def test_in_observe_mode_nobody_waits_any_more() -> None:
    """Whoever waits when it is switched on goes, with the reason it waited for; switched off, the rules hold again."""
    play = Playbook().engine("a").arrives(ticket(1, 100), "1>a").arrives(ticket(2, 50))
    play.event(LimitsChanged(replace(LIMITS, observe=True)), "2>a").arrives(ticket(3, 50), "3>a")
    play.event(LimitsChanged(LIMITS)).arrives(ticket(4, 50))
    assert play.depth == 1


def test_other_limits_hold_for_who_comes() -> None:
    """A request that could never fit is cut once that is wanted; books that were open stay open."""
    longest = ticket(2, 501, output=500 * BLOCK)
    play = Playbook().engine("a").arrives(ticket(1, 30), "1>a").arrives(longest, "2!too_large")
    play.event(LimitsChanged(replace(LIMITS, clamp=True, risk=0.2))).ends(1)
    play.arrives(replace(longest, id=3), "3>a")
    assert play.admits[3].max_tokens == 99 * BLOCK
