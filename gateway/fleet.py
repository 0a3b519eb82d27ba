"""The backends that run, each with its client and its poller: added, changed, drained and removed as requests flow."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from gateway.admission.events import (
    BackendAdded,
    BackendChanged,
    BackendDraining,
    BackendRead,
    BackendRemoved,
    BackendResumed,
)
from gateway.backends.backend import Backend, BackendSettings
from gateway.domain import Reading
from gateway.gate import Gate
from gateway.telemetry.poller import ENGINE_PACE, Observer, look, poll

log = structlog.get_logger()


@dataclass(slots=True)
class Fleet:
    """All backends. `backends` is what requests find theirs by: one dictionary for the life of the gateway."""

    gate: Gate
    interval_s: float = ENGINE_PACE.interval_s
    """Time between two looks at an engine."""
    backends: dict[str, Backend] = field(default_factory=dict)
    first_looks: dict[str, asyncio.Event] = field(default_factory=dict)
    """Set once a backend was looked at, whatever came of it."""
    settings: dict[str, BackendSettings] = field(default_factory=dict)
    """What each was built from."""
    _drained: set[str] = field(default_factory=set)
    """By the operator's word, not because they leave."""
    _leaving: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Configured no more, but not empty yet."""
    _retiring: dict[Backend, asyncio.Task[None]] = field(default_factory=dict)
    """Nothing is sent by them any more, but something may still come."""
    _pollers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _group: asyncio.TaskGroup | None = None
    _observer: Observer | None = None

    def build(self, wanted: BackendSettings) -> Backend:
        """A backend from these settings; for a thread, as it may read from disk.

        Raises:
            ValueError, EstimatorError: see `Backend`.
        """
        known, backend = self.settings.get(wanted.name), self.backends.get(wanted.name)
        if known is None or backend is None or known.url != wanted.url or wanted.kind != "auto":
            return Backend(wanted)
        return Backend(wanted if backend.found is None else replace(wanted, kind=backend.found))

    def add(self, settings: BackendSettings, backend: Backend) -> None:
        """Take in a backend before the start."""
        self.backends[settings.name] = backend
        self.settings[settings.name] = settings
        self.first_looks[settings.name] = asyncio.Event()
        self.gate.hear(BackendAdded(backend.spec))

    def start(self, group: asyncio.TaskGroup, observer: Observer) -> None:
        """Look at every backend from now on."""
        self._group, self._observer = group, observer
        for name in self.backends:
            self._watch(name)

    def stop(self) -> None:
        """End everything that runs by itself."""
        for task in (*self._pollers.values(), *self._leaving.values(), *self._retiring.values()):
            task.cancel()

    async def aclose(self) -> None:
        """Close every connection."""
        for backend in (*self.backends.values(), *self._retiring):
            await backend.aclose()

    def drain(self, name: str) -> bool:
        """Send nothing more to a backend; False if there is none of that name."""
        if name not in self.backends or name in self._leaving:
            return False
        self._drained.add(name)
        self.gate.hear(BackendDraining(name))
        return True

    def resume(self, name: str) -> bool:
        """Send requests to a backend again; False if there is none of that name."""
        if name not in self.backends or name in self._leaving:
            return False
        self._drained.discard(name)
        self.gate.hear(BackendResumed(name))
        return True

    @property
    def configured(self) -> frozenset[str]:
        """Names of those that are to stay."""
        return frozenset(self.backends.keys() - self._leaving.keys())

    async def change(self, wanted: Sequence[BackendSettings], built: Mapping[str, Backend], interval_s: float) -> None:
        """Make these the backends; those that are not among them get no more requests and go when they are empty.

        Args:
            wanted: all of them.
            built: by `build`, those that are new or have other settings than before.
            interval_s: time between two looks at an engine.
        """
        looks = await self._look_at(built.values())
        # From here on nothing is awaited: nobody sees half a change.
        await self.gate.handed_over()
        for name in self.configured - {settings.name for settings in wanted}:
            self._leave(name)
        for settings in wanted:
            self._stay(settings.name)
            if settings.name in built:
                self._put(settings, built[settings.name], looks[settings.name])
        if interval_s != self.interval_s:
            self.interval_s = interval_s
            for name in self.backends:
                self._watch(name)

    async def _look_at(self, backends: Iterable[Backend]) -> dict[str, Reading | None]:
        """What each says of itself, where it answers: so it takes requests from its first moment."""
        now = asyncio.get_running_loop().time

        async def read(backend: Backend) -> Reading | None:
            result = await look(backend, now())
            return result if isinstance(result, Reading) else None

        async with asyncio.TaskGroup() as group:
            looks = {backend.name: group.create_task(read(backend)) for backend in backends}
        return {name: task.result() for name, task in looks.items()}

    def _put(self, settings: BackendSettings, backend: Backend, reading: Reading | None) -> None:
        name = settings.name
        before, known = self.backends.get(name), self.settings.get(name)
        self.backends[name], self.settings[name] = backend, settings
        if before is not None and known is not None:
            self._retire(before)
        if before is not None and known is not None and known.url == settings.url and before.hosted == backend.hosted:
            self.gate.hear(BackendChanged(backend.spec))
        else:
            self.gate.hear(BackendAdded(backend.spec))
            self.first_looks.setdefault(name, asyncio.Event())
            if name in self._drained:
                self.gate.hear(BackendDraining(name))
        if reading is not None:
            assert self._observer is not None
            self._observer.on_look(BackendRead(reading), 0.0)
        self._watch(name)

    def _leave(self, name: str) -> None:
        assert self._group is not None
        self.gate.hear(BackendDraining(name))
        self._leaving[name] = self._group.create_task(self._gone(name))

    def _stay(self, name: str) -> None:
        """It was about to leave, perhaps, and is wanted again."""
        if (leaving := self._leaving.pop(name, None)) is not None:
            leaving.cancel()
            if name not in self._drained:
                self.gate.hear(BackendResumed(name))

    async def _gone(self, name: str) -> None:
        await self.gate.vacated(name)
        del self._leaving[name]
        self._pollers.pop(name).cancel()
        self._drained.discard(name)
        self.first_looks.pop(name).set()  # Whoever waits for it waits no more.
        del self.settings[name]
        backend = self.backends.pop(name)
        self.gate.hear(BackendRemoved(name))
        log.info("backend_removed", backend=name)
        self._retire(backend)

    def _watch(self, name: str) -> None:
        assert self._group is not None
        assert self._observer is not None
        if (before := self._pollers.get(name)) is not None:
            before.cancel()
        pace = replace(ENGINE_PACE, interval_s=self.interval_s)
        self._pollers[name] = self._group.create_task(poll(self.backends[name], self._observer, engine_pace=pace))

    def _retire(self, backend: Backend) -> None:
        assert self._group is not None
        self._retiring[backend] = self._group.create_task(self._retired(backend))

    async def _retired(self, backend: Backend) -> None:
        await backend.retire()
        del self._retiring[backend]
