"""The circuit breaker: what opens it, what does not, and how it comes back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from gateway.routing.breaker import (
    ALONE_MIN,
    CALM_S,
    FAILED_MIN,
    NEVER,
    OPEN_MAX_S,
    OPEN_MIN_S,
    PROBE_MAX_S,
    WINDOW_S,
    Breaker,
    BreakerState,
)

CLOSED, OPEN, HALF_OPEN = BreakerState


def fail(breaker: Breaker, *requests: str, now: float = 0.0, needed: float = FAILED_MIN) -> bool:
    """These requests fail one after the other; whether the last one opened it."""
    return [breaker.failed(-1, request, now, needed=needed) for request in requests][-1]


def half_open(now: float = 0.0) -> Breaker:
    """One that opened at this time, and whose pause is over."""
    breaker = Breaker()
    assert fail(breaker, "a", "b", "c", now=now)
    breaker.tick(now + OPEN_MIN_S)
    assert breaker.state is HALF_OPEN
    return breaker


def test_distinct_requests_that_fail_in_a_row_open_it() -> None:
    """Three, and not before; then nothing is sent until its time has come."""
    breaker = Breaker()
    assert not fail(breaker, "a", "b", now=5.0)
    assert not breaker.is_out
    assert fail(breaker, "c", now=5.0)
    assert (breaker.state, breaker.pause_until()) == (OPEN, 5.0 + OPEN_MIN_S)
    breaker.tick(5.0 + OPEN_MIN_S - 0.01)
    assert breaker.state is OPEN


def test_one_request_counts_once_however_often_it_fails() -> None:
    """Peers count attempts: two poisonous requests with their retries took a backend from everybody."""
    breaker = Breaker()
    assert not fail(breaker, *["poison"] * 1000, "another", "poison")


def test_a_success_in_between_takes_back_what_was_counted() -> None:
    """Also one that was sent before the failures: it shows that the engine works."""
    breaker = Breaker()
    for _ in range(10):
        assert not fail(breaker, "a", "b")
        breaker.succeeded(7, 0.0)
    assert not breaker.is_watching


def test_old_failures_count_no_more() -> None:
    """Three in an hour are none."""
    breaker = Breaker()
    fail(breaker, "a", "b", now=0.0)
    assert not fail(breaker, "c", now=WINDOW_S + 1)
    assert not fail(breaker, "d", now=WINDOW_S + 1)
    assert fail(breaker, "e", now=WINDOW_S + 1)


def test_what_must_not_open_does_not() -> None:
    """However much fails; and what is kept of it is bounded."""
    breaker = Breaker()
    assert not fail(breaker, *map(str, range(1000)), needed=NEVER)
    assert len(breaker._failed) == ALONE_MIN


def test_alone_it_takes_more() -> None:
    breaker = Breaker()
    assert not fail(breaker, *map(str, range(ALONE_MIN - 1)), needed=ALONE_MIN)
    assert fail(breaker, "one more", needed=ALONE_MIN)


def test_half_open_lets_one_request_through_at_a_time() -> None:
    """The next only after it has ended without telling anything, or if it takes very long."""
    breaker = half_open()
    assert breaker.pause_until() == -math.inf
    breaker.sent(1, 2.0)
    assert breaker.pause_until() == 2.0 + PROBE_MAX_S
    breaker.ended(1)
    assert breaker.pause_until() == -math.inf
    breaker.sent(2, 3.0)
    breaker.sent(3, 3.0 + PROBE_MAX_S)
    assert breaker.pause_until() == 3.0 + 2 * PROBE_MAX_S


def test_a_probe_that_succeeds_closes_it() -> None:
    """A stream that began before it opened does not: new requests may fail all the same."""
    breaker = half_open()
    breaker.sent(9, 2.0)
    breaker.succeeded(8, 2.5)
    assert breaker.state is HALF_OPEN
    breaker.succeeded(9, 2.5)
    assert breaker.state is CLOSED
    assert breaker.pause_until() == -math.inf
    assert not fail(breaker, "a", "b", now=3.0)


def test_a_probe_that_fails_opens_it_for_twice_as_long() -> None:
    """Up to a bound; requests from before it opened tell nothing new."""
    breaker, now = half_open(), OPEN_MIN_S
    pauses = []
    for ticket_id in range(10):
        assert not breaker.failed(-1, "old", now)
        breaker.sent(ticket_id, now)
        assert breaker.failed(ticket_id, "new", now)
        assert not breaker.failed(ticket_id, "new", now)
        pauses.append(breaker.opened_until - now)
        now = breaker.opened_until
        breaker.tick(now)
    assert pauses == [min(OPEN_MIN_S * 2**k, OPEN_MAX_S) for k in range(1, 11)]


def test_a_probe_that_fails_where_it_must_not_open_only_frees_the_place() -> None:
    breaker = half_open()
    breaker.sent(1, 2.0)
    assert not breaker.failed(1, "x", 2.0, needed=NEVER)
    assert (breaker.state, breaker.pause_until()) == (HALF_OPEN, -math.inf)


@pytest.mark.parametrize(("calm_s", "pause_s"), [(1.0, 2 * OPEN_MIN_S), (CALM_S + 1, OPEN_MIN_S)])
def test_who_flaps_stays_away_longer(calm_s: float, pause_s: float) -> None:
    """Opened again soon after it closed; not after a calm time."""
    breaker = half_open()
    breaker.sent(1, 2.0)
    breaker.succeeded(1, 2.0)
    assert fail(breaker, "a", "b", "c", now=2.0 + calm_s)
    assert breaker.opened_until == 2.0 + calm_s + pause_s


def test_another_process_is_tried_at_once() -> None:
    """What the old one failed says nothing of it; but it has to show that it works."""
    breaker = Breaker()
    fail(breaker, "a", "b")
    breaker.restarted()
    assert not fail(breaker, "c")
    fail(breaker, "d", "e")
    assert breaker.state is OPEN
    breaker.restarted()
    assert breaker.state is HALF_OPEN


STEPS = st.one_of(
    st.tuples(st.just("failed"), st.integers(0, 8), st.sampled_from("abcdef")),
    st.tuples(st.just("succeeded"), st.integers(0, 8), st.just("")),
    st.tuples(st.just("ended"), st.integers(0, 8), st.just("")),
    st.tuples(st.just("sent"), st.integers(0, 8), st.just("")),
    st.tuples(st.just("tick"), st.just(0), st.just("")),
)


@given(st.lists(st.tuples(STEPS, st.sampled_from([0.0, 0.1, 1.0, 7.0, 40.0])), max_size=80))
def test_under_any_events(steps: list[tuple[tuple[str, int, str], float]]) -> None:
    """It opens only by three distinct failures since the last success, or by a probe's; no pause is longer than the
    bound; time alone always brings it back to half open, and one success of a probe then closes it."""
    breaker, now = Breaker(), 0.0
    since_success, probes = set[str](), set[int]()
    for (act, ticket_id, request), pause_s in steps:
        now += pause_s
        before = breaker.state
        match act:
            case "failed":
                since_success.add(request)
                opened = breaker.failed(ticket_id, request, now)
                assert opened == (breaker.state is OPEN and (before is not OPEN))
                if opened:
                    assert before is HALF_OPEN or len(since_success) >= FAILED_MIN
                    assert before is CLOSED or ticket_id in probes
                    assert OPEN_MIN_S <= round(breaker.opened_until - now, 6) <= OPEN_MAX_S
                probes.discard(ticket_id)
            case "succeeded":
                breaker.succeeded(ticket_id, now)
                if before is CLOSED:
                    since_success.clear()
                assert (breaker.state is CLOSED) == (before is CLOSED or (before is HALF_OPEN and ticket_id in probes))
            case "ended":
                breaker.ended(ticket_id)
                probes.discard(ticket_id)
            case "sent":
                breaker.sent(ticket_id, now)
                if before is HALF_OPEN:
                    probes.add(ticket_id)
            case _:
                breaker.tick(now)
        if breaker.state is not before:
            probes.clear()
            since_success.clear()
    breaker.tick(now + OPEN_MAX_S)
    assert breaker.state is not OPEN
    breaker.sent(99, now)
    breaker.succeeded(99, now)
    assert breaker.state is CLOSED
