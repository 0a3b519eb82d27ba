"""A pool with its outlook: that the two go together, and that a forecast is asked only where it is needed."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from estimator.demand import Demand
from estimator.output_length import OutputLengths
from gateway.admission import fit
from gateway.admission.curves import peak_of
from gateway.admission.forecast import Outlook
from gateway.admission.ledger import Lease, Pool
from gateway.admission.limits import AdmissionLimits
from gateway.admission.memory import AGE_MAX, SIZES_MAX, Memory
from gateway.admission.rehearsal import rehearsal
from gateway.admission.standing import Speed
from gateway.domain import Outcome, Ticket
from tests.admission.test_forecast import peak_with
from tests.admission.words import BLOCK, MODEL, NEVER_ENDING, POOL, capacity, ticket

SPEED = 30.0


def memory(blocks: int = POOL, **words: int) -> Memory:
    """Of an idle engine."""
    return Memory(Pool(capacity(blocks, **words), "1"), AdmissionLimits(), Speed())


def forecast_of(tokens: int, answers: int = 400) -> OutputLengths:
    """After many answers of about that length."""
    lengths = OutputLengths()
    for k in range(answers):
        lengths.learn(tokens // 2 + k * tokens // answers, ended=True)
    return lengths


SHORT, LONG = forecast_of(30).forecast(), forecast_of(600).forecast()


def test_room_for_all_at_their_hard_ends_needs_no_forecast() -> None:
    """The share that stays free is said in full; the outlook is not looked at."""
    known = memory()
    known.lend(ticket(1, 40, forecast=LONG), 0.0)
    assert known.free_share_with(ticket(2, 40, forecast=LONG), POOL, 0.0) == pytest.approx(0.2)
    assert not known._is_asked


def test_room_that_is_but_likely_is_less() -> None:
    """One below; and none is None."""
    known = memory(1000)
    for number in range(20):
        known.lend(ticket(number, 70, output=1000, forecast=SHORT), 0.0)
    likely = known.free_share_with(ticket(99, 70, output=1000, forecast=SHORT), 1000, 0.0)
    assert likely is not None
    assert -1 <= likely < 0
    assert known._is_asked
    assert known.free_share_with(ticket(99, 900, forecast=SHORT), 1000, 0.0) is None


def test_the_outlook_follows_the_pool() -> None:
    """Who comes is in it, who goes is not; an older report of progress changes neither."""
    known = memory(1000)
    lease = known.lend(ticket(1, 40, output=400, n=2), 0.0)
    known.pool.progress(lease, 600, known.limits.risk)
    known.pool.progress(lease, 200, known.limits.risk)
    known._refresh(0.0)
    assert known.outlook.peak_within(0.0, 0.0) == lease.blocks_at(300)
    assert known.reserved_blocks(0.0) == 80
    assert known.end(lease, Outcome.FINISHED, 1.0, generated=400)
    assert not known.end(lease, Outcome.FINISHED, 1.0, generated=400)
    assert known.reserved_blocks(1.0) == 0


def test_what_drains_stays_reserved() -> None:
    """Beside the outlook."""
    known = memory()
    known.end(known.lend(ticket(1, 40), 0.0), Outcome.BROKEN, 0.0, generated=0)
    known.lend(ticket(2, 30), 0.0)
    assert known.reserved_blocks(0.0) == 70
    assert known.free_share_with(ticket(3, 31), POOL, 0.0) is None
    assert known.free_share_with(ticket(3, 30), POOL, 0.0) == 0.0


def test_learning_counts_for_those_who_run_and_those_who_come() -> None:
    """At the next refresh."""
    known = memory(1000)
    leases = [known.lend(ticket(number, 70, output=1000, forecast=LONG), 0.0) for number in range(12)]
    before = known.reserved_blocks(0.0)
    known.learned(MODEL, SHORT)
    known._refresh(0.0)
    assert known.reserved_blocks(0.0) < 0.7 * before
    assert leases[0].output is SHORT


@pytest.mark.parametrize("blocks", [50, 400])
def test_a_pool_of_another_size_is_priced_anew(blocks: int) -> None:
    """Smaller or larger, in the midst of answers; with other blocks too."""
    known = memory()
    lease = known.lend(ticket(1, 40, output=320), 0.0)
    known.pool.progress(lease, 100, known.limits.risk)
    known.resize(capacity(blocks), 1.0)
    assert known.reserved_blocks(1.0) == 40
    known.pool.check()
    assert known.free_share_with(ticket(2, 10), blocks, 1.0) == (None if blocks == 50 - 1 else (blocks - 50) / blocks)


def test_a_share_is_of_what_is_expected_and_one_request_is_always_allowed() -> None:
    """Be it larger than the share."""
    known = memory()
    mine = ticket(1, 60, tenant="t", kv_share=0.5)
    assert not known.is_over_share(mine)
    known.lend(mine, 0.0)
    assert known.is_over_share(ticket(2, 1, tenant="t", kv_share=0.5))
    assert not known.is_over_share(ticket(2, 1, tenant="t", kv_share=0.7))
    assert not known.is_over_share(ticket(2, 90, tenant="u", kv_share=0.5))


def test_a_tenant_is_charged_with_what_it_generated() -> None:
    """Expected to be short, and long all the same: its share is used up by what is there."""
    known = memory(1000)
    lease = known.lend(ticket(1, 130, output=2000, tenant="t", forecast=SHORT), 0.0)
    small = ticket(2, 100, output=1500, tenant="t", kv_share=0.1, forecast=SHORT)
    assert not known.is_over_share(small)
    known.pool.progress(lease, 1800, known.limits.risk)
    assert known.is_over_share(small)


def test_where_overflow_is_fatal_ends_are_added_up() -> None:
    """All that may be reserved is."""
    known = memory()
    known.resize(replace(known.pool.capacity, overflow_is_fatal=True), 0.0)
    known.lend(ticket(1, 60, output=160), 0.0)
    assert known.reserved_blocks(0.0) == 60
    assert known.free_share_with(ticket(2, 41, output=640), POOL, 0.0) is None
    assert known.free_share_with(ticket(2, 40, output=640), POOL, 0.0) == 0.0


def test_room_is_also_a_matter_of_sequences() -> None:
    """Each is held for as long as an answer takes."""
    known = memory(1000, sequences_max=2)
    known.lend(ticket(1, 10, output=160, n=2), 0.0)
    assert known.steps_until(ticket(2, 10, output=160, n=1), 10, 1000, 0.0) == pytest.approx(80)
    assert known.steps_until(ticket(2, 10, output=160, n=0), 10, 1000, 0.0) == 0


def test_it_is_refreshed_for_who_looks_only() -> None:
    """Reports of progress keep it fresh, where somebody decides by it."""
    known = memory(1000)
    known.lend(ticket(1, 40, output=400), 0.0)
    known.reserved_blocks(0.0)
    known.keep_fresh(1.0)
    assert known.outlook.age(1.0) == 0
    known.keep_fresh(2.0)
    assert known.outlook.age(2.0) > AGE_MAX
    known.reserved_blocks(2.0)
    assert known.outlook.age(2.0) == 0


def test_it_is_kept_fresh_where_somebody_may_look_soon() -> None:
    """A pool that is nearly full at the hard ends; who has come has their place in the table then."""
    known = memory(100)
    known.lend(ticket(1, 80), 0.0)
    known.keep_fresh(1.0)
    assert known.outlook.age(1.0) > AGE_MAX
    known.lend(ticket(2, 15), 1.0)
    known.keep_fresh(1.0)
    assert known.outlook.age(1.0) == 0
    known.lend(ticket(3, 1), 1.0)
    assert known.outlook._newcomers
    known.keep_fresh(1.0)
    assert not known.outlook._newcomers


def test_sizes_are_kept_for_a_while() -> None:
    """Of few; and of the very request, not of one that has its number."""
    known = memory()
    first = ticket(1, 10)
    assert known.size(first) is known.size(first)
    assert known.size(replace(first)) is not known.size(first)
    for number in range(2 * SIZES_MAX):
        known.size(ticket(number, 10))
    assert len(known._sizes) <= SIZES_MAX


def test_embeddings_generate_nothing() -> None:
    """Their prompts are held, and nothing more."""
    known = memory()
    embedding = replace(ticket(1, 10), demand=Demand(1, (100, 40), 140, 0, NEVER_ENDING), max_tokens=None)
    lease = known.lend(embedding, 0.0)
    assert known.reserved_blocks(0.0) == lease.most_blocks == 7 + 3
    assert known.free_share_with(ticket(2, 91), POOL, 0.0) is None
    assert known.steps_until(embedding, 95, POOL, 0.0) <= 10


STEPS = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from(["lend", "lend", "grow", "end", "learn", "refresh", "look", "resize"]),
        st.integers(1, 40),
        st.sampled_from([(1, 1), (2, 1), (1, 3)]),
        st.sampled_from(["short", "long", "never"]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_sums_do_not_drift(steps: list[tuple[int, str, int, tuple[int, int], str, bool]]) -> None:
    """Whatever happens in whatever order: after a refresh they are those of an outlook built anew, and between two
    refreshes nothing is ever below zero."""
    forecasts = {"short": SHORT, "long": LONG, "never": NEVER_ENDING}
    known = memory(2000)
    for k, (number, step, size, shape, forecast, streamed) in enumerate(steps):
        now, lease = k / SPEED, known.pool.leases.get(number)
        if step == "lend" and lease is None:
            known.lend(wish(number, size, shape, streamed=streamed, forecast=forecast), now)
        elif step == "grow" and lease is not None:
            known.pool.progress(lease, lease.output_tokens + size * lease.sequences, known.limits.risk)
        elif step == "end" and lease is not None:
            known.end(lease, Outcome.FINISHED, now, generated=0)
        elif step == "learn":
            known.learned(MODEL, forecasts[forecast])
        elif step == "refresh":
            known._refresh(now)
        elif step == "look":
            trial = Lease(wish(99, size, shape, streamed=streamed, forecast=forecast), known.pool, now, 0)
            look = known.outlook
            assert look.peak(now) >= 0
            # With so many deviations as the sum of one more stands at: a sum of more requests strays less.
            without = peak_of(look._sums[:, look._first(look._ahead(now)) :], look._deviations(shape[1]))[0]
            assert without <= peak_with(look, trial, now)
        elif step == "resize":
            known.resize(capacity(2000 + size), now)
        balances(known, now)


def wish(number: int, size: int, shape: tuple[int, int], *, streamed: bool, forecast: str) -> Ticket:
    """A request of so many times 10 tokens in each of its prompts, the later ones longer."""
    n, prompts = shape
    lengths = tuple(10 * size + 7 * k for k in range(prompts))
    output = {"short": SHORT, "long": LONG, "never": NEVER_ENDING}[forecast]
    what = ticket(number, 10, streamed=streamed)
    return replace(what, demand=Demand(n, lengths, sum(lengths), 20 * size, output), max_tokens=None)


def balances(known: Memory, now: float) -> None:
    """Against a new outlook of the same leases, as of now."""
    known.pool.check()
    look = known.outlook
    assert look.peak(now) >= 0
    assert look.peak(now) <= known.pool.most_blocks
    assert look._sums.min() > -1e-4
    assert (look._sums[0] == look._sums[0].astype(int)).all()
    fresh = Outlook(known.pool.capacity.layout, AdmissionLimits().z)
    for lease in known.pool.leases.values():
        fresh.add(lease)
    twin = look.copied()
    twin.refresh(now, SPEED)
    fresh.refresh(now, SPEED)
    assert twin.horizons.tolist() == fresh.horizons.tolist()
    assert np.allclose(twin._sums, fresh._sums, atol=1e-6)
    most = sum(fit.most_growth(known.pool.capacity, lease.ticket) for lease in known.pool.leases.values())
    assert most == known.pool.most_blocks


@settings(deadline=None, max_examples=40)
@given(STEPS)
def test_counting_one_by_one_is_counting_all(
    steps: list[tuple[int, str, int, tuple[int, int], str, bool]],
) -> None:
    """At the horizons as they stand: adding and taking away leaves the sums of the rows that are there."""
    known = memory(2000)
    look = known.outlook
    for number, step, size, shape, forecast, streamed in steps:
        lease = known.pool.leases.get(number)
        if step == "end" and lease is not None:
            known.end(lease, Outcome.FINISHED, 0.0, generated=0)
        elif lease is None:
            known.lend(wish(number, size, shape, streamed=streamed, forecast=forecast), 0.0)
        look.peak(0.0)
        count = len(look._owners)
        assert np.allclose(look._sums, look._curves[:, :count].sum(axis=1), atol=1e-4)
        assert BLOCK * known.pool.most_blocks >= look.peak(0.0)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.integers(0, 400))
def test_what_one_horizon_shows_the_whole_peak_shows(
    steps: list[tuple[int, str, int, tuple[int, int], str, bool]], allowed: int
) -> None:
    """The quick answer is never another one than the full one."""
    known = memory(100_000)
    for k, (number, step, size, shape, forecast, streamed) in enumerate(steps):
        now, look = k / SPEED, known.outlook
        what = wish(1000 * k + number, size, shape, streamed=streamed, forecast=forecast)
        trial = Lease(what, known.pool, now, 0)
        if step == "refresh":
            known._refresh(now)
        quick, peak = peak_with(look, trial, now, allowed), peak_with(look, trial, now)
        assert quick == (peak if peak <= allowed else math.inf)
        assert peak_with(look, trial, now, peak) == peak
        known.lend(what, now)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_what_horizons_take_in_is_what_the_table_is_told(
    steps: list[tuple[int, str, int, tuple[int, int], str, bool]],
) -> None:
    """Whether changes were written down or settled: the same peak with one more, now and once they are settled."""
    known = memory(100_000)
    for k, (number, step, size, shape, forecast, streamed) in enumerate(steps):
        now, lease = k / SPEED, known.pool.leases.get(number)
        what = wish(number, size, shape, streamed=streamed, forecast=forecast)
        if size % 3 == 0:  # Its prompts take some steps to be read.
            what = wish(number, 9 * size, shape, streamed=streamed, forecast=forecast)
        if size % 2:  # Its prompts are but estimated.
            what = replace(what, demand=replace(what.demand, prompt_tokens=7 * what.demand.prompt_tokens // 10))
        if step in ("lend", "learn") and lease is None:
            known.lend(what, now)
        elif step == "grow" and lease is not None:
            known.pool.progress(lease, lease.output_tokens + size * lease.sequences, known.limits.risk)
        elif step in ("end", "resize") and lease is not None:
            known.end(lease, Outcome.FINISHED, now, generated=0)
        elif step == "refresh":
            known._refresh(now)
        trial = Lease(what, known.pool, now, 0)
        settled = rehearsal(known.outlook)
        settled.settle(now)
        expected = brute_peak_with(settled, trial, now)
        assert peak_with(known.outlook, trial, now) == expected
        assert peak_with(settled, trial, now) == expected


def brute_peak_with(look: Outlook, trial: Lease, now: float) -> float:
    """Over arrays, at all horizons: once the request is in the table."""
    twin = rehearsal(look)
    lease = twin_of(trial)
    twin.add(lease)
    return twin.peak(now)


def twin_of(trial: Lease) -> Lease:
    return Lease(replace(trial.ticket, id=10**9), trial.pool, trial.started_at, 0)


def test_who_finds_no_room_again_is_told_so_by_one_horizon() -> None:
    """That is what it is for."""
    known = memory(1000)
    for number in range(30):
        known.lend(ticket(number, 70, output=1000, forecast=LONG), 0.0)
    known.reserved_blocks(0.0)
    wish = ticket(99, 70, output=1000, forecast=LONG)
    trial = Lease(wish, known.pool, 0.0, 0)
    allowed = int(peak_with(known.outlook, trial)) - 3
    assert peak_with(known.outlook, trial, allowed=allowed) == math.inf
    peaks = known.outlook._peaks
    assert peaks is not None
    known.end(known.pool.leases[7], Outcome.FINISHED, 0.0, generated=1)
    known.lend(ticket(100, 70, output=1000, forecast=LONG), 0.0)
    assert known.free_share_with(wish, allowed, 0.0) is None
    assert sum(horizon.changes > 0 for horizon in peaks._horizons) == 1
