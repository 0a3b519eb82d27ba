"""Replays put together from a trace and wishes."""

import pytest

from gateway.domain import Priority
from gateway.simulation.profiles import PROFILES
from gateway.simulation.replay import Wishes, engine_config, prepare
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Row, Trace, TraceError

L4 = PROFILES["8b-l4"]


def a_trace(count: int = 40, prompt_tokens: int = 500) -> Trace:
    """One request per second."""
    rows = [Row(100.0 + at, prompt_tokens, 20 + at % 9, None, "", Priority.INTERACTIVE) for at in range(count)]
    return Trace(tuple(rows), tells_max_tokens=True)


def test_without_a_load_requests_come_as_they_came() -> None:
    """Their load is said, however many replicas there are."""
    one = prepare(a_trace(), Wishes(L4))
    assert [request.arrives_s for request in one.requests] == [float(at) for at in range(40)]
    assert one.load == pytest.approx(1 / one.capacity_requests_per_s)
    two = prepare(a_trace(), Wishes(L4, replicas=2))
    assert two.requests == one.requests
    assert two.load == pytest.approx(one.load / 2)
    assert two.setup.replicas == 2


def test_a_load_is_a_part_of_the_capacity() -> None:
    """Three replicas at 0.5: three times the requests, at 1.5 times what one can do."""
    replay = prepare(a_trace(), Wishes(L4, replicas=3, load=0.5))
    assert len(replay.requests) == 120
    last_s = replay.requests[-1].arrives_s
    assert 119 / last_s == pytest.approx(1.5 * replay.capacity_requests_per_s, rel=0.03)
    assert replay.load == 0.5


def test_wishes_change_the_engines_and_the_bounds() -> None:
    """A larger pool, a shorter answer, another SLO, fewer requests."""
    wishes = Wishes(L4, requests_max=7, kv_tokens=65_600, max_tokens_cap=10, slo=Slo(1.0, 0.5))
    replay = prepare(a_trace(), wishes)
    assert replay.setup.config.kv_tokens == 65_600 == engine_config(L4, 65_607).kv_tokens
    assert replay.setup.slo == Slo(1.0, 0.5)
    assert [request.output_tokens for request in replay.requests] == [10] * 7
    assert prepare(a_trace(), Wishes(L4)).setup.slo == L4.slo


def test_says_how_many_would_never_fit() -> None:
    """Left out if they are some, an error if they are all."""
    rows = (*a_trace(5).rows, *a_trace(3, prompt_tokens=40_000).rows)
    assert prepare(Trace(rows, tells_max_tokens=True), Wishes(L4)).left_out == 3
    with pytest.raises(TraceError, match=r"No request fits an engine that takes 32,800 tokens\."):
        prepare(a_trace(3, prompt_tokens=40_000), Wishes(L4))
