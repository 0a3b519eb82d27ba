"""Traffic in virtual time: exact times in small cases, and what holds in all."""

from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from gateway.simulation.policies import Setup, policy_named, run
from gateway.simulation.record import Record
from gateway.simulation.workload import Request
from tests.simulation.small_world import a_setup, requests

POLICIES = ["none", "concurrency:2", "max-tokens", "kv-threshold", "kvgate", "oracle"]


def replayed(policy: str, setup: Setup, coming: list[Request]) -> Record:
    """Run them under a policy."""
    return run(policy_named(policy), setup, coming)


def test_tokens_come_when_steps_end() -> None:
    """Whoever comes during a step is in the next; the engine rests between requests."""
    record = replayed("none", a_setup(), requests((0.5, 4, 3), (0.7, 4, 1), (9.0, 4, 2)))
    assert record.first_token_s == [1.5, 2.5, 10.0]
    assert record.ended_s == [3.5, 2.5, 11.0]


def test_a_place_that_a_step_frees_is_filled_in_the_next() -> None:
    """One at a time: the second starts when the first ends."""
    record = replayed("concurrency:1", a_setup(), requests((0.0, 4, 2), (0.1, 4, 1)))
    assert record.first_token_s == [1.0, 3.0]


def test_replicas_step_on_their_own() -> None:
    """Two engines, half a second apart."""
    record = replayed("none", a_setup(replicas=2), requests((0.0, 4, 2), (0.5, 4, 2)))
    assert record.ended_s == [2.0, 2.5]


def test_counts_memory_computed_tokens_and_preemptions() -> None:
    """Two of 13 + 9 tokens do not fit 10 blocks together: the second is thrown out and computed again."""
    record = replayed("none", a_setup(), requests((0.0, 13, 9), (0.0, 13, 9), (30.0, 4, 1)))
    assert record.preemptions == 1
    assert record.computed_tokens > 2 * 21 + 4
    assert record.kv_block_seconds > 0
    # The last one comes at the end of the time that is looked at, and its memory no longer counts.
    assert [sample.at_s for sample in record.samples][::300] == [0.0, 30.0]
    assert max(sample.kv_used for sample in record.samples) <= 1


def test_everybody_waiting_is_sampled() -> None:
    """Two of four wait in the engine that takes two, or in the gateway that lets two in."""
    coming = requests(*[(0.0, 4, 9)] * 4, (6.0, 4, 1))
    for policy, setup in (("none", a_setup(sequences_max=2)), ("concurrency:2", a_setup())):
        record = replayed(policy, setup, coming)
        assert next(sample for sample in record.samples if sample.at_s > 1.5).queued == 2


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_requests_give_the_same_record(policy: str) -> None:
    """No clock and no chance decides anything."""
    coming = requests(*[(number * 0.3, 5 + number % 7, 1 + number % 5) for number in range(40)])
    assert replayed(policy, a_setup(), coming) == replayed(policy, a_setup(), coming)


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_everybody_is_answered_or_refused_once(data: st.DataObject) -> None:
    """Whatever comes, before however many engines and gateways: times are in order and nothing is lost."""
    shape = st.tuples(st.integers(0, 16), st.integers(1, 20), st.integers(1, 20), st.none() | st.just(20))
    coming = sorted(
        (
            Request(at / 8, prompt, output, most)
            for at, prompt, output, most in data.draw(st.lists(shape, min_size=1, max_size=8))
        ),
        key=lambda request: request.arrives_s,
    )
    setup = replace(a_setup(), replicas=data.draw(st.integers(1, 2)), gateways=data.draw(st.integers(1, 2)))
    record = replayed(data.draw(st.sampled_from(POLICIES)), setup, coming)
    assert record.settled == record.decisions == len(coming)
    for number, request in enumerate(coming):
        first_s, ended_s, refused_s = (
            record.first_token_s[number],
            record.ended_s[number],
            record.refused_s[number],
        )
        assert (ended_s is None) == (first_s is None) == (refused_s is not None)
        if first_s is not None and ended_s is not None:
            assert request.arrives_s + 1 <= first_s + 1e-9
            assert ended_s - first_s >= request.output_tokens - 1 - 1e-6
        elif refused_s is not None:
            assert refused_s >= request.arrives_s
