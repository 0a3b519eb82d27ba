"""The ledger against readings, in detail; the rules themselves are in test_playbook_telemetry."""

import pytest

from gateway.admission.ledger import Lease, Pool
from gateway.admission.limits import AdmissionLimits
from gateway.admission.reconcile import Explained, Reconciliation, explain, used_blocks
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
