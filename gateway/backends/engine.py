"""What engine drivers have in common: their shape, how a look at an engine fails, strict readers of numbers."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from gateway.backends.calibration import Calibration
from gateway.backends.exposition import Samples, parse
from gateway.backends.listing import ListedModel, parse_listing
from gateway.domain import Reading

ENGINE_KEEPALIVE_S = 4.0
"""vLLM, SGLang (uvicorn) and llama.cpp close idle connections after 5 s: a request sent then would be lost."""
LISTING_MAX_AGE_S = 30.0
"""How long a list of models is believed. Models come and go (LoRA adapters) far less often than load changes."""
COUNT_MAX = 2.0**53
USAGE_MAX = 1.05
"""Largest share in use that is believed: engines round. Percent instead of a fraction lies far above."""
OK = 200

Fetch = Callable[[str], Awaitable[tuple[int, bytes]]]
"""Asks an engine for a path: status and body. Raises UpstreamFailure."""

_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?")
T = TypeVar("T")


class Fault(enum.Enum):
    """Why a look at an engine brought nothing. Closed: these are label values of `kvgate_telemetry_errors_total`."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    PARSE = "parse"
    MISSING_METRIC = "missing_metric"


class TelemetryError(Exception):
    """An engine answered, but not with what was asked for."""

    def __init__(self, reason: Fault, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Engine(Protocol):
    """Knows one kind of engine. Holds only what it learned from looks at one engine."""

    @property
    def kind(self) -> str: ...
    @property
    def hosted(self) -> bool: ...
    @property
    def keeps_connections(self) -> bool:
        """Whether a connection may carry more than one request."""
        ...

    @property
    def listed(self) -> tuple[ListedModel, ...]:
        """The models as the engine named them last."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """How the formula for its KV cache agrees with what it states; None where nothing was compared."""
        ...

    async def read(self, fetch: Fetch, asked_at: float) -> Reading:
        """One look.

        Raises:
            UpstreamFailure: the engine could not be asked.
            TelemetryError: its answer is of no use.
        """
        ...


class RestartWatch:
    """Names the lives of an engine: a new name when a mark of its start changes or when a counter of its work falls."""

    def __init__(self) -> None:
        self._restarts = 0
        self._marks = ""
        self._work_done: float | None = None

    def observe(self, marks: str, work_done: float | None) -> str:
        """The generation that this look belongs to."""
        if (
            marks == self._marks
            and work_done is not None
            and self._work_done is not None
            and work_done < self._work_done
        ):
            self._restarts += 1
        self._marks, self._work_done = marks, work_done
        return f"{marks}#{self._restarts}"


async def fetch_ok(fetch: Fetch, path: str) -> bytes:
    """The body of a page that must be there.

    Raises:
        TelemetryError: the engine answers the path with anything but 200.
    """
    status, body = await fetch(path)
    if status != OK:
        raise TelemetryError(Fault.MISSING_METRIC, f"GET {path} answered {status}")
    return body


def samples_of(page: bytes, wanted: frozenset[bytes]) -> Samples:
    """`exposition.parse` with this room's error.

    Raises:
        TelemetryError: the page is malformed where it matters.
    """
    try:
        return parse(page, wanted)
    except ValueError as error:
        raise TelemetryError(Fault.PARSE, f"/metrics is malformed: {error}") from error


def decoded(body: bytes, shape: type[T], path: str) -> T:
    """JSON of a known shape; unknown fields are skipped.

    Raises:
        TelemetryError: not JSON, or of another shape.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise TelemetryError(Fault.PARSE, f"{path} is malformed: {error}") from error


def rank_values(samples: Samples, name: bytes, rank: str) -> dict[str, float]:
    """One value per rank: engines that run several processes per rank repeat a series, and the largest counts.

    Raises:
        TelemetryError: a value is not finite or is negative.
    """
    values: dict[str, float] = {}
    for labels, value in samples.get(name, ()):
        if not math.isfinite(value) or not 0 <= value <= COUNT_MAX:
            raise TelemetryError(Fault.PARSE, f"{name.decode()} is {value}")
        key = labels.get(rank, "")
        values[key] = max(value, values.get(key, 0.0))
    return values


def total(samples: Samples, name: bytes, rank: str) -> float | None:
    """Sum over ranks; None where the engine does not say.

    Raises:
        TelemetryError: as `rank_values`.
    """
    values = rank_values(samples, name, rank)
    return sum(values.values()) if values else None


def whole(value: float | None) -> int | None:
    """A count as an integer, if there is one."""
    return None if value is None else round(value)


def positive(text: str | None) -> int | None:
    """A positive whole number written in decimal digits, else None."""
    return int(text) if text and len(text) <= 16 and text.isascii() and text.isdigit() and int(text) > 0 else None


def fraction(text: str | None) -> float:
    """A number written in decimals, else 0."""
    return float(text) if text and len(text) <= 32 and _DECIMAL.fullmatch(text) else 0.0


def listing_of(body: bytes) -> tuple[ListedModel, ...]:
    """`parse_listing` with this room's error.

    Raises:
        TelemetryError: the body is not a list of models.
    """
    try:
        return parse_listing(body)
    except ValueError as error:
        raise TelemetryError(Fault.PARSE, f"/v1/models is malformed: {error}") from error


def longest_context(listed: tuple[ListedModel, ...]) -> int | None:
    """The context that every model of an engine takes, where they say; adapters share that of their base."""
    return min((model.context_tokens for model in listed if model.context_tokens), default=None)


def public_names(models: Mapping[str, str], listed: tuple[ListedModel, ...]) -> frozenset[str]:
    """The names under which clients know what an engine lists; without a mapping, its own names."""
    ids = {model.id for model in listed}
    return frozenset(public for public, own in models.items() if own in ids) if models else frozenset(ids)
