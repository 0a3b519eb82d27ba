"""All backends' books, and who of them may take what."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import assert_never

from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.account_snapshot import snapshot_of
from gateway.admission.events import (
    BackendAdded,
    BackendChanged,
    BackendDraining,
    BackendEvent,
    BackendRemoved,
    BackendResumed,
)
from gateway.admission.hosted import HostedAccount
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendSnapshot, TenantSnapshot
from gateway.admission.standing import Standing
from gateway.domain import BackendSpec, ServedModel, Ticket
from gateway.routing.breaker import ALONE_MIN, FAILED_MIN, NEVER, BreakerState

Account = EngineAccount | HostedAccount


@dataclass(slots=True)
class Served:
    """Who serves one model. Not frozen: what a dry run sees of it must lead to its own accounts."""

    accounts: list[Account]
    engines: list[EngineAccount]
    """Those that have described their pool."""
    providers: list[HostedAccount]
    usable: frozenset[str]
    """Names of those that are alive, even if they asked for a pause."""
    context_tokens: int | None
    """Longest prompt plus output that any own engine takes; None if none has said."""


@dataclass(slots=True)
class Roster:
    """Backends by name, in the order in which they were added: engines of our own, and hosted providers."""

    limits: AdmissionLimits
    engines: dict[str, EngineAccount] = field(default_factory=dict)
    hosted: dict[str, HostedAccount] = field(default_factory=dict)
    gone_kv_token_seconds: dict[str, float] = field(default_factory=dict)
    """Memory that each tenant's requests have held, over time, on backends that are configured no more."""
    try_again_at: float = math.inf
    """When the next of those that failed is to be tried again."""
    _served: dict[str, Served] = field(default_factory=dict)
    _models: frozenset[str] | None = None
    _shown: dict[str, ServedModel] = field(default_factory=dict)

    def of(self, model: str) -> Served:
        """Who serves a model. Kept until `changed`, which whoever tells an account of something must call."""
        served = self._served.get(model)
        if served is None:
            accounts = [account for account in self.all() if account.standing.serves(model)]
            engines = [account for account in accounts if isinstance(account, EngineAccount) and account.pool]
            served = self._served[model] = Served(
                accounts,
                engines,
                [account for account in accounts if isinstance(account, HostedAccount)],
                frozenset(account.name for account in accounts if account.is_usable(0.0)),
                max((fit.takes_tokens(engine.capacity) for engine in engines), default=None),
            )
        return served

    def changed(self) -> None:
        """A backend may serve other models now, or have another pool, or be up or down."""
        self._served.clear()
        self._models = None
        self._shown.clear()

    def failed(self, account: Account, ticket_id: int, request: bytes, now: float) -> bool:
        """A backend failed a request; returns whether nothing more is sent there for now."""
        breaker = account.standing.breaker
        if not breaker.failed(ticket_id, request, now, needed=self._failures_needed(account, now)):
            return False
        self.try_again_at = min(self.try_again_at, breaker.opened_until)
        self.changed()
        return True

    def try_again(self, now: float) -> None:
        """Let those be tried again whose time has come."""
        breakers = [account.standing.breaker for account in self.all()]
        for breaker in breakers:
            breaker.tick(now)
        opened = [breaker.opened_until for breaker in breakers if breaker.state is BreakerState.OPEN]
        self.try_again_at = min(opened, default=math.inf)
        self.changed()

    def _failures_needed(self, account: Account, now: float) -> float:
        """Distinct requests that a backend must fail in a row before it is ejected.

        Of the backends that serve a model at most half are ejected at a time: that others fail as well speaks for the
        requests as the cause. One that no other can stand in for takes many, and observe mode refuses nobody for it.
        """
        needed: float = FAILED_MIN
        reading = account.standing.reading
        for model in sorted(reading.models) if reading is not None else ():
            others = [other for other in self.serving(model) if other is not account]
            out = sum(other.standing.health.up and other.standing.breaker.is_out for other in others)
            able = sum(other.is_usable(now) and not other.standing.breaker.is_out for other in others)
            if not able and not out:
                needed = NEVER if self.limits.observe else max(needed, ALONE_MIN)
            elif out + 1 > able:
                return NEVER
        return needed

    def configure(self, event: BackendEvent, now: float) -> None:
        """What the operator wants of a backend. Of one that is not known there is nothing to want."""
        self.changed()
        match event:
            case BackendAdded(spec):
                self._add(spec, now)
            case BackendRemoved(backend=name):
                self._remove(name)
            case BackendChanged(spec):
                if (account := self.find(spec.name)) is not None:
                    account.standing.spec = spec
                    if isinstance(account, HostedAccount):
                        account.allow(spec.limits, now)
            case BackendDraining(backend=name) | BackendResumed(backend=name):
                if (account := self.find(name)) is not None:
                    account.standing.draining = isinstance(event, BackendDraining)
            case _:
                assert_never(event)

    def turn(self, limits: AdmissionLimits, now: float) -> None:
        """Other settings from now on."""
        self.limits = limits
        for engine in self.engines.values():
            engine.turn(limits, now)

    def find(self, name: str) -> Account | None:
        """The books of a backend; None if it is not configured."""
        return self.engines.get(name) or self.hosted.get(name)

    def all(self) -> list[Account]:
        """Every backend's books."""
        return [*self.engines.values(), *self.hosted.values()]

    def serving(self, model: str) -> list[Account]:
        """Backends that serve a model."""
        return self.of(model).accounts

    def engines_serving(self, model: str) -> list[EngineAccount]:
        """Own engines that serve a model and have described their pool."""
        return self.of(model).engines

    def usable(self, model: str) -> frozenset[str]:
        """Names of those that are alive, even if they asked for a pause."""
        return self.of(model).usable

    def engines_of(self, ticket: Ticket) -> list[EngineAccount]:
        """Own engines that serve its model, have described their pool, and have not failed to take it already."""
        engines, excluded = self.of(ticket.model).engines, ticket.excluded
        return [engine for engine in engines if engine.name not in excluded] if excluded else engines

    def providers_of(self, ticket: Ticket) -> list[HostedAccount]:
        """Providers likewise."""
        providers, excluded = self.of(ticket.model).providers, ticket.excluded
        return [account for account in providers if account.name not in excluded] if excluded else providers

    def could_fit(self, ticket: Ticket) -> bool:
        """Whether any backend could ever take the request, be it empty."""
        for engine in self.engines_of(ticket):
            if engine.could_fit(ticket):
                return True
        return bool(self.providers_of(ticket))

    def largest_for(self, ticket: Ticket) -> tuple[EngineAccount | None, int]:
        """The engine that would take the request with the largest output, and that; -1 if its prompt fits none."""
        outputs = [(engine, fit.largest_output(engine.capacity, ticket)) for engine in self.engines_of(ticket)]
        return max(outputs, key=lambda pair: pair[1], default=(None, -1))

    def served(self, model: str) -> ServedModel | None:
        """What others need to know of a model; None if no backend has said that it serves it. Kept until `changed`."""
        shown = self._shown.get(model)
        if shown is None and model in self.models():
            served = self.of(model)
            shown = self._shown[model] = ServedModel(len(served.engines), served.context_tokens)
        return shown

    def models(self) -> frozenset[str]:
        """Models that any backend has said it serves. Kept until `changed`."""
        if self._models is None:
            readings = [account.standing.reading for account in self.all()]
            self._models = frozenset(model for reading in readings if reading is not None for model in reading.models)
        return self._models

    def is_known(self) -> bool:
        """Whether every backend has said what it serves."""
        return all(account.standing.reading is not None for account in self.all())

    def cost_s(self, ticket: Ticket) -> float:
        """Seconds of an engine that a request is expected to take: of the one that would take least."""
        return min([engine.cost_s(ticket) for engine in self.engines_of(ticket)], default=0.0)

    def waits_at_most(self, ticket: Ticket, ahead_work: float, now: float) -> float:
        """Seconds after which one of the engines surely has room, as is predicted: costs less than to predict it."""
        engines = [engine for engine in self.engines_of(ticket) if engine.could_fit(ticket)]
        work = ahead_work / max(1, len(engines))
        return min([engine.wait_s(ticket, work, now, at_most=True) for engine in engines], default=math.inf)

    def tenants(self) -> tuple[TenantSnapshot, ...]:
        """What each tenant's requests hold and have held."""
        seconds = dict(self.gone_kv_token_seconds)
        reserved: dict[str, int] = {}
        for engine in self.engines.values():
            for tenant, used in engine.kv_token_seconds.items():
                seconds[tenant] = seconds.get(tenant, 0.0) + used
            if engine.pool is not None:
                per_block = engine.capacity.layout.block_tokens
                for tenant, blocks in engine.pool.tenant_blocks.items():
                    reserved[tenant] = reserved.get(tenant, 0) + blocks * per_block
        names = sorted(seconds.keys() | reserved.keys())
        return tuple(TenantSnapshot(name, seconds.get(name, 0.0), reserved.get(name, 0)) for name in names)

    def snapshots(self, now: float) -> tuple[BackendSnapshot, ...]:
        """Every backend's state for people and metrics."""
        engines = (snapshot_of(engine, now) for engine in self.engines.values())
        return (*engines, *(provider.snapshot(now) for provider in self.hosted.values()))

    def check(self) -> None:
        """Assert that all books balance."""
        for account in self.all():
            account.check()

    def _add(self, spec: BackendSpec, now: float) -> None:
        self._remove(spec.name)
        standing = Standing.unknown(spec, self.limits)
        if spec.hosted:
            self.hosted[spec.name] = HostedAccount.open(standing, now)
        else:
            self.engines[spec.name] = EngineAccount(standing, self.limits)

    def _remove(self, name: str) -> None:
        self.hosted.pop(name, None)
        if (engine := self.engines.pop(name, None)) is not None:
            for tenant, used in engine.kv_token_seconds.items():
                self.gone_kv_token_seconds[tenant] = self.gone_kv_token_seconds.get(tenant, 0.0) + used
