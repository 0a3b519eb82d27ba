"""The numbers that go with a refusal: what was needed, what there was, and when a retry would find room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.admission import fit
from gateway.admission.account import EngineAccount
from gateway.admission.queue import Waiting
from gateway.admission.roster import Roster
from gateway.domain import Capacity, Reason, Refusal, Ticket

RETRY_MIN_S = 0.25
RETRY_UNKNOWN_S = 5.0
"""Advice where nothing can be predicted: no backend of the model is known."""
PROMISED_MAX_S = 60.0
"""Clients do not obey a longer wait, so nothing is promised beyond it."""
NEWCOMERS = 1.5
"""Turns are promised so much further apart than they take: others come meanwhile, and take room as well."""
JITTER_SHARE = 0.2
GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class OwnLimit:
    """A limit of the tenant itself that turns its request away."""

    key: str
    """As in `domain.TenantLimits`."""
    most: int
    """What it allows."""
    retry_after_s: float


@dataclass(slots=True)
class Promises:
    """How much work was told to come back, by model (or by tenant), as the time until which it keeps the backends busy.

    Without it, all who are refused in a burst would be sent to the same moment, where one of them finds room.
    """

    until: dict[str, float] = field(default_factory=dict)

    def make(self, model: str, serve_s: float, now: float) -> float:
        """Promise a turn behind those promised before; returns how much later than the present line that is."""
        behind_s = min(PROMISED_MAX_S, max(0.0, self.until.get(model, now) - now))
        self.until[model] = now + behind_s + NEWCOMERS * serve_s
        return behind_s


def refusal(
    waiting: Waiting,
    reason: Reason,
    roster: Roster,
    ahead: tuple[int, float],
    promises: Promises,
    now: float,
    own: OwnLimit | None = None,
) -> Refusal:
    """Put the answer together.

    Args:
        waiting: the request that is turned away.
        reason: why.
        roster: the backends.
        ahead: how many would be served before a retry, and their work in token-steps.
        promises: to those who were turned away before it.
        now: monotonic seconds.
        own: the limit of its tenant that is the reason, if one is.
    """
    if reason is Reason.TOO_LARGE:
        return _too_large(waiting, roster, now)
    engines = roster.engines_of(waiting.ticket)
    largest = _largest(engines)
    return Refusal(
        reason,
        own.retry_after_s if own else _retry_after_s(waiting, engines, roster, ahead[1], promises, now),
        _need_tokens(waiting.ticket, largest),
        _headroom_tokens(engines, now),
        largest.capacity.tokens if largest is not None else 0,
        requests_ahead=ahead[0],
        waited_s=now - waiting.arrived_at,
        tenant_limit=own.key if own else "",
        tenant_limit_max=own.most if own else 0,
    )


@dataclass(slots=True)
class Needs:
    """What those who wait need, as `need_tokens` has it: kept from one look to the next, since they are many."""

    known: dict[int, tuple[Ticket, Capacity, int]] = field(default_factory=dict)
    """By ticket id; of those only who waited at the last look."""

    def look(self, roster: Roster) -> Callable[[Ticket], int]:
        """To be asked for every one who waits now."""
        before, self.known = self.known, {}
        pools: dict[str, Capacity | None] = {}

        def need(ticket: Ticket) -> int:
            if ticket.excluded:
                return need_tokens(ticket, roster)
            if ticket.model not in pools:
                engine = _largest(roster.engines_of(ticket))
                pools[ticket.model] = None if engine is None else engine.capacity
            capacity = pools[ticket.model]
            if capacity is None:
                return 0
            known = before.get(ticket.id)
            if known is None or known[0] is not ticket or known[1] is not capacity:
                known = ticket, capacity, need_tokens(ticket, roster)
            self.known[ticket.id] = known
            return known[2]

        return need


def wait_s(
    waiting: Waiting, roster: Roster, ahead_work: float, now: float, *, engines_only: bool = False
) -> float | None:
    """Predicted seconds until the first backend has room; None where there is nothing to predict from."""
    ticket = waiting.ticket
    providers = [] if engines_only else roster.providers_of(ticket)
    engines = [engine for engine in roster.engines_of(ticket) if engine.could_fit(ticket)]
    if len(engines) == 1 and not providers:
        return engines[0].wait_s(ticket, ahead_work, now)
    waits = [engine.wait_s(ticket, ahead_work / len(engines), now) for engine in engines]
    return min(waits + [provider.wait_s(ticket, now) for provider in providers], default=None)


def need_tokens(ticket: Ticket, roster: Roster) -> int:
    """KV tokens that it is predicted to hold at its end, on the largest backend that may take it."""
    return _need_tokens(ticket, _largest(roster.engines_of(ticket)))


def _need_tokens(ticket: Ticket, engine: EngineAccount | None) -> int:
    return engine.need_blocks(ticket) * engine.capacity.layout.block_tokens if engine is not None else 0


def _largest(engines: list[EngineAccount]) -> EngineAccount | None:
    if len(engines) == 1:
        return engines[0]
    return max(engines, key=lambda engine: engine.capacity.tokens, default=None)


def _too_large(waiting: Waiting, roster: Roster, now: float) -> Refusal:
    engine, largest = roster.largest_for(waiting.ticket)
    need, capacity = fit.excess(engine.capacity, waiting.ticket) if engine is not None else (0, 0)
    return Refusal(
        reason=Reason.TOO_LARGE,
        need_tokens=need,
        headroom_tokens=_headroom_tokens(roster.engines_of(waiting.ticket), now),
        capacity_tokens=capacity,
        largest_max_tokens=max(0, largest),
        waited_s=now - waiting.arrived_at,
    )


def _headroom_tokens(engines: list[EngineAccount], now: float) -> int:
    return max([engine.headroom_blocks(now) * engine.capacity.layout.block_tokens for engine in engines], default=0)


def _retry_after_s(
    waiting: Waiting,
    engines: list[EngineAccount],
    roster: Roster,
    ahead_work: float,
    promises: Promises,
    now: float,
) -> float:
    ticket = waiting.ticket
    predicted = wait_s(waiting, roster, ahead_work, now)
    base = RETRY_UNKNOWN_S
    if predicted is not None:
        rates = [1 / engine.serve_s(waiting.work, now) for engine in engines if engine.is_ready(now)]
        serve_s = 1 / sum(rates) if rates else 0.0
        base = max(predicted + promises.make(ticket.model, serve_s, now), RETRY_MIN_S)
    # Clients that were refused together must not come back together. The golden ratio spreads successive ids evenly.
    return base * (1 + JITTER_SHARE * (ticket.id * GOLDEN_RATIO % 1))
