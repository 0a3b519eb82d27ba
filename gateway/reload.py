"""The configuration read anew while the gateway serves: all of it takes effect at once, or nothing does.

Requests that are under way end by what they began with. What is asked for while a reload runs is answered by the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import structlog

from estimator import EstimatorError
from gateway.backends.backend import Backend
from gateway.config import Config, ConfigError, Fault
from gateway.config.changes import differences, without_restart
from gateway.config.source import ConfigSource
from gateway.fleet import Fleet
from gateway.tls import ServerTls, TlsError, server_tls

WATCH_EVERY_S = 2.0
"""A file that changed is read once it has stayed the same for so long: an editor may still be writing."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reload."""

    faults: tuple[Fault, ...] = ()
    """Why nothing has changed; none: it is in effect."""
    changed: tuple[str, ...] = ()
    """Paths of the keys that have another value now."""
    restart: tuple[str, ...] = ()
    """Paths of the keys whose new value only a restart will take up."""
    added: tuple[str, ...] = ()
    """Backends; so are the next two."""
    altered: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    """They go once they are empty."""
    fingerprint: str = ""

    @property
    def plain(self) -> dict[str, object]:
        """For JSON."""
        if self.faults:
            problems = [{"path": fault.path, "message": fault.message} for fault in self.faults]
            return {"reloaded": False, "problems": problems}
        return {
            "reloaded": True,
            "changed": self.changed,
            "restart_needed": self.restart,
            "backends": {"added": self.added, "changed": self.altered, "removed": self.removed},
            "config_sha256": self.fingerprint,
        }


class Told(Protocol):
    """Who counts reloads."""

    def on_reload(self, config_sha256: str | None) -> None: ...
    def on_certificate(self, name: str, not_after_unix_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Everything that could fail, done."""

    config: Config
    backends: Mapping[str, Backend]
    certificates: Mapping[str, ServerTls]


@dataclass(slots=True)
class Reloader:
    """Reads the configuration when it is asked to.

    Attributes:
        config: the one in effect.
        source: where to read it from; None: nowhere.
        adopt: puts a configuration into effect, without waiting for anything; the fleet has followed it already.
    """

    config: Config
    source: ConfigSource | None
    fleet: Fleet
    told: Told
    certificates: Mapping[str, ServerTls]
    """By key in `listen`; see `listener_tls`."""
    adopt: Callable[[Config], None]
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _next: asyncio.Future[Outcome] | None = None
    """What comes of the reload that was asked for and has not begun."""

    def ask(self) -> None:
        """Reload soon; for signals."""
        self._wake.set()

    async def outcome(self) -> Outcome:
        """Reload, and wait for what comes of it."""
        self._wake.set()
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    async def serve(self) -> NoReturn:
        """Reload whenever it was asked for."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            asked, self._next = self._next, None
            outcome = await self._reload()
            if asked is not None:
                asked.set_result(outcome)

    async def watch(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> NoReturn:
        """While the configuration says so, ask for a reload whenever its files have changed."""
        known = seen = await self._signature()
        while True:
            await sleep(WATCH_EVERY_S)
            before, seen = seen, await self._signature()
            if seen != known and seen == before:
                known = seen
                if self.config.watch:
                    self.ask()

    async def _signature(self) -> object:
        if self.source is None or not self.config.watch:
            return None
        return await asyncio.to_thread(self.source.signature, self.config)

    async def _reload(self) -> Outcome:
        try:
            prepared = await asyncio.to_thread(self._prepare)
        except ConfigError as error:
            return self._rejected(error.faults)
        outcome = self._outcome(prepared)
        config = without_restart(self.config, prepared.config)
        await self.fleet.change(config.backend_settings(), prepared.backends, config.telemetry.interval_s)
        for key, checked in prepared.certificates.items():
            self.certificates[key].renew(checked)
            tell_certificate(self.told, key, checked)
        self.config = config
        self.adopt(config)
        self.told.on_reload(config.fingerprint())
        log.info("config_reloaded", **outcome.plain)
        return outcome

    def _rejected(self, faults: tuple[Fault, ...]) -> Outcome:
        for fault in faults:
            log.error("config_fault", path=fault.path, message=fault.message)
        log.error("config_not_reloaded", faults=len(faults))
        self.told.on_reload(None)
        return Outcome(faults=faults)

    def _prepare(self) -> _Prepared:
        """In a thread: everything is read and built that the new configuration needs.

        Raises:
            ConfigError: something cannot be used; nothing has changed.
        """
        if self.source is None:
            raise ConfigError(Fault("the configuration", "came from nowhere that could be read again"))
        config = self.source.load()
        if not config.backends:  # Such as an empty file, which would also take the keys from the door.
            raise ConfigError(Fault("backends", "there are none; a gateway without any is stopped, not reloaded"))
        effective = without_restart(self.config, config)
        backends: dict[str, Backend] = {}
        faults: list[Fault] = []
        for index, settings in enumerate(effective.backend_settings()):
            if settings == self.fleet.settings.get(settings.name):
                continue
            try:
                backends[settings.name] = self.fleet.build(settings)
            except EstimatorError as error:
                faults.append(Fault(f"backends.{index}.kv.model_config", str(error)))
            except ValueError as error:
                faults.append(Fault(f"backends.{index}", str(error)))
        certificates: dict[str, ServerTls] = {}
        try:
            certificates = listener_tls(effective)
        except ConfigError as error:
            faults += error.faults
        if faults:
            raise ConfigError(*faults)
        return _Prepared(config, backends, certificates)

    def _outcome(self, prepared: _Prepared) -> Outcome:
        """What this configuration will have changed."""
        effective = without_restart(self.config, prepared.config)
        names = {backend.name for backend in effective.backends}
        known = self.fleet.configured
        renewed = (
            f"listen.{key}" for key, new in prepared.certificates.items() if new.sha256 != self.certificates[key].sha256
        )
        changed = tuple(dict.fromkeys((*differences(self.config, effective), *renewed)))
        return Outcome(
            changed=changed,
            restart=tuple(differences(effective, prepared.config)),
            added=tuple(sorted(names - known)),
            altered=tuple(sorted(name for name in names & known if f"backends.{name}" in changed)),
            removed=tuple(sorted(known - names)),
            fingerprint=effective.fingerprint(),
        )


def listener_tls(config: Config) -> dict[str, ServerTls]:
    """TLS of the listeners that have a certificate, by their key in `listen`; reads files.

    Raises:
        ConfigError: one cannot be used.
    """
    found: dict[str, ServerTls] = {}
    faults: list[Fault] = []
    for key, tls in (("tls", config.listen.tls), ("admin_tls", config.listen.admin_tls)):
        if tls is None:
            continue
        try:
            found[key] = server_tls(tls.files())
        except TlsError as error:
            faults.append(Fault(f"listen.{key}.{error.key}", error.message))
    if faults:
        raise ConfigError(*faults)
    return found


def tell_certificate(told: Told, key: str, tls: ServerTls) -> None:
    """Say until when it is good. One that has expired is served all the same: who checks it will say so, and who does
    not is not cut off."""
    told.on_certificate("admin" if key == "admin_tls" else "api", tls.not_after_unix_s)
    if tls.not_after_unix_s < time.time():  # noqa: TID251  # certificates end by the wall clock
        log.warning("certificate_expired", key=f"listen.{key}", not_after_unix_s=tls.not_after_unix_s)
