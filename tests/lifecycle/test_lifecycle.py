"""The life of every request under seeded faults: a few of the seeds of `make lifecycle`, and that a seed is a seed."""

from dataclasses import replace

import pytest

from tests.lifecycle.plan import ENGINES, FATES, LEAVES, Plan, Script, drawn
from tests.lifecycle.shrink import shrunk
from tests.lifecycle.world import play

SEEDS = 16


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_lost_or_told_twice(seed: int) -> None:
    assert play(drawn(seed)).problem == ""


@pytest.mark.parametrize("fate", [fate for fate in FATES if fate])
def test_each_fate_with_each_kind_of_leaving(fate: str) -> None:
    """The same fault for streams and answers, alone and while others wait, with clients that leave at every point."""
    scripts = [
        Script(number, at_s=number * 0.3, stream=number % 3 > 0, output_tokens=12, leaves=leaves, haunts_s=number % 2)
        for number, leaves in enumerate((*LEAVES, *LEAVES))
    ]
    struck = [replace(script, fate=known) for script in scripts for known in FATES if known == fate]
    assert play(Plan(0, tuple(struck), (), blocks=(40, 60))).problem == ""


def test_the_same_seed_is_the_same_run() -> None:
    first, second = play(drawn(3)), play(drawn(3))
    assert first.events == second.events > 500
    assert first.answers == second.answers
    assert len(first.answers) > 1


def test_a_failing_plan_is_made_small() -> None:
    """The smallest plan that still has what made it fail."""
    plan = drawn(5)
    smaller = shrunk(plan, lambda tried: any(script.number == 13 for script in tried.scripts))
    assert [script.number for script in smaller.scripts] == [13]
    assert not smaller.happenings


def test_seeds_differ_and_harsh_ones_are_full_of_faults() -> None:
    assert drawn(1) != drawn(2)
    assert sum(bool(script.fate) for script in drawn(1, harsh=True).scripts) > 10
    assert {happening.backend for happening in drawn(8).happenings} <= {"", *ENGINES}
