"""Copies that share what no arrival changes."""

from __future__ import annotations

from gateway.admission.admission import Admission
from gateway.admission.events import Arrived
from gateway.admission.rehearsal import rehearsal
from tests.admission.words import Playbook, ticket


def inside(admission: Admission) -> int:
    """Requests that run or wait."""
    snapshot = admission.snapshot()
    running = sum(backend.requests for backend in snapshot.backends)
    return running + sum(queue.depth for queue in snapshot.queues)


def test_what_arrives_at_the_copy_does_not_arrive_at_the_original() -> None:
    """Books, queue and outlook of the original stay; those of the copy balance too."""
    play = Playbook().engine("a", blocks=50).arrives(ticket(1, 30, output=100), "1>a").arrives(ticket(2, 40))
    before = play.admission.snapshot()
    trial = rehearsal(play.admission)
    assert trial.snapshot() == before
    trial.handle(Arrived(ticket(3, 1)), 0.0)
    trial.check()
    assert (inside(trial), inside(play.admission)) == (3, 2)
    assert play.admission.snapshot() == before
    play.admission.check()


def test_open_requests_are_shared_and_their_lists_are_not() -> None:
    """However many run, a rehearsal copies references only."""
    play = Playbook().engine("a", blocks=50).arrives(ticket(1, 5), "1>a")
    pool = play.admission._roster.engines["a"].pool
    twin = rehearsal(play.admission)._roster.engines["a"].pool
    assert pool is not None
    assert twin is not None
    assert twin is not pool
    assert twin.leases is not pool.leases
    assert twin.leases == pool.leases
    assert twin.leases[1] is pool.leases[1]


def test_one_object_stays_one() -> None:
    """Whoever holds the same list as somebody else does so in the copy."""
    shared: list[int] = [1]
    first, second = rehearsal([shared, shared])
    assert first is second
    assert first is not shared


def test_a_dry_run_that_looks_ahead_leaves_the_books_of_silent_requests_alone() -> None:
    """How far they should have come is inferred when the outlook is refreshed: in the copy, for the copy."""
    admission = Playbook().engine("a", blocks=50).arrives(ticket(1, 30, output=400, streamed=False), "1>a").admission
    pool = admission._roster.engines["a"].pool
    assert pool is not None
    held = pool.kv_tokens
    admission.consider(ticket(2, 30), 5.0)
    assert pool.kv_tokens == held
    admission.check()
    trial = rehearsal(admission)
    trial.handle(Arrived(ticket(2, 30)), 5.0)
    twin = trial._roster.engines["a"].pool
    assert twin is not None
    assert twin.kv_tokens > held
