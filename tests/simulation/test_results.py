"""What a run was worth."""

import math

import pytest

from gateway.simulation.policies import policy_named, run
from gateway.simulation.results import measure, percentile, served_well, waits_s
from tests.simulation.small_world import SLO, a_setup, requests


def test_sums_a_run_up() -> None:
    """One at a time: the first is good, the second gets its token after 3.9 s and is late."""
    coming = requests((0.0, 4, 3), (0.1, 4, 1), (4.0, 4, 2), (4.5, 4, 1))
    setup = a_setup()
    record = run(policy_named("concurrency:1"), setup, coming)
    waits = [wait for wait in waits_s(record, coming) if wait is not None]
    assert [ttft_s for ttft_s, _ in waits] == pytest.approx([1.0, 3.9, 1.0, 2.5])
    assert [tpot_s for _, tpot_s in waits] == [1.0, 0.0, 1.0, 0.0]
    assert served_well(record, coming, SLO) == [True, False, True, True]
    result = measure("concurrency:1", record, coming, setup)
    assert result.policy == "concurrency:1"
    assert result.goodput == pytest.approx(3 / 4.5)
    assert result.attainment == 0.75
    assert (result.refused, result.preemptions_per_request, result.decisions) == (0, 0, 4)
    assert result.ttft_p99_s == pytest.approx(3.9)
    assert result.tpot_p99_s == 1.0
    # Of ten blocks, over 4.5 s: 1, 2 and 2 for a second each, 1 for a second, and 1 for the half that still counts.
    assert result.kv_utilisation == pytest.approx((1 + 2 + 2 + 1 + 0.5) / 10 / 4.5)
    assert result.wasted == 0


def test_counts_what_was_computed_twice() -> None:
    """Two of 13 + 9 tokens do not fit together: everything that the thrown-out one had is done again."""
    coming = requests((0.0, 13, 9), (0.0, 13, 9))
    setup = a_setup()
    record = run(policy_named("none"), setup, coming)
    result = measure("none", record, coming, setup)
    assert result.preemptions_per_request == 0.5
    assert result.wasted == pytest.approx((record.computed_tokens - 42) / record.computed_tokens)
    assert result.wasted > 0.2


def test_nobody_served_is_no_number() -> None:
    """Everybody gave up: waits are unknown, not zero."""
    coming = requests((0.0, 4, 30), *[(0.1, 4, 1)] * 3)
    setup = a_setup()
    record = run(policy_named("concurrency:1"), setup, coming)
    record.first_token_s[0] = None
    result = measure("concurrency:1", record, coming, setup)
    assert result.refused == 3
    assert math.isnan(result.ttft_p99_s)
    assert math.isnan(result.preemptions_per_request)


@pytest.mark.parametrize(("part", "value"), [(0.99, 99), (0.5, 50), (1.0, 100), (0.001, 1)])
def test_percentiles_are_values_that_occurred(part: float, value: int) -> None:
    """The smallest that so many do not exceed."""
    assert percentile(range(100, 0, -1), part) == value
