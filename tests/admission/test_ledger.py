"""Leases and totals of one pool."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from estimator.output_length import OutputLengths
from gateway.admission.ledger import RELEASES_KEPT_S, LeaseState, Pool
from gateway.domain import Outcome
from tests.admission.words import BLOCK, capacity, ticket


def test_a_lease_holds_what_it_may_grow_to() -> None:
    """For each of its sequences."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1, 10, output=32, n=2, tenant="t"), 32, 0.0)
    assert (pool.final_blocks, pool.sequences, pool.tenant_blocks) == (20, 2, {"t": 20})
    assert pool.resident_blocks(0.0, 1.0) == 16
    assert pool.end(lease, Outcome.FINISHED, 1.0, generated=32)
    assert (pool.final_blocks, pool.sequences, pool.tenant_blocks, pool.is_empty) == (0, 0, {}, True)


def test_progress_counts_over_all_sequences() -> None:
    """An older report changes nothing."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1, 10, output=64, n=2), 64, 0.0)
    pool.progress(lease, 66, 0.01)
    pool.progress(lease, 20, 0.01)
    assert lease.generated(9.0, 1.0) == 33
    assert pool.resident_blocks(9.0, 1.0) == 2 * (6 + 3)


def test_without_a_stream_progress_is_inferred_from_time() -> None:
    """As far as the bound."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1, 10, output=64, streamed=False), 50, 0.0)
    assert [lease.generated(now, 10.0) for now in (0.0, 2.0, 99.0)] == [0, 20, 50]


def test_outgrowing_the_bound_reserves_more_up_to_the_hard_end() -> None:
    """U15."""
    pool = Pool(capacity(1000), "1")
    lease = pool.lend(ticket(1, 100, output=1600, forecast=OutputLengths().forecast()), 100, 0.0)
    before = lease.final_blocks
    pool.progress(lease, 99, 0.5)
    assert lease.final_blocks == before
    pool.progress(lease, 100, 0.5)
    assert before < lease.final_blocks < 100
    pool.progress(lease, 1600, 0.5)
    assert lease.final_blocks == 100
    pool.progress(lease, 1700, 0.5)
    assert lease.bound_tokens == 1700
    pool.check()


@pytest.mark.parametrize("outcome", Outcome)
def test_an_end_happens_once(outcome: Outcome) -> None:
    """Its memory is free or drains, by what the outcome proves."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1, 10), BLOCK, 0.0)
    assert pool.end(lease, outcome, 1.0, generated=0)
    assert not pool.end(lease, Outcome.FINISHED, 2.0, generated=0)
    drains = outcome in (Outcome.CANCELLED, Outcome.BROKEN)
    assert lease.state is (LeaseState.DRAINING if drains else LeaseState.RELEASED)
    assert pool.draining_blocks == pool.final_blocks == (10 if drains else 0)
    pool.progress(lease, 99, 0.01)
    assert lease.output_tokens == 0
    pool.free(list(pool.draining))
    assert pool.is_empty
    pool.check()


def test_a_release_is_remembered_for_a_while() -> None:
    """With what it held then, not with what it might have come to."""
    pool = Pool(capacity(), "1")
    for number, now in ((1, 1.0), (2, 2.0), (3, 2.5 + RELEASES_KEPT_S)):
        lease = pool.lend(ticket(number, 10, output=64), 64, now - 0.5)
        pool.end(lease, Outcome.FINISHED, now, generated=20)
    assert [(release.at, release.blocks) for release in pool.released] == [(2.5 + RELEASES_KEPT_S, 8)]
    unsent = pool.lend(ticket(4), BLOCK, 20.0)
    pool.end(unsent, Outcome.NOT_SENT, 20.0, generated=0)
    assert len(pool.released) == 1


def test_a_number_is_lent_to_once() -> None:
    """But may come back while its former lease drains."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1), BLOCK, 0.0)
    with pytest.raises(AssertionError, match="sent twice"):
        pool.lend(ticket(1), BLOCK, 0.0)
    pool.end(lease, Outcome.BROKEN, 0.0, generated=0)
    pool.lend(ticket(1), BLOCK, 0.0)
    pool.check()
    assert pool.final_blocks == 20


def test_only_what_drains_is_freed_by_the_engine() -> None:
    """Anything else is a mistake of ours."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1), BLOCK, 0.0)
    with pytest.raises(AssertionError):
        pool.free([lease])


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9), st.sampled_from(["lend", "grow", "end", "free", "resize"]), st.sampled_from(Outcome)
        )
    )
)
def test_totals_equal_the_sum_of_the_leases(steps: list[tuple[int, str, Outcome]]) -> None:
    """Promise 3, whatever happens in whatever order."""
    pool = Pool(capacity(), "1")
    for now, (number, step, outcome) in enumerate(steps):
        lease = pool.leases.get(number)
        if step == "lend" and lease is None:
            pool.lend(ticket(number, 1 + number, tenant=str(number % 3)), 5, now)
        elif step == "grow" and lease is not None:
            pool.progress(lease, lease.output_tokens + 7, 0.01)
        elif step == "end" and lease is not None:
            pool.end(lease, outcome, now, generated=lease.output_tokens)
        elif step == "free":
            pool.free(pool.draining[:2])
        elif step == "resize":
            pool.resize(capacity(100 + number))
        pool.check()


def test_tokens_held_are_inferred_where_nothing_is_reported() -> None:
    """As of the last time that it was done; nothing of it stays behind."""
    pool = Pool(capacity(), "1")
    pool.lend(ticket(1, 10, output=64), 64, 0.0)
    silent = pool.lend(ticket(2, 10, output=64, n=2, streamed=False), 50, 0.0)
    assert pool.kv_tokens == 3 * 96
    for now, generated in ((1.0, 10), (99.0, 50)):
        pool.infer(now, 10.0)
        assert pool.kv_tokens == 3 * 96 + 2 * generated
        pool.check()
    pool.end(silent, Outcome.FINISHED, 99.0, generated=60)
    assert pool.kv_tokens == 96


def test_tokens_held_are_those_reported() -> None:
    """Prompts once per sequence, and what was generated; gone with the end, be the memory free or not."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1, 10, output=64, n=2), 64, 0.0)
    assert pool.kv_tokens == lease.shown_tokens == 2 * 96
    pool.progress(lease, 50, 0.01)
    assert pool.kv_tokens == 2 * 96 + 50
    pool.end(lease, Outcome.BROKEN, 1.0, generated=25)
    assert pool.kv_tokens == 0
    pool.check()


def test_promised_times_per_token_are_counted() -> None:
    """The strictest is forgotten with the last request that was promised it."""
    pool = Pool(capacity(), "1")
    leases = [
        pool.lend(replace(ticket(number, 5), token_interval_max_s=seconds), BLOCK, 0.0)
        for number, seconds in enumerate((0.1, 0.1, math.inf))
    ]
    assert pool.intervals_s == {0.1: 2, math.inf: 1}
    for lease in leases[:2]:
        pool.end(lease, Outcome.FINISHED, 1.0, generated=0)
    assert pool.intervals_s == {math.inf: 1}


def test_a_share_is_charged_with_what_is_expected_and_then_with_what_came() -> None:
    """Not with the bound; nor, what is a trick, with the little that was expected at first."""
    lengths = OutputLengths()
    for k in range(400):
        lengths.learn(20 + k // 10, ended=True)
    pool = Pool(capacity(1000), "1")
    lease = pool.lend(ticket(1, 130, output=2000, tenant="t", forecast=lengths.forecast()), 200, 0.0)
    first = lease.expected_blocks
    assert pool.tenant_blocks == {"t": first}
    assert first < lease.final_blocks < lease.most_blocks
    pool.progress(lease, 30, 0.01)
    assert lease.expected_blocks == first
    pool.progress(lease, 1600, 0.01)
    assert pool.tenant_blocks == {"t": lease.expected_blocks}
    assert lease.blocks_at(1600) <= lease.expected_blocks <= lease.most_blocks
    pool.check()


def test_what_is_learned_of_a_model_is_expected_of_those_who_run() -> None:
    """But not of one that was told to run to its end."""
    pool = Pool(capacity(1000), "1")
    own, learned = OutputLengths().forecast(), OutputLengths()
    learned.learn(5, ended=True)
    free = pool.lend(ticket(1, forecast=own), BLOCK, 0.0)
    bound = pool.lend(replace(ticket(2, forecast=own), runs_to_max=True), BLOCK, 0.0)
    assert (free.output, bound.output) == (own, own)
    pool.outputs["m"] = learned.forecast()
    assert (free.output, bound.output) == (learned.forecast(), own)


def test_time_is_charged_once() -> None:
    """From the start or the last charge on."""
    pool = Pool(capacity(), "1")
    lease = pool.lend(ticket(1, 10, output=64, n=2), 64, 5.0)
    assert lease.charge(0, 7.0) == 2 * 2 * 96
    assert lease.charge(10, 7.0) == 0
    assert lease.charge(10, 8.0) == 2 * 106
