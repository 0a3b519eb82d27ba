"""The outlook of a pool against brute force."""

import math

import pytest
from hypothesis import given, strategies as st

from estimator.kv_cache import KvGroup, KvLayout
from estimator.output_length import OutputLengths
from gateway.admission import forecast
from gateway.admission.forecast import Growth, Outlook, growth_of, outlook
from gateway.admission.ledger import Lease, Pool
from gateway.domain import Capacity
from tests.admission.words import BLOCK, NEVER_ENDING, capacity, ticket

Z = 2.33
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
    """From all that the leases have generated."""
    return outlook(pool, lambda lease: growth_of(lease, 0.0, 1.0), Z, 0.0)


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
    assert true_peak(leases) <= look.peak <= ends
    prompt, output, _, n = one_more
    trial = lend(Pool(capacity(10_000), "1"), 99, (prompt, output, 0, n))
    assert true_peak([*leases, trial]) <= look.peak_with(Growth(trial, 0)) <= ends + trial.final_blocks


def test_known_lengths_are_packed_tightly() -> None:
    """One that ends soon makes room for the growth of another: the peak is not the sum of the ends."""
    pool = Pool(capacity(), "1")
    lend(pool, 1, (50, 100, 90, 1))
    late = lend(pool, 2, (10, 480, 0, 1))
    assert build(pool).peak < 50 + 7 + late.final_blocks
    assert build(pool).peak == 50 + 7 + 10 + 1


@given(st.lists(SIZES, min_size=1, max_size=12), st.data())
def test_adding_and_taking_away_is_building_anew(sizes: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    """On the same horizons, whatever the order."""
    lengths = OutputLengths()
    for k in range(100):
        lengths.learn(3 * k, ended=True)
    pool = Pool(capacity(10_000), "1")
    leases = [lend(pool, number, size, forecast=lengths.forecast()) for number, size in enumerate(sizes)]
    look = build(pool)
    out = data.draw(st.sets(st.sampled_from(range(len(leases)))))
    for number in out:
        look.remove(number)
        look.remove(number)
    fresh = Outlook(Z, look.horizons)
    for number, lease in enumerate(leases):
        if number not in out:
            fresh.add(growth_of(lease, 0.0, 1.0))
    assert look.peak == fresh.peak
    back = Growth(leases[0], leases[0].generated(0, 1))
    assert look.peak_with(back) == fresh.peak_with(back)


def test_what_is_added_is_what_was_asked_for() -> None:
    """The peak with a request on trial is the peak once it is there, also where it reaches further than all others."""
    pool = Pool(capacity(), "1")
    look = build(pool)
    assert look.peak == 0
    for number, output in enumerate((10, 1000, 300)):
        trial = Growth(lend(pool, number, (3, output, 0, 1), forecast=OutputLengths().forecast()), 0)
        expected = look.peak_with(trial)
        look.add(trial)
        assert look.peak == expected


def test_many_of_unknown_length_need_less_than_all_their_ends() -> None:
    """That is the point of forecasting; but no fewer than they are likely to hold."""
    lengths = OutputLengths()
    for _ in range(500):
        lengths.learn(100, ended=True)
    pool = Pool(capacity(100_000), "1")
    leases = [lend(pool, number, (2, 2000, 0, 1), forecast=lengths.forecast()) for number in range(100)]
    assert 100 * (2 + 4) < build(pool).peak < 0.3 * sum(lease.final_blocks for lease in leases)


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
    assert build(pool).peak == pytest.approx(min(300, mean + Z * deviation), rel=0.05)


def test_a_burst_of_ever_longer_requests_keeps_the_list_of_horizons_short() -> None:
    """Also between two rebuilds."""
    pool = Pool(capacity(10**9), "1")
    look = build(pool)
    for number in range(300):
        look.add(Growth(lend(pool, number, (1, 100 + 3 * number, 0, 1)), 0))
    assert len(look.horizons) < forecast.HORIZONS_MAX + len(forecast.GRID) + 5
    assert look.peak >= true_peak(list(pool.leases.values()))
    assert len(build(pool).horizons) <= len(forecast.GRID) + forecast.HARD_ENDS + 1


def test_it_gets_old_with_the_number_of_its_leases() -> None:
    """The more there are, the longer it is kept: its cost stays a few per cent of a core."""
    pool = Pool(capacity(), "1")
    for number in range(10):
        lend(pool, number, (1, 10, 0, 1))
    look = build(pool)
    assert not look.is_old(9 * forecast.REBUILD_S_PER_LEASE)
    assert look.is_old(11 * forecast.REBUILD_S_PER_LEASE)


def test_room_comes_when_the_first_ones_end() -> None:
    """In tokens to come."""
    pool = Pool(capacity(), "1")
    lend(pool, 1, (50, 100, 0, 1))
    lend(pool, 2, (40, 400, 0, 1))
    look = build(pool)
    assert look.horizon_when(1, 1000) == 0
    assert 100 < look.horizon_when(30, 100) <= 110
    assert 400 < look.horizon_when(90, 100) <= 410


def test_a_layout_of_several_groups_is_counted_like_any_other() -> None:
    """The written-out common case and the general one agree."""
    uniform = KvLayout.uniform(BLOCK)
    twice = KvLayout((*uniform.groups, KvGroup("sliding", 1, BLOCK, 0, window=10**9)))
    peaks = []
    for layout in (uniform, twice):
        pool = Pool(Capacity(1000, layout), "1")
        lend(pool, 1, (5, 200, 50, 2))
        peaks.append(build(pool).peak)
    assert peaks[1] == 2 * peaks[0]


def test_a_long_prompt_starts_late() -> None:
    """It is read in chunks while others generate: its end comes that many steps later."""
    pool = Pool(capacity(10_000), "1")
    lease = lend(pool, 1, (1000, 16, 0, 1))
    assert Growth(lease, 0).live_until > Growth(lease, 1).live_until + 10


def test_a_stream_that_shows_little_is_taken_to_hold_what_the_fastest_holds() -> None:
    """Engines hold tokens back, but sequences advance in step. Its remaining time counts from what was seen."""
    pool = Pool(capacity(), "1")
    lend(pool, 1, (1, 800, 200, 1))
    quiet = lend(pool, 2, (1, 800, 10, 1))
    fastest = pool.fastest_tokens_per_s(10.0)
    assert fastest == 20.0
    growth = growth_of(quiet, 10.0, 30.0, fastest)
    assert (growth.generated, growth.unseen) == (10, 162)
    assert growth.curve([0, 800], [1.0, 1.0]).most == [12, 51]


@given(st.integers(0, 10**6))
def test_ages_are_rounded_down_a_little(generated: int) -> None:
    """Exact while short."""
    lease = lend(Pool(capacity(), "1"), 1, (1, 10, 0, 1), forecast=NEVER_ENDING)
    age = Growth(lease, generated).age
    assert 7 / 8 * generated <= age <= generated
    assert generated >= 16 or age == generated
