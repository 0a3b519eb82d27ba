"""A dry run says what then happens, to the numbers, and nothing changes by it."""

from __future__ import annotations

import pytest
from hypothesis import settings

from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command
from gateway.admission.consider import KvNeed, Verdict
from gateway.admission.events import Arrived, DrainStarted, Event
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Reason, Ticket
from tests.admission.test_admission_machine import AdmissionMachine
from tests.admission.words import BLOCK, Playbook, ticket


class ConsideringMachine(AdmissionMachine):
    """Before each arrival it is asked what would come of it. The twin is never asked, and must not decide otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[Command] = []

    def tell(self, event: Event) -> None:
        if not isinstance(event, Arrived):
            super().tell(event)
            return
        before = self.admission.snapshot(), self.admission.next_timer()
        verdict = self.admission.consider(event.ticket, self.now)
        assert (self.admission.snapshot(), self.admission.next_timer()) == before
        self.admission.check()
        super().tell(event)
        agree(verdict, event.ticket, self.commands)

    def take(self, commands: list[Command], probed: set[str]) -> None:
        self.commands = commands
        super().take(commands, probed)


def agree(verdict: Verdict, asked: Ticket, commands: list[Command]) -> None:
    """What was said is what was done."""
    answer = next((command for command in commands if command.ticket_id == asked.id), None)
    if answer is None:
        assert (verdict.decision, verdict.backend) == ("queue", "")
    elif isinstance(answer, Admit):
        assert (verdict.decision, verdict.reason, verdict.backend) == ("admit", answer.reason, answer.backend)
        if verdict.need is not None:
            assert verdict.need.expected == answer.kv_tokens
    else:
        assert verdict.decision == ("never_fits" if answer.refusal.reason is Reason.TOO_LARGE else "refuse")
        assert (verdict.reason, verdict.retry_after_s) == (answer.refusal.reason, answer.refusal.retry_after_s)
        if verdict.headroom_tokens is not None:
            assert verdict.headroom_tokens == answer.refusal.headroom_tokens


ConsideringMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)
TestConsidering = ConsideringMachine.TestCase


def asked(play: Playbook, arrival: Ticket) -> Verdict:
    return play.admission.consider(arrival, play.now)


def test_room_now() -> None:
    """Where it would go, what it takes at first, at its predicted end and at most, and what there was before."""
    verdict = asked(Playbook().engine("a", blocks=50), ticket(1, 10, output=4 * BLOCK))
    need = KvNeed(now=7 * BLOCK, expected=10 * BLOCK, max=10 * BLOCK, expected_bytes=None)
    assert verdict == Verdict("admit", Reason.OK, "a", need, 50 * BLOCK, largest_max_tokens=50 * BLOCK - 6 * BLOCK)


def test_no_room_now() -> None:
    """It would wait, and for how long; the numbers are those of the largest engine that may take it."""
    play = Playbook().engine("a", blocks=50).arrives(ticket(1, 45), "1>a")
    verdict = asked(play, ticket(2, 10))
    assert (verdict.decision, verdict.reason, verdict.backend) == ("queue", Reason.HEADROOM, "")
    assert verdict.headroom_tokens == 5 * BLOCK
    assert verdict.wait_s is not None
    assert 0 < verdict.wait_s < 30
    assert play.depth == 0


def test_a_refusal_tells_when_to_come_back_without_promising_it() -> None:
    """Asking a hundred times does not send later ones further off."""
    play = Playbook(AdmissionLimits(queue_requests_max=0)).engine("a", blocks=50).arrives(ticket(1, 45), "1>a")
    first = asked(play, ticket(2, 10))
    assert (first.decision, first.reason, first.wait_s) == ("refuse", Reason.HEADROOM, None)
    assert [asked(play, ticket(2, 10)) for _ in range(100)] == [first] * 100
    play.arrives(ticket(2, 10), "2!headroom")
    assert play.refusals[2].retry_after_s == first.retry_after_s


def test_what_never_fits_is_told_what_would() -> None:
    verdict = asked(Playbook().engine("a", blocks=50), ticket(1, 60, output=20 * BLOCK))
    assert (verdict.decision, verdict.reason, verdict.backend) == ("never_fits", Reason.TOO_LARGE, "")
    assert verdict.largest_max_tokens == 10 * BLOCK
    assert verdict.retry_after_s is None


def test_a_provider_has_no_memory_to_tell_of() -> None:
    verdict = asked(Playbook().provider(), ticket(1, 10))
    assert verdict == Verdict("admit", Reason.OK, "cloud")


@pytest.mark.parametrize("observe", [True, False])
def test_nobody_can_take_it(observe: bool) -> None:
    """Neither without a backend nor in shutdown; observe mode cannot change that."""
    admission = Admission(AdmissionLimits(observe=observe))
    assert admission.consider(ticket(1), 0.0).reason is Reason.NO_BACKEND
    play = Playbook(AdmissionLimits(observe=observe)).engine("a").event(DrainStarted())
    assert asked(play, ticket(1)).decision == "refuse"
    assert asked(play, ticket(1)).reason is Reason.SHUTDOWN


def test_observe_mode_would_send_it_and_says_why_enforcing_would_not() -> None:
    play = Playbook(AdmissionLimits(observe=True, queue_requests_max=0)).engine("a", blocks=50)
    play.arrives(ticket(1, 45), "1>a")
    verdict = asked(play, ticket(2, 10))
    assert (verdict.decision, verdict.reason, verdict.backend) == ("admit", Reason.HEADROOM, "a")


def test_whom_the_newcomer_lets_pass_is_not_moved() -> None:
    """The second tenant's arrival makes shares count: in the rehearsal that may send others on, in truth nobody."""
    play = Playbook().engine("a", blocks=50)
    play.arrives(ticket(1, 40, tenant="x", kv_share=0.3), "1>a")
    play.arrives(ticket(2, 20, tenant="x", kv_share=0.3))
    verdict = asked(play, ticket(3, 5, tenant="y", kv_share=0.3))
    assert play.depth == 1
    play.arrives(ticket(3, 5, tenant="y", kv_share=0.3), *["3>a"] * (verdict.decision == "admit"))
