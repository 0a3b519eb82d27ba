"""Who is sent, who waits and who is turned away; the rules themselves are in the playbooks."""

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


def test_a_wait_without_hope_is_not_begun() -> None:
    """Its patience is far shorter than what is predicted; a little shorter is no reason."""
    for factor, hopeless in ((1.1 * HOPELESS_FACTOR, True), (0.9 * HOPELESS_FACTOR, False)):
        desk = serving()
        desk.line_up(Waiting(ticket(1, 90, output=600), 0.0), 0.0)
        commands = desk.line_up(Waiting(ticket(2, 90, deadline=RUNNING_S / factor), 0.0), 0.0)
        assert [isinstance(command, Refuse) for command in commands] == [True] * hopeless
