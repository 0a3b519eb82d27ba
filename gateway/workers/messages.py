"""What a worker and its owner tell each other: admission's events and commands, and what is learned and recorded.

Times are monotonic seconds, which all processes of a machine share. A ticket is named by the worker's own number.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from estimator.demand import End, Shape
from gateway.admission.commands import Admit
from gateway.admission.consider import Verdict
from gateway.backends.settings import EngineKind
from gateway.domain import Outcome, Refusal, ServedModel, Ticket, Usage
from gateway.reporting.record import RequestRecord


class Message(msgspec.Struct, array_like=True):
    """What all have in common."""


class Built(Message, tag=0):
    """The worker has all it needs but the state, and opens its door when it has that."""


class Opened(Message, tag=1):
    """It takes connections."""


class Arrive(Message, tag=2):
    """A request asks for a place. How long its answer may get is the owner's knowledge: the ticket does not say."""

    ticket: Ticket


class Leave(Message, tag=3):
    """It gave up waiting, or left its place."""

    ticket_id: int
    outcome: Outcome
    usage: Usage | None
    failure: bytes | None


class Progress(Message, tag=4):
    """Output tokens so far of requests that moved on, by ticket."""

    outputs: tuple[tuple[int, int], ...]


class Busy(Message, tag=5):
    """A backend asked to be left alone."""

    backend: str
    until: float


class Missed(Message, tag=6):
    """A request could not be delivered to a backend."""

    backend: str


class Consider(Message, tag=7):
    """What would become of this request?"""

    ticket: Ticket


class Follow(Message, tag=8):
    """A request was sent to an engine: its answer is learned from as it grows."""

    ticket_id: int
    model: str
    shape: Shape
    runs_to_max: bool


class Learn(Message, tag=9):
    """Its engine has counted it."""

    ticket_id: int
    usage: Usage
    end: End
    events: int


class LearnCut(Message, tag=10):
    """It was cut off after so many tokens."""

    ticket_id: int
    output_tokens: int


class Unfollow(Message, tag=11):
    """It is over, learned or not."""

    ticket_id: int


class Begun(Message, tag=12):
    """A request was admitted a moment ago: what is known of it so far. One that ends within that is not told."""

    record: RequestRecord


class Ended(Message, tag=13):
    """A request is over."""

    record: RequestRecord
    is_new: bool
    """It was admitted, and nothing was told of it before."""


class Lag(Message, tag=14):
    """The worker's event loop turns, and was so late. Who does not say so for long hangs."""

    lag_s: float


class Died(Message, tag=15):
    """An engine died with this request in it; to the other workers too. See `routing.quarantine`."""

    name: bytes
    size_bytes: int


class Cleared(Message, tag=16):
    """An engine has served one that was suspected; to the other workers too."""

    name: bytes


class Setup(Message, tag=20):
    """The configuration, by `Config.referring`, as JSON."""

    config: bytes


class Admitted(Message, tag=21):
    """A place is reserved."""

    admit: Admit


class Refused(Message, tag=22):
    """There is none."""

    ticket_id: int
    refusal: Refusal


class Considered(Message, tag=23):
    """The answer to the oldest `Consider` that has none."""

    verdict: Verdict


class State(Message, tag=24):
    """What the owner knows. The first one opens the worker's door."""

    models: dict[str, ServedModel]
    is_known: bool
    """Every backend has answered a look: there are no other models."""
    is_draining: bool
    is_strained: bool
    """The owner can decide on no more than it does."""
    kinds: dict[str, EngineKind]
    """Of the backends, as far as they were found out."""


class Learned(Message, tag=25):
    """All that was learned of the models, as `learned_file` writes it."""

    content: bytes


class Cut(Message, tag=26):
    """Nobody waits any longer: end what still runs."""


class Retire(Message, tag=27):
    """Take no more connections, let end what runs, and go."""


class Finish(Message, tag=28):
    """Go now: what still runs is cut."""


ToOwner: TypeAlias = (
    Built
    | Opened
    | Arrive
    | Leave
    | Progress
    | Busy
    | Missed
    | Consider
    | Follow
    | Learn
    | LearnCut
    | Unfollow
    | Begun
    | Ended
    | Lag
    | Died
    | Cleared
)
ToWorker: TypeAlias = Setup | Admitted | Refused | Considered | State | Learned | Died | Cleared | Cut | Retire | Finish
