"""KVGate in virtual time: what it is told, and when."""

from dataclasses import replace

import pytest

from gateway.admission.events import Arrived, BackendRead, Event, Learned, Left, Progressed
from gateway.domain import Outcome, Usage
from gateway.simulation.gateway_front import GatewayFront, GatewaySetting
from gateway.simulation.record import Record
from gateway.simulation.replica import Replica
from gateway.simulation.workload import Request
from gateway.simulation.world import World
from tests.simulation.small_world import SLO, a_config

SETTING = GatewaySetting(SLO, progress_every_s=0.7)


class Listening(GatewayFront):
    """Notes every event with its time."""

    def __init__(self, setting: GatewaySetting, requests: list[Request], *, blocks: int = 10) -> None:
        self.heard: list[tuple[float, Event]] = []
        self.replicas = [Replica("engine", a_config(blocks))]
        self.record = Record.of(len(requests))
        super().__init__(setting, self.replicas, requests, self.record)
        World(requests, self.replicas, [self], self.record).run()

    def _tell(self, event: Event) -> None:
        self.heard.append((self._now, event))
        super()._tell(event)

    def of(self, kind: type[Event]) -> list[tuple[float, Event]]:
        """Events of one kind."""
        return [(at, event) for at, event in self.heard if isinstance(event, kind)]


def test_progress_is_told_in_batches_once_tokens_are_out() -> None:
    """Steps end at 1, 2, 3 s: reported at the next tick, and only what has moved."""
    front = Listening(SETTING, [Request(0.0, 4, 4)])
    batches = [(round(at, 6), event.outputs) for at, event in front.of(Progressed) if isinstance(event, Progressed)]
    assert batches == [(1.4, ((0, 1),)), (2.1, ((0, 2),)), (3.5, ((0, 3),))]


def test_ends_are_told_before_anything_is_learned_from_them() -> None:
    """As the gateway does: the place is free first."""
    front = Listening(SETTING, [Request(0.0, 4, 2)])
    kinds = [type(event) for _, event in front.heard if isinstance(event, (Arrived, Left, Learned))]
    assert kinds == [Arrived, Left, Learned]
    assert front.of(Left) == [(2.0, Left(0, Outcome.FINISHED, Usage(4, 2)))]


def test_engines_are_looked_at_at_their_pace() -> None:
    """At once, then every half second, here half of that later."""
    front = Listening(replace(SETTING, phase=0.5), [Request(0.0, 4, 2)])
    assert [at for at, _ in front.of(BackendRead)] == pytest.approx([0.0, 0.75, 1.25, 1.75])


def the_ticket(setting: GatewaySetting, request: Request) -> Arrived:
    """How the gateway sees this one request."""
    _, event = Listening(setting, [request], blocks=100).of(Arrived)[0]
    assert isinstance(event, Arrived)
    return event


def test_tickets_carry_the_slo_and_what_the_client_said() -> None:
    """Deadline and interval from the SLO; length unknown but bounded."""
    ticket = the_ticket(SETTING, Request(1.0, 40, 7, max_tokens=20, tenant="t")).ticket
    assert (ticket.deadline, ticket.first_token_by, ticket.token_interval_max_s) == (4.0, 4.0, 2.0)
    assert (ticket.max_tokens, ticket.tenant, ticket.runs_to_max) == (20, "t", False)
    assert (ticket.demand.prompt_tokens, ticket.demand.output_tokens_max) == (40, 20)
    assert 7 < ticket.demand.output_bound(0.5) <= 20


def test_an_oracle_knows_each_length_and_learns_nothing() -> None:
    """Its forecast is the true length and nothing else."""
    setting = replace(SETTING, knows_lengths=True)
    ticket = the_ticket(setting, Request(0.0, 40, 7, max_tokens=20)).ticket
    assert (ticket.demand.output_tokens_max, ticket.max_tokens, ticket.runs_to_max) == (7, 7, True)
    assert ticket.demand.output.survival(7, 0) == 1
    assert not Listening(setting, [Request(0.0, 4, 2)] * 5).of(Learned)


def test_prompts_may_be_guessed_from_their_text() -> None:
    """Off by chance, the same each time with the same seed."""
    request = Request(0.0, 40, 7)
    guesses = [
        the_ticket(replace(SETTING, prompt_error=0.5, seed=seed), request).ticket.demand.prompt_tokens
        for seed in (1, 1, 2)
    ]
    assert guesses[0] == guesses[1] != guesses[2]
    assert the_ticket(replace(SETTING, prompt_error=0.0), request).ticket.demand.prompt_tokens_least is not None


def test_who_cannot_be_served_in_time_is_turned_away() -> None:
    """Room for one at a time, four seconds each: of three at once, one is served."""
    front = Listening(SETTING, [Request(0.0, 30, 4, max_tokens=4)] * 3)
    assert front.record.refused_s.count(None) == 1
    assert front.queued == 0
    front.admission.check()
