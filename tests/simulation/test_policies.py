"""Policies by name, and how they differ."""

from dataclasses import replace

import pytest

from gateway.simulation.policies import policy_named, run
from tests.simulation.small_world import a_setup, requests

CROWD = requests(*[(0.1 * number, 8, 8) for number in range(30)])


@pytest.mark.parametrize("name", ["concurrency", "concurrency:0", "concurrency:x", "none:1", "abacus", "", "kvgate:2"])
def test_unknown_names_are_refused_in_one_sentence(name: str) -> None:
    """The message lists those that there are."""
    with pytest.raises(ValueError, match=r"is none of kvgate, none, concurrency:N, max-tokens, kv-threshold, oracle"):
        policy_named(name)


def test_without_a_gateway_nobody_is_turned_away_and_work_is_lost() -> None:
    """The engine takes all at once, and throws out whom it cannot hold."""
    record = run(policy_named("none"), a_setup(), CROWD)
    assert (record.settled, record.refused_s.count(None)) == (30, 30)
    assert record.preemptions > 0


@pytest.mark.parametrize("name", ["oracle", "max-tokens"])
def test_whoever_reserves_all_that_is_needed_loses_nothing(name: str) -> None:
    """By the true length, or by the longest that is allowed."""
    record = run(policy_named(name), a_setup(), CROWD)
    assert record.preemptions == 0
    assert record.settled == 30
    assert record.refused_s.count(None) < 30


def test_several_gateways_share_the_requests() -> None:
    """Each decides on its own part."""
    setup = a_setup(blocks=40)
    one = run(policy_named("kvgate"), setup, CROWD)
    three = run(policy_named("kvgate"), replace(setup, gateways=3), CROWD)
    assert one.settled == three.settled == 30
    assert one != three
