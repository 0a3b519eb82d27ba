"""The outlook of a pool against brute force."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st

from estimator.demand import Demand
from estimator.kv_cache import KvGroup, KvLayout
from estimator.output_length import OutputForecast, OutputLengths
from gateway.admission import forecast
from gateway.admission.curves import GRID, HARD_ENDS, blocks_of, generated_unseen
from gateway.admission.forecast import Outlook
from gateway.admission.ledger import Lease, Pool
from gateway.admission.memory import outlook_of
from gateway.domain import Capacity, Outcome
from tests.admission.words import BLOCK, NEVER_ENDING, capacity, ticket

Z = 2.33


def _learned() -> OutputForecast:
    lengths = OutputLengths()
    for k in range(100):
        lengths.learn(3 * k, ended=True)
    return lengths.forecast()


LEARNED = _learned()
SIZES = st.tuples(st.integers(1, 30), st.integers(1, 300), st.integers(0, 299), st.sampled_from([1, 1, 2]))
"""Blocks of prompt, output, generated, sequences."""


def lend(pool: Pool, number: int, size: tuple[int, int, int, int], **words: object) -> Lease:
    """A lease that has generated so much."""
    prompt, output, generated, n = size
    what = ticket(number, prompt + output / BLOCK, output=output, n=n, **words)  # type: ignore[arg-type]
    lease = pool.lend(what, output, 0.0)
    lease.output_tokens = min(generated, output - 1) * n
    return lease


def build(pool: Pool) -> Outlook:
    """From all that the leases have generated, one token a second."""
    return outlook_of(pool, Z, 0.0, 1.0)


def peak_with(look: Outlook, trial: Lease, now: float = 0.0, allowed: float = math.inf) -> float:
    """The peak with this one as well."""
    return look.peak_with(trial.ticket.demand, trial.output, now, allowed)


def true_peak(leases: list[Lease]) -> int:
    """Token by token: all advance together, and whoever reaches its hard end is gone in the next step."""
    ends = {lease: lease.ticket.demand.output_tokens_max - lease.generated(0, 1) for lease in leases}
    steps = range(max(ends.values(), default=-1) + 1)
    sums = [sum(le.blocks_at(le.generated(0, 1) + step) for le in leases if step <= ends[le]) for step in steps]
    return max(sums, default=0)


@given(st.lists(SIZES, max_size=12), SIZES)
def test_known_lengths_are_packed_safely(
    sizes: list[tuple[int, int, int, int]], one_more: tuple[int, int, int, int]
) -> None:
    """Never below the true peak; and never above what all hold at their ends."""
    pool = Pool(capacity(10_000), "1")
    leases = [lend(pool, number, size) for number, size in enumerate(sizes)]
    look = build(pool)
    ends = sum(lease.final_blocks for lease in leases)
    assert true_peak(leases) <= look.peak(0.0) <= ends
    prompt, output, _, n = one_more
    trial = lend(Pool(capacity(10_000), "1"), 99, (prompt, output, 0, n))
    assert true_peak([*leases, trial]) <= peak_with(look, trial) <= ends + trial.final_blocks


def test_known_lengths_are_packed_tightly() -> None:
    """One that ends soon makes room for the growth of another: the peak is not the sum of the ends."""
    pool = Pool(capacity(), "1")
    lend(pool, 1, (50, 100, 90, 1))
    late = lend(pool, 2, (10, 480, 0, 1))
    assert build(pool).peak(0.0) < 50 + 7 + late.final_blocks
    assert build(pool).peak(0.0) == 50 + 7 + 10 + 1


@given(st.lists(SIZES, min_size=1, max_size=20), st.data())
def test_adding_and_taking_away_is_building_anew(sizes: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    """On the same horizons, whatever the order, and however many of them were asked about before."""
    pool = Pool(capacity(10_000), "1")
    leases = [lend(pool, number, size, forecast=LEARNED) for number, size in enumerate(sizes)]
    look, trial = Outlook(pool.capacity.layout, Z), leases[0]
    for lease in leases:
        look.add(lease)
        if data.draw(st.booleans()):
            look.peak(0.0)
    out = data.draw(st.sets(st.sampled_from(range(len(leases)))))
    for number in out:
        look.remove(number)
        look.remove(number)
    fresh = Outlook(pool.capacity.layout, Z)
    for number, lease in enumerate(leases):
        if number not in out:
            fresh.add(lease)
    assert look.peak(0.0) == fresh.peak(0.0)
    assert peak_with(look, trial) == peak_with(fresh, trial)
    assert look.tokens_until(50, 100, 0.0) == fresh.tokens_until(50, 100, 0.0)


@given(st.lists(SIZES, min_size=1, max_size=20), st.integers(0, 200))
def test_a_refresh_counts_what_was_generated(sizes: list[tuple[int, int, int, int]], more: int) -> None:
    """By an outlook that has them already, or by a new one: the same."""
    pool = Pool(capacity(10_000), "1")
    look = Outlook(pool.capacity.layout, Z)
    leases = [
        lend(pool, number, (prompt, output, 0, n), forecast=LEARNED)
        for number, (prompt, output, _, n) in enumerate(sizes)
    ]
    for lease in leases:
        look.add(lease)
    look.peak(0.0)
    for lease in leases:
        demand = lease.ticket.demand
        generated = min(more, demand.output_tokens_max - 1)
        pool.progress(lease, generated * demand.sequences, 0.01)
    look.refresh(0.0, 1.0)
    fresh = build(pool)
    assert look.peak(0.0) == fresh.peak(0.0)
    assert list(look.horizons) == list(fresh.horizons)


def test_what_is_added_is_what_was_asked_for() -> None:
    """The peak with a request on trial is the peak once it is there, also where it reaches further than all others."""
    pool = Pool(capacity(), "1")
    look = build(pool)
    assert look.peak(0.0) == 0
    for number, output in enumerate((10, 1000, 300)):
        trial = lend(pool, number, (3, output, 0, 1), forecast=LEARNED)
        expected = peak_with(look, trial)
        look.add(trial)
        assert look.peak(0.0) == expected


def test_what_was_tried_is_what_is_counted_in() -> None:
    """A request that comes as it was tried is not computed again; one that comes later than that is."""
    pool = Pool(capacity(10_000), "1")
    sizes = [(5, 100 + 60 * k, 0, 1) for k in range(4)]
    tried, asked = build(Pool(capacity(10_000), "1")), build(Pool(capacity(10_000), "1"))
    for number, size in enumerate(sizes):
        lease = lend(pool, number, size, forecast=LEARNED)
        for look in (tried, asked):
            look.peak(0.0)
        peak_with(tried, lease)
        for look in (tried, asked):
            look.add(lease)
        assert tried.peak(0.0) == asked.peak(0.0)
        assert tried.tokens_until(9, 30, 0.0) == asked.tokens_until(9, 30, 0.0)
    tried.remove(1)
    asked.remove(1)
    assert tried.peak(0.0) == asked.peak(0.0)
    assert tried.resident_blocks(0.0, 1.0) == 3 * 5


def test_one_with_prompts_of_several_lengths_is_the_sum_of_its_sequences() -> None:
    """Each grows by itself."""
    pool = Pool(capacity(10_000), "1")
    both = replace(ticket(1, 1, output=100), demand=Demand(2, (50, 500, 50), 600, 100, NEVER_ENDING))
    lease = pool.lend(both, 100, 0.0)
    look = build(pool)
    assert look.peak(0.0) == lease.final_blocks == 2 * (10 + 38 + 10)
    assert peak_with(look, lease) == 2 * lease.final_blocks
    look.remove(1)
    assert look.peak(0.0) == 0


def test_many_of_unknown_length_need_less_than_all_their_ends() -> None:
    """That is the point of forecasting; but no fewer than they are likely to hold."""
    lengths = OutputLengths()
    for _ in range(500):
        lengths.learn(100, ended=True)
    pool = Pool(capacity(100_000), "1")
    leases = [lend(pool, number, (2, 2000, 0, 1), forecast=lengths.forecast()) for number in range(100)]
    assert 100 * (2 + 4) < build(pool).peak(0.0) < 0.3 * sum(lease.final_blocks for lease in leases)


def test_the_peak_takes_the_risk_that_it_is_given() -> None:
    """Mean plus z deviations of a sum of coin tosses, at the horizon where that is largest."""
    lengths = OutputLengths()
    for _ in range(500):
        lengths.learn(100, ended=True)
    answers = lengths.forecast()
    pool = Pool(capacity(100_000), "1")
    for number in range(50):
        lend(pool, number, (2, 64, 0, 1), forecast=answers)
    chance = answers.survival(64)
    mean, deviation = 50 * 6 * chance, math.sqrt(50 * 36 * chance * (1 - chance))
    assert build(pool).peak(0.0) == pytest.approx(min(300, mean + Z * deviation), rel=0.05)


def test_what_is_learned_counts_for_those_who_run() -> None:
    """But not for those who were told to run to their end."""
    pool = Pool(capacity(10_000), "1")
    free = lend(pool, 1, (2, 2000, 0, 1), forecast=LEARNED)
    bound = replace(ticket(2, 127, output=2000), runs_to_max=True)
    pool.lend(bound, 2000, 0.0)
    look = build(pool)
    before = look.peak(0.0)
    pool.outputs["m"] = NEVER_ENDING
    look.learned("m", NEVER_ENDING)
    look.refresh(0.0, 1.0)
    assert before < look.peak(0.0) == 2 * free.blocks_at(2000)


def test_many_expectations_are_forgotten_with_those_who_had_them() -> None:
    """A list that only grows would be a leak."""
    pool = Pool(capacity(10_000), "1")
    look = Outlook(pool.capacity.layout, Z)
    for number in range(3 * forecast.EXPECTATIONS_MAX):
        lengths = OutputLengths()
        lengths.learn(100, ended=True)
        look.add(lend(pool, number, (1, 10 + number, 0, 1), forecast=lengths.forecast()))
        if number:
            look.remove(number)
    before = look.peak(0.0)
    look.refresh(0.0, 1.0)
    assert len(look._expectations) == 1
    assert look.peak(0.0) == before


def test_horizons_are_few_however_many_ends_there_are() -> None:
    """What a decision costs must not grow with what runs."""
    pool = Pool(capacity(10**9), "1")
    look = build(pool)
    for number in range(300):
        look.add(lend(pool, number, (1, 100 + 3 * number, 0, 1)))
    assert look.peak(0.0) >= true_peak(list(pool.leases.values()))
    look.refresh(0.0, 1.0)
    assert len(look.horizons) <= len(GRID) + HARD_ENDS
    assert look.peak(0.0) >= true_peak(list(pool.leases.values()))


def test_who_has_left_before_anybody_asked_was_never_entered() -> None:
    """That is most of them where there is room for all; whoever is still there when somebody asks is."""
    pool = Pool(capacity(10**6), "1")
    look, fresh = build(pool), build(pool)
    for number in range(20):
        look.add(lend(pool, number, (1, 100, 0, 1)))
        if number % 2:
            pool.end(pool.leases[number], Outcome.FINISHED, 0.0, generated=1)
            look.remove(number)
    assert not look._owners
    for lease in pool.leases.values():
        fresh.add(lease)
    assert look.peak(0.0) == fresh.peak(0.0) >= true_peak(list(pool.leases.values()))
    assert len(look._owners) == len(pool.leases) == 10


def test_it_gets_old_with_the_number_of_its_leases() -> None:
    """The more there are, the longer it is kept: its cost stays a small part of a core."""
    pool = Pool(capacity(), "1")
    for number in range(100):
        lend(pool, number, (1, 10, 0, 1))
    look = build(pool)
    assert look.age(50 * forecast.REFRESH_S_PER_LEASE) == pytest.approx(0.5)
    assert build(Pool(capacity(), "1")).age(forecast.REFRESH_MIN_S) == pytest.approx(1.0)


def test_time_brings_all_of_them_forward() -> None:
    """Between two refreshes sequences are taken to advance at the engine's speed."""
    pool = Pool(capacity(), "1")
    lend(pool, 1, (50, 100, 0, 1))
    look = build(pool)
    assert look.peak(0.0) == look.peak(50.0) == 57
    assert look.peak(110.0) == 0
    assert look.peak_within(10.0, 0.0) < look.peak(0.0)


@given(st.lists(st.tuples(SIZES, st.booleans(), st.sampled_from((0.0, 1.0, 60.0))), min_size=1, max_size=20))
def test_a_known_peak_is_kept_while_it_holds(steps: list[tuple[tuple[int, int, int, int], bool, float]]) -> None:
    """Whoever comes or goes meanwhile, and whatever time passes."""
    pool, now = Pool(capacity(), "1"), 0.0
    look = build(pool)
    for number, (size, leaves, seconds) in enumerate(steps):
        look.add(lend(pool, number, size))
        if leaves:
            look.remove(number // 2)
        for _ in range(2):
            assert look.peak(now) == look.peak_within(1e9, now)
            now += seconds


def test_looking_at_a_copy_leaves_no_trace() -> None:
    pool = Pool(capacity(), "1")
    lease = lend(pool, 1, (50, 100, 0, 1))
    look = build(pool)
    twin = look.copied()
    pool.progress(lease, 60, 0.01)
    twin.refresh(0.0, 1.0)
    assert twin.peak(0.0) == look.peak(0.0) == 57
    assert 40 < twin.tokens_until(60, 100, 0.0) < 50
    assert 100 < look.tokens_until(60, 100, 0.0) <= 110


def test_room_comes_when_the_first_ones_end() -> None:
    """In tokens to come."""
    pool = Pool(capacity(), "1")
    lend(pool, 1, (50, 100, 0, 1))
    lend(pool, 2, (40, 400, 0, 1))
    look = build(pool)
    assert look.tokens_until(1, 1000, 0.0) == 0
    assert 100 < look.tokens_until(30, 100, 0.0) <= 110
    assert 400 < look.tokens_until(90, 100, 0.0) <= 410
    assert 350 < look.tokens_until(90, 100, 50.0) <= 360


def test_a_bound_of_the_wait_needs_no_settling() -> None:
    """Who has come since counts with all that it may hold; who has left counts still."""
    pool = Pool(capacity(10_000), "1")
    lend(pool, 1, (50, 100, 0, 1), forecast=LEARNED)
    look = build(pool)
    assert look.tokens_until(20, 70, 0.0, at_most=True) == look.tokens_until(20, 70, 0.0)
    look.add(lend(pool, 2, (20, 160, 0, 1), forecast=LEARNED))
    bound = look.tokens_until(20, 90, 0.0, at_most=True)
    assert look._newcomers
    assert bound > look.tokens_until(20, 90, 0.0) == look.tokens_until(20, 90, 0.0, at_most=True)
    assert not look._newcomers


def test_changes_are_settled_once_they_are_many() -> None:
    """A list that only grows would be a leak, and would cost whoever asks."""
    pool = Pool(capacity(10_000), "1")
    look = build(pool)
    for number in range(3 * forecast.CHANGES_MAX):
        look.add(lend(pool, number, (1, 100, 0, 1), forecast=LEARNED))
        if number % 2:
            look.remove(number)
        peak_with(look, pool.leases[0])
        assert look._peaks is not None
        assert len(look._peaks.changes) <= forecast.CHANGES_MAX


@given(
    st.integers(0, 3000),
    st.sampled_from(
        [
            KvGroup("full", 1, BLOCK, 0),
            KvGroup("sliding", 1, 32, 0, window=100),
            KvGroup("chunked", 1, BLOCK, 0, window=64),
            KvGroup("state", 1, BLOCK, 0, state_blocks=3),
            KvGroup("full", 1, 528, 0),
        ]
    ),
)
def test_blocks_over_arrays_are_those_of_the_layout(tokens: int, group: KvGroup) -> None:
    """Of every kind of group."""
    layout = KvLayout((group, group, KvGroup("full", 1, 48, 0)))
    assert blocks_of(layout, np.array([float(tokens)]))[0] == layout.blocks(tokens)


def test_a_layout_of_several_groups_is_counted_like_any_other() -> None:
    uniform = KvLayout.uniform(BLOCK)
    twice = KvLayout((*uniform.groups, KvGroup("sliding", 1, BLOCK, 0, window=10**9)))
    peaks = []
    for layout in (uniform, twice):
        pool = Pool(Capacity(1000, layout), "1")
        lend(pool, 1, (5, 200, 50, 2))
        peaks.append(build(pool).peak(0.0))
    assert peaks[1] == 2 * peaks[0]


def test_a_long_prompt_starts_late() -> None:
    """It is read in chunks while others generate: its end comes that many steps later."""
    pool = Pool(capacity(10_000), "1")
    lend(pool, 1, (1000, 16, 0, 1))
    assert build(pool).tokens_until(1, 10, 0.0) > 16 + 10


def test_a_stream_that_shows_little_is_taken_to_hold_what_the_fastest_holds() -> None:
    """Engines hold tokens back, but sequences advance in step. Its remaining time counts from what was seen."""
    pool = Pool(capacity(), "1")
    lend(pool, 1, (1, 800, 200, 1))
    quiet = lend(pool, 2, (1, 800, 10, 1))
    assert pool.fastest_tokens_per_s(10.0) == 20.0
    assert generated_unseen(quiet, 10, 10.0, 20.0) == 162
    look = Outlook(pool.capacity.layout, Z)
    for lease in pool.leases.values():
        look.add(lease)
    look.refresh(10.0, 20.0)
    seen = outlook_of(pool, Z, 0.0, 20.0)
    assert look.peak_within(0.0, 10.0) == seen.peak_within(0.0, 0.0) + 10


def test_an_answer_that_does_not_stream_is_inferred_from_time() -> None:
    """Its blocks grow with the engine's speed, up to what is reserved."""
    pool = Pool(capacity(), "1")
    silent = replace(ticket(1, 51, output=800), streamed=False)
    pool.lend(silent, 800, 0.0)
    assert outlook_of(pool, Z, 0.0, 10.0).peak_within(0.0, 0.0) == 1
    assert outlook_of(pool, Z, 32.0, 10.0).peak_within(0.0, 32.0) == 21
