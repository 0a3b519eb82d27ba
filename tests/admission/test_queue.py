"""Order, bounds and deadlines of who waits."""

import pytest
from hypothesis import given, strategies as st

from gateway.admission.queue import HANDICAP_S, Queue, Waiting
from gateway.domain import Priority, Ticket
from tests.admission.words import MODEL, ticket

ARRIVALS = st.lists(st.tuples(st.floats(0, 60), st.sampled_from(Priority), st.sampled_from("mn")), max_size=30)


def filled(arrivals: list[tuple[float, Priority, str]]) -> tuple[Queue, list[Waiting]]:
    """A queue, and who stands in it."""
    queue = Queue()
    everyone = []
    for number, (arrived_at, priority, model) in enumerate(arrivals):
        arrival = ticket(number, priority=priority, model=model, deadline=arrived_at + 10, tenant=str(number % 3))
        everyone.append(Waiting(arrival, arrived_at))
        queue.push(everyone[-1])
    return queue, everyone


@given(ARRIVALS)
def test_each_line_is_in_order_of_handicapped_arrival(arrivals: list[tuple[float, Priority, str]]) -> None:
    """Ties go by number."""
    queue, everyone = filled(arrivals)
    for model in queue.models():
        expected = sorted(
            (w for w in everyone if w.ticket.model == model),
            key=lambda w: (w.arrived_at + HANDICAP_S[w.ticket.priority], w.ticket.id),
        )
        assert queue.line(model) == expected
        assert queue.head(model) is expected[0]
        assert queue.depth(model) == len(expected)
        assert queue.ahead_of(expected[-1]) == expected[:-1]
        assert queue.is_contended(model) == (len({w.ticket.tenant for w in expected}) > 1)
    assert sorted(w.ticket.id for w in queue.everyone()) == list(range(len(arrivals)))


@given(ARRIVALS, st.data())
def test_who_leaves_leaves_no_trace(arrivals: list[tuple[float, Priority, str]], data: st.DataObject) -> None:
    """Whatever the order."""
    queue, everyone = filled(arrivals)
    for waiting in data.draw(st.permutations(everyone)):
        assert waiting in queue
        assert queue.pop(waiting.ticket.id) is waiting
        assert waiting not in queue
    assert (len(queue), queue.models(), queue.next_deadline()) == (0, [], None)
    assert queue.line(MODEL) == []
    assert not queue.is_contended(MODEL)


@given(ARRIVALS, st.floats(0, 80))
def test_exactly_those_whose_deadline_has_come_expire(arrivals: list[tuple[float, Priority, str]], now: float) -> None:
    """In the order of their deadlines."""
    queue, everyone = filled(arrivals)
    late = sorted((w.ticket.deadline, w.ticket.id) for w in everyone if w.ticket.deadline <= now)
    assert [(w.ticket.deadline, w.ticket.id) for w in queue.expired(now)] == late
    due = queue.next_deadline()
    assert due is None or due > now


def test_a_number_that_comes_back_has_its_new_deadline() -> None:
    """A request that is tried again elsewhere keeps its number."""
    queue = Queue()
    queue.push(Waiting(ticket(1, deadline=5.0), 0.0))
    queue.pop(1)
    queue.push(Waiting(ticket(1, deadline=9.0), 1.0))
    assert list(queue.expired(6.0)) == []
    assert queue.next_deadline() == 9.0


def test_nobody_waits_twice() -> None:
    """That would be a mistake of the caller."""
    queue, _ = filled([(0.0, Priority.BATCH, MODEL)])
    with pytest.raises(AssertionError, match="waits twice"):
        queue.push(Waiting(ticket(0), 1.0))


def test_deadlines_of_those_who_left_do_not_pile_up() -> None:
    """However many come and go."""
    queue = Queue()
    for number in range(10_000):
        queue.push(Waiting(ticket(number), 0.0))
        queue.pop(number)
    assert len(queue.deadlines) < 200


def test_snapshots_count_by_class() -> None:
    """Depth, tokens and the longest wait."""
    queue, _ = filled([(1.0, Priority.BATCH, MODEL), (2.0, Priority.BATCH, MODEL), (3.0, Priority.STANDARD, MODEL)])

    def need(_: Ticket) -> int:
        return 7

    rows = {row.priority: (row.depth, row.tokens, row.oldest_wait_s) for row in queue.snapshots(4.0, need)}
    assert rows == {Priority.BATCH: (2, 14, 3.0), Priority.STANDARD: (1, 7, 1.0)}
