"""Who is sent, who waits and who is turned away; the rules themselves are in the playbooks."""

from dataclasses import replace

from gateway.admission.commands import Admit, Refuse
from gateway.admission.events import BackendAdded
from gateway.admission.limits import AdmissionLimits
from gateway.admission.queue import Queue, Waiting
from gateway.admission.roster import Roster
from gateway.admission.serving import HOPELESS_FACTOR, Serving
from gateway.domain import BackendSpec, Reason
from tests.admission.words import MODEL, reading, ticket

RUNNING_S = 20.0
"""600 tokens at the speed that is assumed of an engine that has not shown its own."""


def serving() -> Serving:
    """In front of one idle engine."""
    limits = AdmissionLimits()
    roster = Roster(limits)
    roster.configure(BackendAdded(BackendSpec("a")), 0.0)
    roster.engines["a"].observe(reading(0.0), 0.0)
    roster.changed()
    return Serving(limits, roster, Queue())


def test_who_can_go_goes() -> None:
    """And its lease is kept by its number."""
    desk = serving()
    (command,) = desk.line_up(Waiting(ticket(1, 90, output=600), 0.0), 0.0)
    assert isinstance(command, Admit)
    assert (command.backend, command.reason) == ("a", Reason.OK)
    assert list(desk.at_engine) == [1]
    assert desk.stuck == {}


def test_who_waits_at_the_head_is_asked_once() -> None:
    """Until something happens, nobody behind it is asked either."""
    desk = serving()
    desk.line_up(Waiting(ticket(1, 90, output=600), 0.0), 0.0)
    assert desk.line_up(Waiting(ticket(2, 90), 0.0), 0.0) == []
    assert desk.stuck == {MODEL: (2, False)}
    assert desk.line_up(Waiting(ticket(3, 95), 0.0), 0.0) == []


def test_who_may_not_wait_never_stands_in_line() -> None:
    """Where nobody waits for its model, but others fill the queue, or nobody may wait at all."""
    for most, reason in ((0, Reason.HEADROOM), (1, Reason.QUEUE_FULL)):
        desk = serving()
        desk.limits = replace(desk.limits, queue_requests_max=most)
        desk.line_up(Waiting(ticket(1, 90, output=600), 0.0), 0.0)
        if most:
            assert desk.line_up(Waiting(ticket(2, model="another"), 0.0), 0.0) == []
        (command,) = desk.line_up(Waiting(ticket(3, 90), 0.0), 0.0)
        assert isinstance(command, Refuse)
        assert (command.ticket_id, command.refusal.reason) == (3, reason)
        assert len(desk._queue) == most
        assert MODEL not in desk._queue.by_model


def test_a_wait_without_hope_is_not_begun() -> None:
    """Its patience is far shorter than what is predicted; a little shorter is no reason."""
    for factor, hopeless in ((1.1 * HOPELESS_FACTOR, True), (0.9 * HOPELESS_FACTOR, False)):
        desk = serving()
        desk.line_up(Waiting(ticket(1, 90, output=600), 0.0), 0.0)
        commands = desk.line_up(Waiting(ticket(2, 90, deadline=RUNNING_S / factor), 0.0), 0.0)
        assert [isinstance(command, Refuse) for command in commands] == [True] * hopeless


def test_a_full_queue_turns_away_without_a_place_in_line() -> None:
    """Whoever would stand behind one for whom there is no room; whoever would go before it is asked about."""
    desk = serving()
    desk.limits = replace(desk.limits, queue_requests_max=1)
    desk.line_up(Waiting(ticket(1, 90, output=600), 0.0), 0.0)
    assert desk.line_up(Waiting(ticket(2, 90), 0.0), 0.0) == []
    assert desk._queue.head(MODEL, 0.0).ticket.id == 2
    for number in (3, 4):
        (command,) = desk.line_up(Waiting(ticket(number, 95), 0.0), 0.0)
        assert isinstance(command, Refuse)
        assert (command.refusal.reason, command.refusal.requests_ahead) == (Reason.QUEUE_FULL, 1)
        assert len(desk._queue.deadlines) == 2 - (number == 3)
        desk.stuck.clear()
    (command,) = desk.line_up(Waiting(ticket(5, 5), 0.0), 0.0)
    assert isinstance(command, Admit)
    assert list(desk._queue.by_id) == [2]
