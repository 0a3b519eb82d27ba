"""One engine in virtual time: what can be seen of it, and when."""

from gateway.simulation.replica import Gauges, Replica
from gateway.simulation.workload import Request
from tests.simulation.small_world import a_config


def test_metrics_are_those_of_the_end_of_the_last_step() -> None:
    """What a step changes shows when it ends, and what is sent meanwhile shows then too."""
    replica = Replica("engine", a_config())
    replica.send(0, Request(0.0, 5, 2))
    assert replica.gauges() == Gauges()
    replica.begin()
    replica.send(1, Request(0.0, 9, 1))
    assert replica.gauges() == Gauges()
    replica.end()
    assert replica.gauges() == Gauges(used_blocks=2, running=1, waiting=1, tokens_done=6)
    replica.begin()
    assert replica.gauges() == Gauges(used_blocks=2, running=1, waiting=1, tokens_done=6)
    replica.end()
    assert replica.gauges() == Gauges(tokens_done=6 + 1 + 10)


def test_counts_who_has_no_answer_yet_and_what_was_computed() -> None:
    """Two requests; the shorter one ends with the first step."""
    replica = Replica("engine", a_config())
    long, short = replica.send(7, Request(0.0, 5, 2)), replica.send(8, Request(0.0, 3, 1))
    assert replica.owners == {long: 7, short: 8}
    replica.begin()
    assert replica.outstanding == 2
    assert replica.unseen() == {long, short}
    assert replica.end().finished == [short]
    assert (replica.outstanding, replica.unseen(), replica.steps) == (1, frozenset(), 1)
    replica.begin()
    replica.end()
    assert (replica.outstanding, replica.computed_tokens) == (0, 5 + 3 + 1)
