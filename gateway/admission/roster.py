"""All backends' books, and who of them may take what."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.hosted import HostedAccount
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendSnapshot
from gateway.admission.standing import Standing
from gateway.domain import BackendSpec, Ticket

Account = EngineAccount | HostedAccount


@dataclass(slots=True)
class Roster:
    """Backends by name, in the order in which they were added: engines of our own, and hosted providers."""

    limits: AdmissionLimits
    engines: dict[str, EngineAccount] = field(default_factory=dict)
    hosted: dict[str, HostedAccount] = field(default_factory=dict)

    def add(self, spec: BackendSpec, now: float) -> None:
        """Open the books of a backend that was configured."""
        known = self.engines.pop(spec.name, None)
        # Only a backend whose kind had to be found out comes twice, as a provider; nothing can have been sent to it.
        assert known is None or (spec.hosted and known.pool is None), f"backend {spec.name} was added twice"
        assert spec.name not in self.hosted, f"provider {spec.name} was added twice"
        standing = Standing.unknown(spec, self.limits)
        if spec.hosted:
            self.hosted[spec.name] = HostedAccount.open(standing, now)
        else:
            self.engines[spec.name] = EngineAccount(standing, self.limits)

    def find(self, name: str) -> Account | None:
        """The books of a backend; None if it is not configured."""
        return self.engines.get(name) or self.hosted.get(name)

    def all(self) -> list[Account]:
        """Every backend's books."""
        return [*self.engines.values(), *self.hosted.values()]

    def serving(self, model: str) -> list[Account]:
        """Backends that serve a model."""
        return [account for account in self.all() if account.standing.serves(model)]

    def usable(self, model: str, now: float) -> frozenset[str]:
        """Names of those that are alive, even if they asked for a pause."""
        return frozenset(account.name for account in self.serving(model) if account.is_usable(now))

    def engines_of(self, ticket: Ticket) -> list[EngineAccount]:
        """Own engines that serve its model, have described their pool, and have not failed to take it already."""
        return [
            engine
            for name, engine in self.engines.items()
            if engine.standing.serves(ticket.model) and engine.pool is not None and name not in ticket.excluded
        ]

    def providers_of(self, ticket: Ticket) -> list[HostedAccount]:
        """Providers likewise."""
        return [
            account
            for name, account in self.hosted.items()
            if account.standing.serves(ticket.model) and name not in ticket.excluded
        ]

    def could_fit(self, ticket: Ticket) -> bool:
        """Whether any backend could ever take the request, be it empty."""
        if self.providers_of(ticket):
            return True
        return any(fit.could_fit(engine.capacity, ticket) for engine in self.engines_of(ticket))

    def largest_for(self, ticket: Ticket) -> tuple[EngineAccount | None, int]:
        """The engine that would take the request with the largest output, and that; -1 if its prompt fits none."""
        outputs = [(engine, fit.largest_output(engine.capacity, ticket)) for engine in self.engines_of(ticket)]
        return max(outputs, key=lambda pair: pair[1], default=(None, -1))

    def context_tokens(self, model: str) -> int | None:
        """Longest prompt plus output that any own engine takes for the model; None if none has said."""
        known = [
            engine for engine in self.engines.values() if engine.pool is not None and engine.standing.serves(model)
        ]
        return max((fit.takes_tokens(engine.capacity) for engine in known), default=None)

    def models(self) -> frozenset[str]:
        """Models that any backend has said it serves."""
        readings = [account.standing.reading for account in self.all()]
        return frozenset(model for reading in readings if reading is not None for model in reading.models)

    def snapshots(self, now: float) -> tuple[BackendSnapshot, ...]:
        """Every backend's state for people and metrics."""
        return tuple(account.snapshot(now) for account in self.all())

    def check(self) -> None:
        """Assert that all books balance."""
        for account in self.all():
            account.check()
