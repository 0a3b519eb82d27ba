"""What this gateway holds of one engine, in the words in which gateways tell each other.

Several gateways in front of one engine keep one sum together: the predicted peaks of all must fit the pool. The sum of
peaks is never less than the peak of the sum, so that is on the safe side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway.admission.account import EngineAccount
from gateway.admission.ledger import Pool
from gateway.admission.queue import Queue
from gateway.admission.reconcile import explain
from gateway.domain import Reading, Reason


@dataclass(frozen=True, slots=True)
class Holding:
    """One engine, as of now. In blocks of its pool."""

    blocks: int
    """The most that all requests sent from here will hold together, but for the accepted risk."""
    sequences: int
    """Of these requests."""
    room_blocks: int
    """What all gateways together may fill."""
    allowed_blocks: int
    """What this one may, as far as it knows."""
    wanted_blocks: int = 0
    """What the request needs that waits for room here and goes next; 0 where there is none, or room for it."""
    waited_s: float = 0.0
    """For how long that one has waited."""
    resident_blocks: int | None = None
    """The most that requests sent from here may hold right now: explains the gauge of the engine to the others. None
    where it was not asked for: to know it, each request is looked at."""


def holding_of(engine: EngineAccount, queue: Queue, now: float, *, closely: bool) -> Holding | None:
    """None where the engine has not described its pool yet."""
    pool = engine.pool
    if pool is None:
        return None
    blocks, allowed = engine.reserved_blocks(now), engine.allowed_blocks(now)
    room = max(0, engine.room_blocks(now))
    wanted, waited_s = _wanted(engine, queue, now)
    return Holding(
        blocks=blocks,
        sequences=pool.sequences,
        room_blocks=room,
        allowed_blocks=allowed,
        wanted_blocks=min(wanted, room) if blocks + wanted > allowed else 0,
        waited_s=waited_s,
        resident_blocks=_resident_blocks(engine, pool, now) if closely else None,
    )


def _resident_blocks(engine: EngineAccount, pool: Pool, now: float) -> int:
    after_all = Reading(engine.name, math.inf, frozenset())
    return explain(pool, after_all, now, engine.speed.known_or_slow).blocks + pool.draining_blocks


def _wanted(engine: EngineAccount, queue: Queue, now: float) -> tuple[int, float]:
    """Need and wait of the request that goes next; of several models' that which has waited longest."""
    heads = [queue.head(model, now) for model in queue.models() if engine.standing.serves(model)]
    heads = [head for head in heads if engine.name not in head.ticket.excluded and head.lack is not Reason.TENANT_LIMIT]
    if not heads or not engine.is_ready(now):
        return 0, 0.0
    oldest = min(heads, key=lambda head: head.arrived_at)
    return engine.need_blocks(oldest.ticket), now - oldest.arrived_at
