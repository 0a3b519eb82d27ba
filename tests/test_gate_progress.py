"""How far streams have come is handed to admission beside its other events."""

from __future__ import annotations

from gateway.admission.events import Arrived, BackendMissed, Progressed
from gateway.gate import PROGRESS_INTERVAL_S, PROGRESS_LATE_S
from tests.shell import ticket
from tests.test_gate import admit, scripted


async def test_progress_is_handed_over_before_a_decision_but_seldom() -> None:
    """Once per interval, only what has moved, and first of all when it is."""
    gate, admission, clock = scripted()
    one, two = ticket(gate), ticket(gate)
    admission.commands[Arrived] = [admit(one.id)]
    async with gate.enter(one) as first:
        admission.commands[Arrived] = [admit(two.id)]
        async with gate.enter(two):
            clock.advance(PROGRESS_INTERVAL_S)
            admission.heard.clear()
            first.output_tokens = 5
            gate.unreachable("b")
            assert admission.events[0] == Progressed(((one.id, 5),))
            assert admission.events[1] == BackendMissed("b", reachable=False)
            admission.heard.clear()
            first.output_tokens = 6
            clock.advance(PROGRESS_INTERVAL_S / 2)
            gate.unreachable("b")
            assert len(admission.heard) == 1
            clock.advance(PROGRESS_INTERVAL_S)
            gate.unreachable("b")
            gate.unreachable("b")
            assert admission.events.count(Progressed(((one.id, 6),))) == 1
            assert len(admission.heard) == 4


async def test_an_arrival_does_not_wait_for_progress_unless_it_is_late() -> None:
    """Half a second without any other event is long enough."""
    gate, admission, clock = scripted()
    one = ticket(gate)
    admission.commands[Arrived] = [admit(one.id)]
    async with gate.enter(one) as first:
        for wait_s, heard in (
            (PROGRESS_INTERVAL_S, [Arrived]),
            (PROGRESS_INTERVAL_S + PROGRESS_LATE_S, [Progressed, Arrived]),
        ):
            clock.advance(wait_s)
            first.output_tokens += 5
            another = ticket(gate)
            admission.commands[Arrived] = [admit(another.id)]
            admission.heard.clear()
            async with gate.enter(another):
                assert [type(event) for event in admission.events] == heard
