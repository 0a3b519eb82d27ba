"""One engine's state for people and metrics. Looking changes nothing: the same events bring the same commands."""

from __future__ import annotations

from gateway.admission.account import EngineAccount
from gateway.admission.ledger import Pool
from gateway.admission.snapshot import BackendSnapshot, BackendState

SOON_S, LATER_S = 30.0, 300.0
"""Horizons of the forecast that is shown."""


def snapshot_of(account: EngineAccount, now: float) -> BackendSnapshot:
    """The engine as admission accounts for it."""
    pool, reading = account.pool, account.standing.reading
    per_block = pool.capacity.layout.block_tokens if pool else 0
    resident = account.memory.outlook.resident_blocks(now, account.speed.known_or_slow) if account.memory else 0
    draining = pool.draining_blocks if pool else 0
    peak, soon, later = _peaks(account, pool, now) if pool else (0, 0, 0)
    reserved = max(resident, peak)
    headroom = max(0, account.allowed_blocks(now) - reserved - draining) if account.is_ready(now) else 0
    return BackendSnapshot(
        name=account.name,
        state=account.standing.state(now) if pool else BackendState.COLD,
        telemetry=account.telemetry(now),
        hosted=False,
        models=tuple(sorted(reading.models)) if reading else (),
        engine_version=reading.engine_version if reading else "",
        capacity_tokens=pool.capacity.tokens if pool else 0,
        block_tokens=per_block,
        resident_tokens=resident * per_block,
        reserved_tokens=reserved * per_block,
        draining_tokens=draining * per_block,
        foreign_tokens=account.reconciliation.foreign_blocks * per_block,
        held_back_tokens=account.held_back_blocks(now) * per_block,
        headroom_tokens=headroom * per_block,
        observed_tokens=reading.used_blocks * per_block if reading and reading.used_blocks is not None else None,
        requests=len(pool.leases) if pool else 0,
        running=reading.running if reading else None,
        waiting=reading.waiting if reading else None,
        preemptions=account.standing.preemptions,
        telemetry_age_s=now - account.standing.read_at if reading else None,
        drain_timeouts=account.reconciliation.drain_timeouts,
        peak_forecast_30s_tokens=max(resident, soon) * per_block,
        peak_forecast_300s_tokens=max(resident, later) * per_block,
        exhaustion_s=account.trend.until(headroom),
        margin_share=account.margin.share(now),
        kv_token_seconds=sum(account.kv_token_seconds.values()),
        step_s=account.pace.times.step_s(pool.sequences, pool.kv_tokens) if pool else 0.0,
        prompt_token_s=account.pace.times.prompt_token_s,
        prefix_trust=account.cache.trust.share,
        breaker=account.standing.breaker.state,
    )


def _peaks(account: EngineAccount, pool: Pool, now: float) -> tuple[int, int, int]:
    """Most blocks that active leases will hold together: ever, soon, and later."""
    if pool.capacity.overflow_is_fatal:
        return (pool.final_blocks - pool.draining_blocks,) * 3
    assert account.memory is not None
    outlook = account.memory.outlook.copied()
    outlook.refresh(now, account.speed.known_or_slow)
    ever, soon, later = outlook.peak(now), outlook.peak_within(SOON_S, now), outlook.peak_within(LATER_S, now)
    return min(pool.most_blocks, ever), min(pool.most_blocks, soon), min(pool.most_blocks, later)
