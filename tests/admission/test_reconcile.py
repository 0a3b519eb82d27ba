"""The ledger against readings, in detail; the rules themselves are in test_playbook_telemetry."""

from dataclasses import replace

import pytest

from estimator.output_length import EDGES, OutputForecast
from gateway.admission.ledger import Lease, Pool
from gateway.admission.limits import AdmissionLimits
from gateway.admission.reconcile import FOREIGN_AHEAD_S, Explained, Reconciliation, explain, growth, used_blocks
from gateway.domain import Outcome
from tests.admission.words import BLOCK, capacity, reading, ticket

SPEED = 10.0


def pool_with(*blocks: int) -> tuple[Pool, list[Lease]]:
    """A pool with leases of these sizes that started at 0."""
    pool = Pool(capacity(), "1")
    return pool, [pool.lend(ticket(k, size), BLOCK, 0.0) for k, size in enumerate(blocks)]


def test_explained_is_who_was_there_when_it_was_asked() -> None:
    """Live ones, and those that ended since; not those that came since."""
    pool, (live, left, ended, gone, drained) = pool_with(10, 20, 30, 5, 6)
    pool.end(gone, Outcome.FINISHED, 1.0, generated=BLOCK)
    pool.end(drained, Outcome.CANCELLED, 1.0, generated=BLOCK)
    pool.end(left, Outcome.CANCELLED, 3.0, generated=0)
    pool.end(ended, Outcome.FINISHED, 3.0, generated=BLOCK)
    pool.lend(ticket(9, 40), BLOCK, 3.0)
    assert live.ticket.id in pool.leases
    assert explain(pool, reading(2.0), 3.5, SPEED) == Explained(3, 9 + 20 + 30)


@pytest.mark.parametrize(
    ("used", "running", "waiting", "expected"),
    [(50, 3, 0, 50), (50, 0, 0, 0), (50, 0, None, 0), (50, 0, 2, 50), (None, 2, 0, None), (50, None, None, 50)],
)
def test_running_nothing_is_using_nothing(
    used: int | None, running: int | None, waiting: int | None, expected: int | None
) -> None:
    """Whatever the gauge shows."""
    assert used_blocks(Pool(capacity(), "1"), reading(0.0, used=used, running=running, waiting=waiting)) == expected


def test_with_others_on_the_engine_its_gauge_decides_about_drains() -> None:
    """Its count of running requests has theirs in it."""
    pool, (lease,) = pool_with(30)
    books = Reconciliation(AdmissionLimits())
    for second in range(1, 5):
        books.read(pool, reading(float(second), used=70, running=9, work=second), second, SPEED)
    assert books.foreign_blocks == 41
    pool.end(lease, Outcome.BROKEN, 5.0, generated=0)
    books.read(pool, reading(6.0, used=70, running=9, work=6), 6.0, SPEED)
    assert pool.draining == [lease]
    books.read(pool, reading(7.0, used=41, running=8, work=7), 7.0, SPEED)
    assert pool.draining == []
    assert books.foreign_blocks == 41


def test_what_others_use_is_not_hidden_by_who_waits() -> None:
    """A new gateway sends a backlog to an engine at work for others: until it is read it takes no memory there."""
    pool, _ = pool_with()
    books = Reconciliation(AdmissionLimits())
    books.read(pool, reading(0.5, used=50, running=4), 0.5, SPEED)
    assert books.foreign_blocks == 50
    for number in range(4):
        pool.lend(ticket(number, 10), BLOCK, 1.0)
    books.read(pool, reading(2.0, used=60, running=5, waiting=3, work=1), 2.0, SPEED)
    assert books.foreign_blocks == 50
    books.read(pool, reading(3.0, used=86, running=8, waiting=0, work=2), 3.0, SPEED)
    assert books.foreign_blocks == 50
    books.read(pool, reading(4.0, used=45, running=4, waiting=0, work=3), 4.0, SPEED)
    assert books.foreign_blocks <= 9


def test_what_others_use_is_not_hidden_by_what_answers_may_yet_become() -> None:
    """Answers that do not stream are taken to be at their end already, but not where that lets others vanish."""
    pool, _ = pool_with()
    books = Reconciliation(AdmissionLimits())
    books.read(pool, reading(0.5, used=50, running=4), 0.5, SPEED)
    pool.lend(ticket(1, 30, output=20 * BLOCK, streamed=False), BLOCK * 20, 1.0)
    books.read(pool, reading(2.0, used=61, running=5, work=1), 2.0, SPEED)
    assert books.foreign_blocks >= 50


def test_frozen_only_while_nobody_works_here() -> None:
    """And only where memory looks taken."""
    pool, _ = pool_with()
    books = Reconciliation(AdmissionLimits())
    books.read(pool, reading(1.0, used=80, running=2), 1.0, SPEED)
    assert (books.is_frozen(pool, 10.9), books.is_frozen(pool, 11.0)) == (False, True)
    pool.lend(ticket(1), BLOCK, 1.0)
    assert not books.is_frozen(pool, 99.0)


def test_drains_end_by_time_only_after_it() -> None:
    """For an engine that is silent."""
    pool, (early, late) = pool_with(10, 10)
    pool.end(early, Outcome.BROKEN, 1.0, generated=0)
    pool.end(late, Outcome.BROKEN, 5.0, generated=0)
    books = Reconciliation(AdmissionLimits(drain_max_s=10.0))
    books.end_overdue_drains(pool, 11.0)
    assert (pool.draining, books.drain_timeouts) == ([late], 1)


def test_requests_of_others_will_grow() -> None:
    """Four that hold 100 blocks of 16 tokens, where answers get 400 tokens long: each may come to 25 blocks more."""
    pool = Pool(capacity(1000), "g")
    seen = reading(1.0, used=100, running=4)
    assert growth(pool, seen, 0, 100) == 0, "nothing is known of lengths"
    pool.outputs["m"] = OutputForecast.from_hazards(tuple(0.999999 if edge >= 400 else 0.0 for edge in EDGES[:-1]))
    some = growth(pool, seen, 0, 100)
    assert 4 * 256 // 16 <= some <= 4 * 25
    assert growth(pool, seen, 4, 100) == 0, "they are our own"
    assert growth(pool, seen, 0, 0) == 0
    waiting = replace(seen, waiting=4)
    assert growth(pool, waiting, 0, 100) == pytest.approx(2 * some + 100, abs=2)


def test_others_that_grow_are_taken_to_go_on() -> None:
    """By ten blocks a second; once they stand still, that is forgotten."""
    pool, books = Pool(capacity(10_000), "g"), Reconciliation(AdmissionLimits())
    for second in range(20):
        books.read(pool, reading(float(second), used=1000 + 10 * second, running=4), second, SPEED)
    assert books.foreign_growth_blocks == pytest.approx(10 * FOREIGN_AHEAD_S, abs=1)
    for second in range(20, 50):
        books.read(pool, reading(float(second), used=1190, running=4), second, SPEED)
    assert books.foreign_growth_blocks == 0
