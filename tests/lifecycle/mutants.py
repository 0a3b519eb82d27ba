"""Planted bugs: small changes of the books, each of which the simulation or a property test must notice."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType

from gateway import fleet, gate, relay
from gateway.admission import (
    account,
    admission,
    forecast,
    hosted,
    ledger,
    memory,
    pace,
    queue,
    reconcile,
    roster,
    serving,
)
from gateway.backends import exchange
from gateway.routing import breaker


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: in one method, one piece of text is another one."""

    name: str
    owner: type
    method: str
    old: str
    new: str

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The bug is there while the block runs.

        Raises:
            LookupError: the method does not hold the old text exactly once: it has changed, and so must the mutant.
        """
        original = self.owner.__dict__[self.method]
        assert isinstance(original, FunctionType)
        source = textwrap.dedent(inspect.getsource(original))
        if source.count(self.old) != 1:
            raise LookupError(f"{self.name}: {self.owner.__qualname__}.{self.method} has no single {self.old!r}")
        changed: dict[str, FunctionType] = {}
        code = compile("from __future__ import annotations\n" + source.replace(self.old, self.new), self.name, "exec")
        exec(code, original.__globals__, changed)
        setattr(self.owner, self.method, changed[self.method])
        try:
            yield
        finally:
            setattr(self.owner, self.method, original)


MUTANTS = (
    # Who is told, and who leaves
    Mutant(
        "a client that leaves in the tick of its grant keeps the place",
        gate.Gate,
        "admit",
        "if not is_told and not isinstance(waiter.answer, Refuse)",
        "if not is_told and waiter.answer is None",
    ),
    Mutant(
        "a client that leaves the queue stays in it",
        gate.Gate,
        "admit",
        "if not is_told and not isinstance(waiter.answer, Refuse)",
        "if not is_told and waiter.answer is not None and not isinstance(waiter.answer, Refuse)",
    ),
    Mutant(
        "a client that was refused in the tick in which it left is released too",
        gate.Gate,
        "admit",
        "if not is_told and not isinstance(waiter.answer, Refuse)",
        "if not is_told",
    ),
    Mutant("a place is released twice", gate.Place, "end", "if not self.ended", "if not self.ended or usage is None"),
    Mutant(
        "the exit of a place forgets to release",
        gate._Entering,
        "__aexit__",
        "self._place.end(",
        "kind is None and self._place.end(",
    ),
    Mutant(
        "a client that leaves frees memory that the engine may still use",
        gate._Entering,
        "__aexit__",
        "Outcome.CANCELLED if self._place.sent",
        "Outcome.FINISHED if self._place.sent",
    ),
    Mutant("a place that was left stays in the gate's list", gate.Gate, "left", "del self._places[place.id]", "pass"),
    Mutant(
        "a retry keeps its first place",
        relay.Relay,
        "_note_failure",
        "place.end(Outcome.NOT_SENT, failure=trip.name)",
        "setattr(place, 'ended', True)",
    ),
    Mutant(
        "a waiter is told twice",
        serving.Serving,
        "_serve",
        "commands.append(command)",
        "commands += [command, command]",
    ),
    Mutant(
        "who is admitted stays in the queue",
        serving.Serving,
        "_sent",
        "self._queue.pop(ticket.id)\n",
        "best.late and self._queue.pop(ticket.id)\n",
    ),
    Mutant(
        "an expired request is forgotten without an answer",
        serving.Serving,
        "serve_all",
        "commands.append(self.turn_away(waiting, reason, now))",
        "pass",
    ),
    Mutant(
        "nobody wakes up when a deadline passes",
        admission.Admission,
        "next_timer",
        "due = min(due, account.next_look(self._now))",
        "due = account.next_look(self._now) if account.pool else due",
    ),
    Mutant(
        "an end is looked up by name after a restart",
        account.EngineAccount,
        "end",
        "lease.pool.end(lease, outcome, now, generated=generated)",
        "self.pool is not None and self.pool.end(lease, outcome, now, generated=generated)",
    ),
    # The ledger's sums
    Mutant(
        "an ended lease stays in its pool",
        ledger.Pool,
        "end",
        "del self.leases[ticket.id]",
        "self.leases.pop(lease.ticket.id) if outcome is not Outcome.REFUSED else None",
    ),
    Mutant("most_blocks is not given back", ledger.Pool, "end", "self.most_blocks -= lease.most_blocks", "pass"),
    Mutant("kv_tokens are not subtracted", ledger.Pool, "end", "self.kv_tokens -= lease.shown_tokens", "pass"),
    Mutant(
        "intervals_s keeps a promise that has ended",
        ledger.Pool,
        "end",
        "intervals_s[interval_s] -= 1",
        "self.intervals_s[interval_s] -= outcome.proves_memory_is_free",
    ),
    Mutant("sequences count for ever", ledger.Pool, "end", "self.sequences -= sequences", "self.sequences -= 1"),
    Mutant("a tenant's share is not given back", ledger.Pool, "_close", "self._charge_share(lease, 0)", "pass"),
    Mutant(
        "a lease that ends keeps one block",
        ledger.Pool,
        "_close",
        "self._set_final(lease, 0)",
        "self._set_final(lease, min(1, lease.final_blocks))",
    ),
    Mutant(
        "draining memory counts nowhere",
        ledger.Pool,
        "end",
        "self.draining_blocks += lease.final_blocks",
        "pass",
    ),
    Mutant(
        "a drained lease is freed twice",
        ledger.Pool,
        "free",
        "if lease.state is LeaseState.DRAINING]",
        "if lease is not None]",
    ),
    Mutant(
        "progress that is told again counts again",
        ledger.Pool,
        "progress",
        "self.kv_tokens += output_tokens - lease.output_tokens",
        "self.kv_tokens += output_tokens",
    ),
    Mutant(
        "a pool of another size keeps the old prices",
        ledger.Pool,
        "resize",
        "self.draining_blocks = sum(lease.final_blocks for lease in self.draining)",
        "self.draining_blocks = self.draining_blocks + 1",
    ),
    Mutant(
        "the outlook keeps the row of who has left",
        memory.Memory,
        "end",
        "self.outlook.remove(lease.ticket.id)",
        "outcome.proves_memory_is_free and self.outlook.remove(lease.ticket.id)",
    ),
    Mutant(
        "the outlook keeps the second row of who has left",
        forecast.Outlook,
        "remove",
        "self._gone += rows",
        "self._gone += rows[:1]",
    ),
    # What only a look may confirm
    Mutant(
        "a drain never ends",
        reconcile.Reconciliation,
        "_settle_drains",
        "if not ended:",
        "if ended or not ended:",
    ),
    Mutant(
        "a drain that is overdue is nobody's",
        reconcile.Reconciliation,
        "_settle_drains",
        "self.foreign_blocks += sum(lease.final_blocks for lease in overdue)",
        "self.foreign_blocks -= sum(lease.final_blocks for lease in overdue)",
    ),
    Mutant(
        "memory of somebody else is never found",
        reconcile.Reconciliation,
        "_find_foreign",
        "self.foreign_blocks = over",
        "self.foreign_blocks = 0",
    ),
    # Lines, providers, backends
    Mutant(
        "a request that leaves its line still counts for its tenant",
        queue.Line,
        "pop",
        "self.tenants[tenant] -= 1",
        "self.tenants[tenant] -= waiting.ticket.kv_share < 1",
    ),
    Mutant(
        "the deadline of who has left comes up again",
        queue.Queue,
        "_is_current",
        "waiting is not None and waiting.ticket.deadline == deadline",
        "True",
    ),
    Mutant("a provider's lease stays open", hosted.HostedAccount, "end", "del self.leases[lease.ticket.id]", "pass"),
    Mutant(
        "a prompt that was never read counts as being read",
        pace.Pace,
        "gone",
        "self._read(ticket_id)",
        "self.reading.get(ticket_id)",
    ),
    Mutant(
        "a request that tells nothing of its backend blocks it for others",
        breaker.Breaker,
        "ended",
        "self._probes.pop(ticket_id, None)",
        "pass",
    ),
    Mutant(
        "a backend that was ejected is never tried again",
        breaker.Breaker,
        "tick",
        "now >= self.opened_until",
        "False",
    ),
    Mutant(
        "a backend that was removed keeps its books",
        roster.Roster,
        "_remove",
        "self.engines.pop(name, None)",
        "self.engines.get(name)",
    ),
    Mutant(
        "a backend is removed while somebody is on it",
        gate.Gate,
        "vacated",
        "while self._is_taken(backend):",
        "while False:",
    ),
    # Connections and answers
    Mutant(
        "a broken connection looks like the end of the stream",
        exchange.Exchange,
        "lost",
        'self._fail(FailureKind.TRUNCATED, "the response ended before its end")',
        "self._end()",
    ),
    Mutant(
        "a stream without its end passes for a whole one",
        relay.Relay,
        "_stream",
        "if not watch.done and not watch.failed:",
        "if False:",
    ),
    Mutant(
        "an answer is not unfollowed",
        relay.Relay,
        "_forward",
        "self._pricing.unfollow(answer)",
        "pass",
    ),
    Mutant(
        "a request that may have started is sent to a second backend",
        relay.Relay,
        "_carry",
        "if error.request_sent or failure is not None",
        "if failure is not None",
    ),
    Mutant(
        "who takes nothing is waited for",
        relay.Relay,
        "_answer",
        "await taken(sink.answer(body, self._headers(trip)))",
        "await sink.answer(body, self._headers(trip))",
    ),
    Mutant(
        "a backend that was removed is still looked at",
        fleet.Fleet,
        "_gone",
        "self._pollers.pop(name).cancel()",
        "self._pollers.pop(name)",
    ),
)
"""Not counted: what only makes the gateway slower or more careful, as nothing is lost by it."""
