"""An owner and its workers without processes: what they tell each other is delivered when the test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import cast

import msgspec

from gateway import __version__
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.limits import AdmissionLimits
from gateway.app import relay_settings
from gateway.backends.backend import Backend
from gateway.config import Config, load_config
from gateway.domain import Outcome, ServedModel, Ticket
from gateway.front import Parts
from gateway.gate import Gate, Place
from gateway.pricing import Pricing
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord
from gateway.tokens import TokenCounters
from gateway.workers.guest import Guest
from gateway.workers.messages import Admitted, Considered, Cut, Refused, State, ToOwner, ToWorker
from gateway.workers.remote_admission import RemoteAdmission
from gateway.workers.remote_pricing import RemotePricing
from tests.shell import MODEL, HandClock, add_backend, ticket

_encode = msgspec.msgpack.Encoder().encode
_to_owner = msgspec.msgpack.Decoder(ToOwner)
_to_worker = msgspec.msgpack.Decoder(ToWorker)
STATE = State({MODEL: ServedModel(1, 8192)}, is_known=True, is_draining=False, is_strained=False, kinds={"a": "vllm"})

RECORD = RequestRecord("r", "/v1/completions", MODEL, code=200, arrived_at=1.0, duration_s=0.5)


def configured(*names: str, environ: Mapping[str, str] | None = None, **more: object) -> Config:
    """A configuration with backends of these names."""
    entries = [{"name": name, "url": f"http://{name}:8000"} for name in names]
    return load_config(overrides={"backends": entries, **more}, environ=environ or {})


class Owner:
    """The gate where everything is decided, with an engine `a` of 64 blocks behind it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.admission = Admission(AdmissionLimits())
        self.gate = Gate(self.admission, self.clock.loop)
        self.pricing = Pricing(self.gate.learned)
        self.config = configured("a")
        self.backends = {settings.name: Backend(settings) for settings in self.config.backend_settings()}
        self.begun: list[str] = []
        self.ended: list[RequestRecord] = []
        self.metrics = Metrics([MODEL], version=__version__, config_sha256="0", exceed_ratio_target=0.01)
        add_backend(self.gate, "a")

    @property
    def parts(self) -> Parts:
        """What a guest asks."""
        return Parts(
            config=self.config,
            gate=self.gate,
            backends=self.backends,
            pricing=self.pricing,
            tokens=cast("TokenCounters", None),
            metrics=self.metrics,
            settings=relay_settings(self.config),
            on_record=self.ended.append,
            on_admitted=lambda id_, _: self.begun.append(id_),
            is_draining=lambda: False,
        )

    def live(self) -> int:
        """Requests at the engine, as far as the books know."""
        return self.gate.snapshot().backends[0].requests

    def assert_empty(self) -> None:
        """Nobody has a place, waits, or is followed."""
        self.admission.check()
        snapshot = self.gate.snapshot()
        assert [backend.requests for backend in snapshot.backends if backend.name == "a"] == [0]
        assert snapshot.queues == ()
        assert snapshot.double_releases == 0
        assert (self.gate._waiting, self.gate._places, self.pricing._following) == ({}, {}, {})


class Side:
    """A worker's gate, and its guest at the owner. Messages wait until they are delivered."""

    def __init__(self, owner: Owner) -> None:
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.admission = RemoteAdmission(lambda message: self.up.append(_encode(message)))
        self.admission.learn_state(STATE)
        self.gate = Gate(self.admission, owner.clock.loop)
        self.pricing = RemotePricing(lambda message: self.up.append(_encode(message)))
        self.others: list[ToOwner] = []
        self.guest = Guest(owner.parts, lambda message: self.down.append(_encode(message)), self.others.append)
        self.answers: dict[int, Command] = {}
        self.places: dict[int, Place] = {}
        self.is_dead = False

    def ask(self, blocks: int = 60) -> Ticket:
        """A request comes to the worker; its answer will be in `answers`, its place in `places`."""
        asked = ticket(self.gate, blocks=blocks)
        self.gate.ask(asked, self._answered)
        return asked

    def say(self, message: ToOwner) -> None:
        self.up.append(_encode(message))

    def deliver_up(self) -> None:
        """The oldest message reaches the owner."""
        message = self.up.popleft()
        if not self.is_dead:
            self.guest.take(_to_owner.decode(message))

    def deliver_down(self) -> None:
        """The oldest message reaches the worker."""
        match message := _to_worker.decode(self.down.popleft()):
            case Admitted() | Refused():
                self.gate.told(self.admission.commands(message, self.gate.now()))
            case Considered(verdict):
                self.admission.considered(verdict)
            case Cut():
                self.gate.cut()
            case _:
                raise AssertionError(message)

    def deliver(self) -> None:
        """Everything reaches whom it is for, and what comes of it."""
        while self.up or self.down:
            if self.up:
                self.deliver_up()
            else:
                self.deliver_down()

    def die(self) -> None:
        """What it has said was heard before."""
        while self.up:
            self.deliver_up()
        self.guest.lost()
        self.is_dead = True

    def _answered(self, command: Command) -> None:
        self.answers[command.ticket_id] = command
        if isinstance(command, Admit):
            self.places[command.ticket_id] = self.gate.occupy(command, Carrier())

    def refusal(self, ticket_: Ticket) -> Refuse:
        """It was turned away."""
        answer = self.answers[ticket_.id]
        assert isinstance(answer, Refuse)
        return answer

    def leave(self, ticket_: Ticket, outcome: Outcome = Outcome.FINISHED) -> None:
        """A request that has a place ends."""
        self.places.pop(ticket_.id).end(outcome)


class Carrier:
    """In place of a task."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> object:
        self.is_cancelled = True
        return None
