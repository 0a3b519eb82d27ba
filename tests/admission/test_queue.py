"""Order, bounds and deadlines of who waits."""

import math

import pytest
from hypothesis import given, strategies as st

from gateway.admission.queue import HANDICAP_S, PATIENCE_MAX_S, Queue, Waiting
from gateway.domain import Priority, Ticket
from tests.admission.words import MODEL, ticket

ARRIVALS = st.lists(
    st.tuples(st.floats(0, 60), st.sampled_from(Priority), st.sampled_from("mn"), st.floats(0, 100)), max_size=30
)
NOW = 60.0


def filled(arrivals: list[tuple[float, Priority, str, float]]) -> tuple[Queue, list[Waiting]]:
    """A queue, and who stands in it."""
    queue = Queue()
    everyone = []
    for number, (arrived_at, priority, model, cost_s) in enumerate(arrivals):
        arrival = ticket(number, priority=priority, model=model, deadline=arrived_at + 10, tenant=str(number % 3))
        everyone.append(Waiting(arrival, arrived_at, cost_s))
        queue.push(everyone[-1])
    return queue, everyone


def order(*waiting: Waiting, now: float) -> list[int]:
    """Numbers of those who wait, as they would be served."""
    queue = Queue()
    for one in waiting:
        queue.push(one)
    return [one.ticket.id for one in queue.line(MODEL, now)]


def test_the_shortest_goes_first() -> None:
    """Equals in the order of their coming."""
    long, short = Waiting(ticket(1), 0.0, 5.0), Waiting(ticket(2), 1.0, 1.0)
    assert order(long, short, Waiting(ticket(3), 1.0, 1.0), now=1.0) == [2, 3, 1]


def test_who_has_waited_goes_before_who_costs_a_little_less() -> None:
    """Half of its cost is shed when its patience ends."""
    old, new = Waiting(ticket(1, deadline=2.0), 0.0, 1.5), Waiting(ticket(2, deadline=4.0), 2.0, 1.0)
    assert order(old, Waiting(ticket(2, deadline=2.0), 0.0, 1.0), now=0.0) == [2, 1]
    assert order(old, new, now=2.0) == [1, 2]


def test_nobody_is_passed_for_ever() -> None:
    """Whoever has waited twice the longest patience that counts goes first, whatever it costs."""
    old = Waiting(ticket(1, deadline=1000.0), 0.0, 1e6)
    assert order(old, Waiting(ticket(2), PATIENCE_MAX_S, 1.0), now=PATIENCE_MAX_S) == [2, 1]
    assert order(old, Waiting(ticket(2), 2 * PATIENCE_MAX_S, 1.0), now=2 * PATIENCE_MAX_S) == [1, 2]


@pytest.mark.parametrize("priority", [Priority.STANDARD, Priority.BATCH])
def test_a_class_goes_before_the_next_until_that_has_waited(priority: Priority) -> None:
    """From then on it stands among the most urgent as if it had just come."""
    patient = Waiting(ticket(1, priority=priority, deadline=1000.0), 0.0, 1.0)
    handicap = HANDICAP_S[priority]
    assert order(patient, Waiting(ticket(2), handicap - 0.1, 9.0), now=handicap - 0.1) == [2, 1]
    assert order(patient, Waiting(ticket(2), handicap, 9.0), now=handicap) == [1, 2]
    assert order(patient, Waiting(ticket(2), handicap, 0.9), now=handicap) == [2, 1]


@given(ARRIVALS)
def test_the_walk_is_the_order(arrivals: list[tuple[float, Priority, str, float]]) -> None:
    """Its first is the head; who stands ahead is who comes before."""
    queue, everyone = filled(arrivals)
    for model in queue.models():
        expected = [w for w in everyone if w.ticket.model == model]
        line = list(queue.line(model, NOW))
        assert sorted(w.ticket.id for w in line) == [w.ticket.id for w in expected]
        assert queue.head(model, NOW) is line[0]
        assert queue.depth(model) == len(expected)
        for place, waiting in enumerate(line):
            count, work = queue.ahead_of(waiting, NOW)
            assert count == place
            assert work == pytest.approx(sum(w.work for w in line[:place]))
        assert queue.is_contended(model) == (len({w.ticket.tenant for w in expected}) > 1)
    assert sorted(w.ticket.id for w in queue.everyone()) == list(range(len(arrivals)))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("come", "come", "go", "head goes", "wait", "until it may change")),
        st.sampled_from((0.0, 0.1, 1.0, 1.0 + 1e-9, 7.0)) | st.floats(0, 100),
        st.sampled_from(Priority),
        st.sampled_from((0.0, 1e-9, 0.01, 3.0)),
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from((0.0, NOW, 1e5)))
def test_the_head_is_known_however_it_was_found(steps: list[tuple[str, float, Priority, float]], now: float) -> None:
    """Who was found first is kept as long as nobody can have overtaken it: never longer, to the last bit."""
    queue = Queue()
    for number, (what, cost_s, priority, seconds) in enumerate(steps):
        line = queue.by_model.get(MODEL)
        if what == "come":
            arrival = ticket(number, priority=priority, deadline=now + 0.1 + 10 * seconds)
            queue.push(Waiting(arrival, now, cost_s))
        elif what == "wait":
            now += seconds
        elif line is not None and what == "go":
            queue.pop(line.waiting[number % len(line.waiting)].ticket.id)
        elif line is not None and what == "head goes":
            queue.pop(queue.head(MODEL, now).ticket.id)
        elif line is not None and now <= line._first_until < math.inf:
            now = math.nextafter(line._first_until, math.inf if seconds else 0.0) if seconds != 3.0 else now
            now = max(now, line._scored_at)
        if (line := queue.by_model.get(MODEL)) is not None:
            assert queue.head(MODEL, now) is min(line.waiting, key=lambda one: one.score(now))


def test_one_who_does_not_wait_knows_its_place() -> None:
    """As if it had just come: behind its equals."""
    head = Waiting(ticket(1, deadline=NOW + 10), NOW, 1.0)
    assert order(head, now=NOW) == [1]
    assert not Waiting(ticket(2, deadline=NOW + 10), NOW, 1.0).precedes(head, NOW)
    assert Waiting(ticket(2, deadline=NOW + 10), NOW, 0.9).precedes(head, NOW)


def test_who_would_come_now_stands_behind_its_equals() -> None:
    """A retry is no better off than who waits already."""
    queue, _ = filled([(NOW, Priority.INTERACTIVE, MODEL, 1.0)] * 3)
    assert queue.ahead_of(Waiting(ticket(9, deadline=NOW + 10), NOW, 1.0), NOW)[0] == 3
    assert queue.ahead_of(Waiting(ticket(9, model="unheard of"), NOW, 1.0), NOW) == (0, 0.0)


@given(ARRIVALS, st.data())
def test_who_leaves_leaves_no_trace(arrivals: list[tuple[float, Priority, str, float]], data: st.DataObject) -> None:
    """Whatever the order."""
    queue, everyone = filled(arrivals)
    for waiting in data.draw(st.permutations(everyone)):
        assert waiting in queue
        assert queue.pop(waiting.ticket.id) is waiting
        assert waiting not in queue
    assert (len(queue), queue.models(), queue.next_deadline()) == (0, [], None)
    assert list(queue.line(MODEL, NOW)) == []
    assert not queue.is_contended(MODEL)


@given(ARRIVALS, st.data())
def test_who_leaves_moves_nobody(arrivals: list[tuple[float, Priority, str, float]], data: st.DataObject) -> None:
    """Those who stay score what they would if it had never come, be it the last or not."""
    queue, everyone = filled(arrivals)
    for waiting in data.draw(st.permutations(everyone)):
        for line in queue.by_model.values():
            line.scores(NOW)
        queue.pop(waiting.ticket.id)
        for line in queue.by_model.values():
            assert line.scores(NOW).tolist() == pytest.approx([one.score(NOW) for one in line.waiting])


@given(ARRIVALS, st.floats(0, 80))
def test_exactly_those_whose_deadline_has_come_expire(
    arrivals: list[tuple[float, Priority, str, float]], now: float
) -> None:
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
    queue, _ = filled([(0.0, Priority.BATCH, MODEL, 1.0)])
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
    queue, _ = filled(
        [
            (at, priority, MODEL, 1.0)
            for at, priority in ((1.0, Priority.BATCH), (2.0, Priority.BATCH), (3.0, Priority.STANDARD))
        ]
    )

    def need(_: Ticket) -> int:
        return 7

    rows = {row.priority: (row.depth, row.tokens, row.oldest_wait_s) for row in queue.snapshots(4.0, need)}
    assert rows == {Priority.BATCH: (2, 14, 3.0), Priority.STANDARD: (1, 7, 1.0)}
