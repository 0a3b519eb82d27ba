"""The simple gateways: whom they let in, and who gives up."""

import pytest

from gateway.simulation.fronts import (
    QueueFront,
    Rule,
    Seen,
    always,
    below_threshold,
    fewer_than,
    within_reservation,
)
from gateway.simulation.record import Record
from gateway.simulation.replica import Gauges, Replica
from gateway.simulation.workload import Request
from tests.simulation.small_world import SLO, a_config


@pytest.mark.parametrize(
    ("rule", "seen", "need_blocks", "may"),
    [
        (always, Seen(10, outstanding=99, reserved_blocks=99), 99, True),
        (fewer_than(3), Seen(10, outstanding=2), 99, True),
        (fewer_than(3), Seen(10, outstanding=3), 1, False),
        (within_reservation, Seen(10, reserved_blocks=7), 3, True),
        (within_reservation, Seen(10, reserved_blocks=7), 4, False),
        (below_threshold, Seen(10, Gauges(used_blocks=7, waiting=4)), 99, True),
        (below_threshold, Seen(10, Gauges(used_blocks=8)), 1, False),
        (below_threshold, Seen(10, Gauges(waiting=5)), 1, False),
    ],
)
def test_rules_know_their_bounds(rule: Rule, seen: Seen, need_blocks: int, may: bool) -> None:
    """The last that is let in, and the first that is not."""
    assert rule([seen], 0, need_blocks) is may


def test_the_threshold_is_one_of_the_whole_pool() -> None:
    """A full replica does not close the door while the mean is below."""
    full, empty, half = Seen(10, Gauges(used_blocks=10)), Seen(10), Seen(10, Gauges(used_blocks=6))
    assert below_threshold([full, empty], 0, 1)
    assert not below_threshold([full, half], 1, 1)


def a_front(rule: Rule, requests: list[Request], *, replicas: int = 1, patient: bool = False) -> QueueFront:
    """A front before small engines."""
    engines = [Replica(str(index), a_config()) for index in range(replicas)]
    return QueueFront(rule, engines, requests, Record.of(len(requests)), None if patient else SLO)


def test_sends_to_whoever_has_least_to_do() -> None:
    """In turn while all are alike, then to where one has ended."""
    front = a_front(always, [Request(0.0, 4, 4)] * 5, replicas=2)
    for number in range(4):
        front.arrived(number, 0.0)
    front.finished(1, 1.0)
    front.arrived(4, 1.0)
    assert [sorted(replica.owners.values()) for replica in front._replicas] == [[0, 2], [1, 3, 4]]


def test_first_come_first_served_until_patience_ends() -> None:
    """The head holds up who is behind it; overdue heads go, and the next is sent."""
    front = a_front(fewer_than(1), [Request(0.0, 4, 4)] * 4)
    for number, at in enumerate((0.0, 1.0, 2.0, 3.0)):
        front.arrived(number, at)
    assert (front.queued, front.next_wake()) == (3, 0.0)
    front.wake(3.5)
    assert front.queued == 3
    assert front.next_wake() == pytest.approx(3.7)
    front.finished(0, 4.5)
    assert front._record.refused_s == [None, 4.0 + 0.5, None, None]
    assert sorted(front._replicas[0].owners.values()) == [0, 2]
    assert (front.queued, front._record.decisions) == (1, 3)


def test_patient_clients_never_give_up() -> None:
    """As before an engine without a gateway."""
    front = a_front(fewer_than(1), [Request(0.0, 4, 4)] * 2, patient=True)
    front.arrived(0, 0.0)
    front.arrived(1, 0.0)
    front.wake(1e6)
    assert (front.queued, front._record.settled) == (1, 0)


def test_reserves_the_longest_answer_that_a_client_allows() -> None:
    """Ten blocks: without `max_tokens` a request reserves all; with it, its prompt and that."""
    front = a_front(within_reservation, [Request(0.0, 4, 4), Request(0.0, 4, 4, 8), Request(0.0, 5, 4, 11)])
    front.arrived(0, 0.0)
    front.arrived(1, 0.0)
    assert (front._seen[0].reserved_blocks, front.queued) == (10, 1)
    front.finished(0, 1.0)
    front.arrived(2, 1.0)
    assert (front._seen[0].reserved_blocks, front.queued) == (3 + 4, 0)


def test_the_threshold_goes_by_the_last_look() -> None:
    """Full as of a look: closed until the next one, though the engine has emptied meanwhile."""
    front = a_front(below_threshold, [Request(0.0, 32, 2)] * 2)
    engine = front._replicas[0]
    front.arrived(0, 0.0)
    engine.begin()
    engine.end()
    front.wake(1.0)
    engine.begin()
    engine.end()
    front.arrived(1, 2.0)
    assert (front.queued, front.next_wake()) == (1, 1.2)
    front.wake(2.0)
    assert front.queued == 0
