"""The auditor of a run: admission's books against a plain list of who was told what, after each step and at the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from gateway.admission.account import EngineAccount
from gateway.admission.admission import Admission
from gateway.admission.commands import Admit, Command
from gateway.admission.events import Arrived, BackendMissed, BackendRead, BackendRemoved, Event, Left
from gateway.admission.ledger import Lease, LeaseState, Pool
from gateway.domain import Outcome
from gateway.gate import Gate
from gateway.routing.breaker import BreakerState
from tests.lifecycle.engines import Server
from tests.lifecycle.job import Fates, Note

UNACCOUNTED_MAX = 4
"""Honest looks in a row that may show memory which the books do not explain: foreign memory takes three to be one."""

LATE_S = 0.01
EVENT_SHOWN = 120


class BooksError(AssertionError):
    """Something does not add up."""


class Auditor:
    """Hears of every step of admission.

    Args:
        servers: the engines, to compare with; empty where telemetry lies.
        fates: what runs where.
        note: writes into the trace.
        on_arrived: told the name of a request that has asked, and whether it waits.
        on_told: told the name of one that was admitted (or else refused), in that very tick.
        on_problem: told what does not add up.
    """

    def __init__(
        self,
        admission: Admission,
        servers: Mapping[str, Server],
        fates: Fates,
        note: Note,
        on_arrived: Callable[[str, bool], None],
        on_told: Callable[[str, bool], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._admission = admission
        self._servers = servers
        self._fates = fates
        self._note = note
        self._on_arrived, self._on_told, self._on_problem = on_arrived, on_told, on_problem
        self.names: dict[int, str] = {}
        """Whose ticket it is."""
        self.waiting: set[int] = set()
        self.admitted: set[int] = set()
        self.ends: Counter[int] = Counter()
        self._deadlines: dict[int, float] = {}
        self.pools: dict[int, Pool] = {}
        """Every generation of every engine, by identity."""
        self._leases: dict[int, Lease] = {}
        self._draining: list[Lease] = []
        self._unaccounted: Counter[str] = Counter()

    def on_decision(self, duration_s: float) -> None:
        """Takes no time here."""

    def on_admission(self, now: float, event: Event | None, commands: Sequence[Command]) -> None:
        """Compare after a step."""
        if event is not None:
            self._note(type(event).__name__, event)
        try:
            told = self._follow(event, commands, now)
            self._compare(event)
            if isinstance(event, BackendRead):
                self._look_at(event.reading.backend)
        except AssertionError as error:
            self._on_problem(f"{error!r} after {str(event)[:EVENT_SHOWN]}")
            return
        # Last, as these interfere.
        if isinstance(event, Arrived):
            self._on_arrived(self.names[event.ticket.id], event.ticket.id in self.waiting)
        for ticket_id, granted in told.items():
            self._on_told(self.names[ticket_id], granted)

    def _follow(self, event: Event | None, commands: Sequence[Command], now: float) -> dict[int, bool]:
        """Write down who came, who went, who was told what; returns the latter, and whether it was admitted."""
        self._came_or_went(event, now)
        told = {}
        for command in commands:
            ticket_id = command.ticket_id
            self._note("told", (self.names.get(ticket_id), command))
            if ticket_id not in self.waiting:
                raise BooksError(f"{self.names.get(ticket_id)} was told though it did not wait: {command}")
            self.waiting.remove(ticket_id)
            told[ticket_id] = isinstance(command, Admit)
            if now > self._deadlines[ticket_id] + LATE_S:
                raise BooksError(f"{self.names[ticket_id]} was told {now - self._deadlines[ticket_id]} s too late")
            if isinstance(command, Admit):
                self.admitted.add(ticket_id)
                account = self._admission._roster.find(command.backend)
                if account is None or account.standing.breaker.state is BreakerState.OPEN:
                    raise BooksError(f"{self.names[ticket_id]} was sent to {command.backend}, which is ejected")
                if (held := self._admission._at_engine.get(ticket_id)) is not None:
                    self._leases[ticket_id] = held[1]
        return told

    def _came_or_went(self, event: Event | None, now: float) -> None:
        match event:
            case Arrived(ticket):
                task = asyncio.current_task()
                assert task is not None
                if ticket.id in self.names:
                    raise BooksError(f"ticket {ticket.id} came twice")
                self.names[ticket.id] = task.get_name()
                self.waiting.add(ticket.id)
                self._deadlines[ticket.id] = max(ticket.deadline, now)
            case Left(ticket_id, outcome):
                self._left(ticket_id, outcome)
            case BackendRemoved(name):
                if any(account.name == name for account, _ in self._admission._at_engine.values()):
                    raise BooksError(f"{name} was removed with requests on it")
            case _:
                pass

    def _left(self, ticket_id: int, outcome: Outcome) -> None:
        self.ends[ticket_id] += 1
        if ticket_id in self.waiting:
            self.waiting.remove(ticket_id)
            return
        if ticket_id not in self.admitted:
            raise BooksError(f"{self.names.get(ticket_id)} left without being there")
        self.admitted.remove(ticket_id)
        jobs = self._fates.asked.get(self.names[ticket_id], ())
        if outcome.proves_memory_is_free and any(job.is_alive for job in jobs):
            raise BooksError(f"{self.names[ticket_id]} ended as {outcome}, and its engine works on it")
        if (lease := self._leases.pop(ticket_id, None)) is None:
            return
        wanted = LeaseState.RELEASED if outcome.proves_memory_is_free else LeaseState.DRAINING
        if lease.state is not wanted:
            raise BooksError(f"{self.names[ticket_id]} ended as {outcome}, its lease is {lease.state}")
        if wanted is LeaseState.DRAINING:
            self._draining.append(lease)

    def _compare(self, event: Event | None) -> None:
        admission = self._admission
        admission.check()
        held = admission._at_engine.keys() | admission._at_provider.keys()
        if held != self.admitted:
            raise BooksError(f"books hold {sorted(held)}, admitted are {sorted(self.admitted)}")
        if admission._queue.by_id.keys() != self.waiting:
            raise BooksError(f"queue {sorted(admission._queue.by_id)}, waiting {sorted(self.waiting)}")
        for account in admission._roster.all():
            if lost := account.standing.breaker._probes.keys() - self.admitted:
                raise BooksError(f"{account.name} waits for probes that have ended: {sorted(lost)}")
        if admission._double_releases:
            raise BooksError("a double release")
        self._compare_leases(event)

    def _compare_leases(self, event: Event | None) -> None:
        admission = self._admission
        if any(lease.state is not LeaseState.ACTIVE for lease in self._leases.values()):
            raise BooksError("a lease ended before its request")
        released = [lease for lease in self._draining if lease.state is LeaseState.RELEASED]
        if released:
            if not isinstance(event, BackendRead | BackendMissed):
                raise BooksError(f"{event} gave free what only a look can")
            self._draining = [lease for lease in self._draining if lease.state is not LeaseState.RELEASED]
        for model, line in admission._queue.by_model.items():
            if sum(line.tenants.values()) != len(line.waiting) or not line.waiting:
                raise BooksError(f"tenants {line.tenants} of {len(line.waiting)} who wait for {model}")
        for account in admission._roster.engines.values():
            if account.pool is not None:
                self.pools[id(account.pool)] = account.pool
                _not_negative(account, account.pool)

    def _look_at(self, name: str) -> None:
        """What an engine holds is explained by now: by leases, by ends not confirmed, or as somebody else's."""
        server, account = self._servers.get(name), self._admission._roster.engines.get(name)
        if server is None or account is None or account.pool is None:
            return
        pool, limits = account.pool, account.limits
        tolerance = int(limits.foreign_tolerance * pool.capacity.blocks)
        explained = pool.most_blocks + pool.draining_blocks + account.reconciliation.foreign_blocks
        is_over = server.engine.used_blocks > explained + tolerance
        self._unaccounted[name] = self._unaccounted[name] + 1 if is_over else 0
        if self._unaccounted[name] > UNACCOUNTED_MAX:
            raise BooksError(f"{name} holds {server.engine.used_blocks} blocks, {explained} are explained")

    # At the end

    def leaks(self, gate: Gate) -> list[str]:
        """What is left when everybody has gone and every engine is idle."""
        found = {
            "waiting": len(self.waiting),
            "admitted": len(self.admitted),
            "waiters of the gate": len(gate._waiting),
            "places of the gate": len(gate._places),
            "queue": len(self._admission._queue),
            "deadline": self._admission._queue.next_deadline() or 0,
            "ended more than once": sum(count > 1 for count in self.ends.values()),
        }
        for pool in self.pools.values():
            pool.check()
            found[f"leases of generation {pool.generation}"] = len(pool.leases)
        for name, account in self._admission._roster.engines.items():
            found |= {f"{what} of {name}": count for what, count in _left_over(account).items()}
        for backend in self._admission.snapshot().backends:
            found[f"breakers of {backend.name} still open"] = backend.breaker is BreakerState.OPEN
        for name, provider in self._admission._roster.hosted.items():
            found[f"leases of {name}"] = len(provider.leases)
        return [f"{count} {what}" for what, count in found.items() if count]


def _not_negative(account: EngineAccount, pool: Pool) -> None:
    counts = {
        "sequences": pool.sequences,
        "final_blocks": pool.final_blocks,
        "most_blocks": pool.most_blocks,
        "draining_blocks": pool.draining_blocks,
        "kv_tokens": pool.kv_tokens,
        "foreign_blocks": account.reconciliation.foreign_blocks,
        "tenant_blocks": min(pool.tenant_blocks.values(), default=0),
    }
    if negative := {name: count for name, count in counts.items() if count < 0}:
        raise BooksError(f"negative: {negative}")
    outlook = account.memory.outlook if account.memory is not None else None
    if outlook is not None and outlook._rows.keys() != pool.leases.keys():
        raise BooksError(f"the outlook knows {sorted(outlook._rows)}, the pool {sorted(pool.leases)}")
    if outlook is not None and len(outlook._owners) != sum(map(len, outlook._rows.values())) + len(outlook._gone):
        raise BooksError("the outlook has rows of nobody")


def _left_over(account: EngineAccount) -> dict[str, int]:
    pool = account.pool
    if pool is None:
        return {}
    return {
        "leases": len(pool.leases),
        "draining": len(pool.draining),
        "sequences": pool.sequences,
        "final_blocks": pool.final_blocks,
        "most_blocks": pool.most_blocks,
        "draining_blocks": pool.draining_blocks,
        "foreign_blocks": account.reconciliation.foreign_blocks,
        "kv_tokens": pool.kv_tokens,
        "tenant_blocks": len(pool.tenant_blocks),
        "intervals_s": len(pool.intervals_s),
        "prompts of the pace": len(account.pace.reading),
    }
