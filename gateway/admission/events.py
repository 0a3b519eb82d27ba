"""What may happen to admission. Facts in the past tense; the counterpart of `commands`.

Nobody changes them. The two that come with every request are not frozen only because that would take longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from estimator.output_length import OutputForecast
from gateway.admission.limits import AdmissionLimits
from gateway.domain import UNLIMITED, BackendSpec, Outcome, Reading, Ticket, Usage


@dataclass(slots=True)
class Arrived:
    """A request asks for a place."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Progressed:
    """Streams have generated more: pairs of a ticket's id and its output tokens so far, over all its sequences."""

    outputs: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Left:
    """A request ended: in the queue, or on its backend with this outcome. Unknown and repeated ids change nothing."""

    ticket_id: int
    outcome: Outcome
    usage: Usage | None = None
    failure: bytes | None = None
    """Set where its backend failed it: names the request, the same whenever it is tried again."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The answers of a model are now expected to be this long: who waits and who runs is priced anew."""

    model: str
    output: OutputForecast


@dataclass(frozen=True, slots=True)
class BackendAdded:
    """A backend was configured. It takes the place of another of its name: what runs there ends on its own books."""

    spec: BackendSpec


@dataclass(frozen=True, slots=True)
class BackendChanged:
    """What the operator says of a backend has changed; it is the same engine, and its books go on."""

    spec: BackendSpec


@dataclass(frozen=True, slots=True)
class BackendDraining:
    """A backend is to get no more requests; those that run there may end."""

    backend: str


@dataclass(frozen=True, slots=True)
class BackendResumed:
    """A backend that was draining takes requests again."""

    backend: str


@dataclass(frozen=True, slots=True)
class BackendRemoved:
    """A backend is configured no more. Let it drain before: what still runs there ends unseen."""

    backend: str


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
class OthersHold:
    """What other gateways hold of a backend, or all that is known of it."""

    backend: str
    blocks: int
    """To be kept free for them: the most that their requests will hold, and what they want first."""
    resident_blocks: int = 0
    """Of these, in use by now: the engine's gauge shows them, and they are nobody else's."""
    sequences: int = 0
    """Of their requests."""
    orphaned_blocks: int = 0
    """Given up just now by gateways that are gone: perhaps still in use, and nobody's until the engine shows."""
    share: float = 1.0
    """Part of the pool that this gateway may fill while it cannot know what the others do."""
    limit_blocks: int = UNLIMITED
    """Likewise: the most that this one may hold, however much seems to be free."""
    gateways: int = 1
    """That share it, this one included: each gets its part of it in the long run."""


@dataclass(frozen=True, slots=True)
class Denied:
    """Others were quicker: a request that was admitted was not sent. It waits again, as if it had never left."""

    ticket_id: int
    arrived_at: float
    """When it came."""


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """The gateway is shutting down: whoever waits or comes now is turned away; what runs may end."""


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """The operator turned admission's settings. Who waits already keeps its place."""

    limits: AdmissionLimits


BackendEvent = BackendAdded | BackendChanged | BackendDraining | BackendResumed | BackendRemoved
"""Of the operator, about one backend."""
Event = (
    Arrived
    | Progressed
    | Left
    | Learned
    | BackendEvent
    | BackendRead
    | BackendMissed
    | BackendBusy
    | OthersHold
    | Denied
    | DrainStarted
    | LimitsChanged
)
