"""The front that Envoy talks to: gRPC, and behind it the picker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.api.auth import KeyRing
from gateway.config import Config, ConfigError, Fault
from gateway.epp.destinations import Destinations, unsuitable
from gateway.epp.intake import IntakeSettings
from gateway.epp.picker import Picker, PickerSettings, Rooms
from gateway.epp.service import Certificate, Service, serving
from gateway.epp.stream import Stream
from gateway.front import Front, Parts
from gateway.reporting.tracing import Tracing, open_tracing
from gateway.tls import CertificateFiles


@dataclass(frozen=True, slots=True)
class GrpcAddress:
    """Where Envoy finds the picker."""

    host: str = "127.0.0.1"
    port: int = 9002
    """0 takes any free one."""


def check_config(config: Config) -> None:
    """Refuse what works for the proxy alone.

    Raises:
        ConfigError: a backend that no data plane can be sent to, or several processes.
    """
    faults = [
        Fault(f"backends.{index}.url", problem)
        for index, backend in enumerate(config.backends)
        if (problem := unsuitable(backend.url))
    ]
    if config.workers > 1:
        faults.append(Fault("workers", "kvgate epp is one process: Envoy carries the requests, it only decides"))
    if faults:
        raise ConfigError(*faults)


def grpc_front(address: GrpcAddress) -> Front:
    """The front at this address, with TLS if the API's port is to have it."""

    @asynccontextmanager
    async def front(parts: Parts) -> AsyncIterator[str]:
        tls = parts.config.listen.tls
        certificate = None if tls is None else await asyncio.to_thread(_certificate, tls.files())
        async with open_tracing("grpc") as tracing:
            counter = _Counter(parts, tracing)
            parts.successors.append(counter.hand_over)
            service = Service(counter, parts.metrics.ext_proc())
            async with serving(service, address.host, address.port, parts.is_draining, certificate) as bound:
                yield bound

    return front


class _Counter:
    """Where requests come in. Each stays with the picker that it met, whatever is reloaded meanwhile."""

    def __init__(self, parts: Parts, tracing: Tracing | None) -> None:
        self._destinations = Destinations(parts.backends)
        self._api_keys: dict[str, str] = {}
        self._tracing = tracing
        self.hand_over(parts)

    def hand_over(self, parts: Parts) -> None:
        """Others pick from now on."""
        config = parts.config
        for backend in config.backend_settings():
            self._api_keys.pop(backend.name, None)
            if backend.api_key is not None:
                self._api_keys[backend.name] = backend.api_key
        settings = PickerSettings(
            relay=parts.settings,
            intake=IntakeSettings(int(config.input.body_bytes_max), config.parse_policy()),
            keys=KeyRing(config.tenant_keys()),
            has_keys=bool(config.tenants),
            api_keys=self._api_keys,
            started_at_unix_s=int(time.time()),  # noqa: TID251  # a wall clock time that clients are shown
        )
        rooms = Rooms(parts.gate, parts.backends, parts.pricing, parts.tokens, self._destinations, self._tracing)
        self._picker = Picker(rooms, settings, parts.on_record, parts.on_admitted)

    async def carry(self, stream: Stream) -> None:
        """Carry one request."""
        await self._picker.carry(stream)


def _certificate(files: CertificateFiles) -> Certificate:
    return Certificate(files.key.read_bytes(), files.certificate.read_bytes())
