"""What may happen to admission. Facts in the past tense; the counterpart of `commands`."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.output_length import OutputForecast
from gateway.domain import BackendSpec, Outcome, Reading, Ticket, Usage


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request asks for a place."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Progressed:
    """Streams have generated more: pairs of a ticket's id and its output tokens so far, over all its sequences."""

    outputs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Left:
    """A request ended: in the queue, or on its backend with this outcome. Unknown and repeated ids change nothing."""

    ticket_id: int
    outcome: Outcome
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """The answers of a model are now expected to be this long: who waits and who runs is priced anew."""

    model: str
    output: OutputForecast


@dataclass(frozen=True, slots=True)
class BackendAdded:
    """A backend was configured."""

    spec: BackendSpec


@dataclass(frozen=True, slots=True)
class BackendRead:
    """A backend answered a look at its state."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class BackendMissed:
    """A look at a backend brought nothing usable. `reachable` tells a broken metrics page from a dead engine."""

    backend: str
    reachable: bool


@dataclass(frozen=True, slots=True)
class BackendBusy:
    """A backend asked to be left alone until then (its 429 or 503 with Retry-After)."""

    backend: str
    until: float


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """The gateway is shutting down: whoever waits or comes now is turned away; what runs may end."""


Event = Arrived | Progressed | Left | Learned | BackendAdded | BackendRead | BackendMissed | BackendBusy | DrainStarted
