"""What admission would do with a request now, and the numbers behind it: a dry run, after which nothing has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never

from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.commands import Admit, Command, Refuse
from gateway.admission.queue import Queue
from gateway.admission.refusals import wait_s
from gateway.admission.roster import Roster
from gateway.domain import Reason, Ticket

Decision = Literal["admit", "queue", "refuse", "never_fits"]


@dataclass(frozen=True, slots=True)
class KvNeed:
    """KV tokens of one request on one backend, in whole blocks, over all its sequences."""

    now: int
    """Once its prompts are read."""
    expected: int
    """At its predicted end, but for the accepted risk: what is reserved for it."""
    max: int
    """At its hard end."""
    expected_bytes: int | None
    """Of `expected`, on one GPU; None where the layout of the cache is not known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would happen to a request that came now."""

    decision: Decision
    reason: Reason
    """As the request itself would be told; for one that would wait, what it would wait for."""
    backend: str = ""
    """Where it would go; empty if nowhere yet."""
    need: KvNeed | None = None
    """On that backend, or on the largest that may take it; None where no own engine may."""
    headroom_tokens: int | None = None
    """Largest headroom among own engines that may take it, before it comes; None where there is none."""
    wait_s: float | None = None
    """Predicted wait for room of a request that would wait; None where nothing can be predicted."""
    retry_after_s: float | None = None
    """For a refusal: when a retry would be admitted."""
    largest_max_tokens: int | None = None
    """Largest `max_tokens` with which the prompt would fit the largest engine, were it empty; 0 if none does."""


def consider(
    ticket: Ticket, roster: Roster, queue: Queue, arrive: Callable[[], Sequence[Command]], now: float
) -> Verdict:
    """Let the request arrive and tell what came of it.

    Args:
        ticket: the request.
        roster: of a rehearsal.
        queue: of the same.
        arrive: lets the ticket arrive there.
        now: monotonic seconds.
    """
    headroom = _headroom_tokens(ticket, roster, now)
    answer = next((command for command in arrive() if command.ticket_id == ticket.id), None)
    backend = answer.backend if isinstance(answer, Admit) else ""
    engine, largest = roster.largest_for(ticket)
    verdict = partial(
        Verdict,
        need=_need(ticket, backend, roster),
        headroom_tokens=headroom,
        largest_max_tokens=None if engine is None else max(0, largest),
    )
    match answer:
        case Admit(reason=reason):
            return verdict("admit", reason, backend=backend)
        case Refuse(refusal=refusal):
            decision: Decision = "never_fits" if refusal.reason is Reason.TOO_LARGE else "refuse"
            return verdict(decision, refusal.reason, retry_after_s=refusal.retry_after_s)
        case None:
            waiting = queue.by_id[ticket.id]
            predicted_s = wait_s(waiting, roster, queue.ahead_of(waiting, now)[1], now)
            return verdict("queue", waiting.lack, wait_s=predicted_s)
    assert_never(answer)


def _headroom_tokens(ticket: Ticket, roster: Roster, now: float) -> int | None:
    engines = roster.engines_of(ticket)
    return max((engine.headroom_blocks(now) * engine.capacity.layout.block_tokens for engine in engines), default=None)


def _need(ticket: Ticket, backend: str, roster: Roster) -> KvNeed | None:
    engine = roster.find(backend)
    if engine is None:
        engine = max(roster.engines_of(ticket), key=lambda engine: engine.capacity.tokens, default=None)
    if not isinstance(engine, EngineAccount):
        return None
    capacity = engine.capacity
    layout = capacity.layout
    first = fit.blocks_at(capacity, ticket, min(1, ticket.demand.output_tokens_max))
    expected = engine.need_blocks(ticket)
    return KvNeed(
        now=first * layout.block_tokens,
        expected=expected * layout.block_tokens,
        max=fit.most_growth(capacity, ticket) * layout.block_tokens,
        expected_bytes=expected * layout.bytes_per_block or None,
    )
