"""Words that all rooms share: values only, no behaviour beyond arithmetic on themselves.

Times are monotonic seconds given by the caller. Blocks are pool blocks of one backend; tokens are per sequence unless
the name says otherwise.

Nobody changes any of them. Those that are made for each request are not frozen all the same: a frozen one takes three
times as long to make.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from estimator.demand import Demand
from estimator.kv_cache import KvLayout
from estimator.output_length import LengthHistogram

UNLIMITED = 2**62
"""A number of tokens or sequences that no engine reaches; stands for "the engine names no limit"."""


class Priority(enum.IntEnum):
    """Classes of urgency. A lower value waits less; see `admission.queue` for what that means exactly."""

    INTERACTIVE = 0
    STANDARD = 1
    BATCH = 2


class Outcome(enum.Enum):
    """How a dispatched request ended, as far as the memory of its backend is concerned."""

    FINISHED = "finished"
    """The engine itself ended it: its memory is free."""
    NOT_SENT = "not_sent"
    """Nothing reached the engine: there is nothing to free."""
    REFUSED = "refused"
    """The engine answered with an error before it generated anything."""
    CANCELLED = "cancelled"
    """The client left. The engine may run on for a while."""
    BROKEN = "broken"
    """The connection to the engine failed or timed out. The engine may run on for a while."""

    @property
    def proves_memory_is_free(self) -> bool:
        """Whether this end alone shows that the engine holds nothing for the request any more."""
        return self in (Outcome.FINISHED, Outcome.NOT_SENT, Outcome.REFUSED)


class Reason(enum.Enum):
    """Why admission decided as it did. Closed and small: label values of `kvgate_admission_decisions_total`."""

    OK = "ok"
    OK_AFTER_WAIT = "ok_after_wait"
    HEADROOM = "headroom"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    NO_BACKEND = "no_backend"
    STALE_TELEMETRY = "stale_telemetry"
    TOO_LARGE = "too_large"
    TENANT_LIMIT = "tenant_limit"
    CLIENT_GONE = "client_gone"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What one tenant may ask of this gateway; 0: no limit. Named as in the configuration."""

    requests_max: int = 0
    """Requests that run at once."""
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    """Prompt and output tokens."""


NO_LIMITS = TenantLimits()


@dataclass(slots=True)
class Ticket:
    """One request as admission sees it."""

    id: int
    model: str
    demand: Demand
    deadline: float
    """Monotonic second at which it stops being worth an answer; it leaves the queue then."""
    first_token_by: float = math.inf
    """Monotonic second by which its first token is wanted: it is not sent anywhere that will be later."""
    token_interval_max_s: float = math.inf
    """Mean time per output token that is still good enough, after the first."""
    max_tokens: int | None = None
    """The client's own bound on the output; None where it gave none and the context is the only end."""
    clamped: bool = False
    """`max_tokens` was cut by admission so that the request can fit."""
    runs_to_max: bool = False
    """It was told not to end before `max_tokens`: nothing is to be learned about its length, or from it."""
    streamed: bool = True
    """Whether its progress will be reported; where not, admission infers it from the time that passes."""
    priority: Priority = Priority.INTERACTIVE
    tenant: str = ""
    kv_share: float = 1.0
    """Part of a backend's pool that its tenant may hold while others want room."""
    tenant_limits: TenantLimits = NO_LIMITS
    excluded: frozenset[str] = frozenset()
    """Backends that it must not go to: they failed to take it already, or are not among those it was given."""
    retried: bool = False
    """It is a second try, after a backend failed: it was counted before."""
    prefix: tuple[int, ...] = ()
    """Names of the beginnings of its prompt, from the shortest on; see `routing.prefix`. Empty where there is no choice
    of engines, or where the prompt is short."""
    prefix_tokens: int = 0
    """Tokens of the longest of them."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that some backend has said it serves."""

    engines: int
    """Own engines that serve it now."""
    context_tokens: int | None
    """Longest prompt plus output that any of them takes; None if none has said."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A KV pool as its engine describes it."""

    blocks: int
    """Usable blocks: an engine's null block is not among them."""
    layout: KvLayout
    sequence_tokens_max: int = UNLIMITED
    """Longest prompt plus output that the engine takes."""
    sequences_max: int = UNLIMITED
    """Sequences that run at once, whatever memory is free."""
    overflow_is_fatal: bool = False
    """An engine that runs out of memory ends every sequence instead of postponing one (llama.cpp, one pool for all)."""

    @property
    def tokens(self) -> int:
        """Pool size in tokens, for people and metrics."""
        return self.blocks * self.layout.block_tokens


@dataclass(frozen=True, slots=True)
class Reading:
    """What a backend said about itself in one look. `None` means that it does not say."""

    backend: str
    asked_at: float
    """When the question was sent: what the engine did after that cannot be in the answer."""
    models: frozenset[str]
    """Public names of the models it serves."""
    generation: str = ""
    """Changes when the engine restarts."""
    capacity: Capacity | None = None
    used_blocks: int | None = None
    running: int | None = None
    waiting: int | None = None
    preemptions: int | None = None
    work_done: float | None = None
    """Any counter that moves whenever the engine works: tells a frozen gauge from an idle engine."""
    engine_version: str = ""
    prefix_hit_tokens: float | None = None
    """Prompt tokens that it has found in its prefix cache since it started."""
    answer_lengths: tuple[tuple[str, LengthHistogram], ...] = ()
    """Per public model name, what it counted before; only in the first look at a generation."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was turned away, with the numbers its client may be told."""

    reason: Reason
    retry_after_s: float | None = None
    """Predicted seconds until a retry would be admitted; None where a retry cannot help."""
    need_tokens: int = 0
    """KV tokens the request was predicted to need, whole blocks."""
    headroom_tokens: int = 0
    """Largest headroom among the backends that serve the model."""
    capacity_tokens: int = 0
    """KV tokens of the largest of these backends."""
    largest_max_tokens: int = 0
    """Largest `max_tokens` with which this prompt would fit the largest backend; 0 if none does."""
    requests_ahead: int = 0
    """Requests for the same model that wait already."""
    waited_s: float = 0.0
    tenant_limit: str = ""
    """Key of the limit of its tenant that is reached, as in `TenantLimits`; empty: none, or its share of the memory."""
    tenant_limit_max: int = 0
    """What that limit allows."""


@dataclass(slots=True)
class Usage:
    """Token counts as the engine reported them at the end of a request."""

    prompt_tokens: int
    output_tokens: int
    cached_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class BackendLimits:
    """What a hosted provider allows per minute; 0 means no limit known."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """What admission must know of a backend before it has said anything itself."""

    name: str
    hosted: bool = False
    """A provider whose memory is its own business: only rate limits count there."""
    spill_only: bool = False
    """Used when the others have no room."""
    limits: BackendLimits = field(default_factory=BackendLimits)
