"""What the gateway's front is made of: the one that serves HTTP, or the picker that answers Envoy."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from gateway.backends.backend import Backend
from gateway.config import Config
from gateway.descriptors import Places, places
from gateway.gate import Gate
from gateway.pricing import Pricing
from gateway.relay import RelaySettings
from gateway.reporting.metrics import Metrics
from gateway.reporting.record import RequestRecord
from gateway.routing.quarantine import Quarantine
from gateway.shedding import Shedding
from gateway.tokens import TokenCounters


@dataclass(frozen=True, slots=True)
class Parts:
    """The rooms behind a front."""

    config: Config
    gate: Gate
    backends: Mapping[str, Backend]
    pricing: Pricing
    tokens: TokenCounters
    metrics: Metrics
    settings: RelaySettings
    on_record: Callable[[RequestRecord], None]
    on_admitted: Callable[[str, Callable[[], RequestRecord]], None]
    is_draining: Callable[[], bool]
    passed: socket.socket | None = None
    """A socket that listens already, in place of the configured address."""
    places: Places = field(default_factory=partial(places, 1 << 16))
    """How many clients may be connected at once."""
    shedding: Shedding = field(default_factory=Shedding)
    """Whether this process can take more."""
    quarantine: Quarantine = field(default_factory=Quarantine)
    """Requests that engines died of."""
    tls: ssl.SSLContext | None = None
    """For its listener; None: plain."""
    successors: list[Callable[[Parts], None]] = field(default_factory=list)
    """Whoever adds itself is given other parts when the configuration was reloaded, for what comes from then on."""
    leavers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Whoever adds itself is called before this process ends, to leave a socket that was passed to the next one."""
    emptiers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Whoever adds itself can be asked to wait until its clients have all their answers, however slowly they read."""


Front: TypeAlias = Callable[[Parts], AbstractAsyncContextManager[str]]
"""Listens while its block runs, and gives the address. Raises OSError where it cannot."""
