"""A replay from a trace and a few wishes: the engines, the workload at the wanted load, and what that load means."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.simulation.engine import EngineConfig
from gateway.simulation.policies import Setup
from gateway.simulation.profiles import Profile
from gateway.simulation.saturation import saturated_requests_per_s
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request, Trace, TraceError, at_rate, requests_of

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a replay should be like."""

    profile: Profile
    replicas: int = 1
    load: float | None = None
    """Part of the replicas' capacity that is asked for on average; None: requests come as they came."""
    seed: int = 0
    requests_max: int | None = None
    kv_tokens: int | None = None
    """Pool of each replica; None: the profile's."""
    max_tokens_cap: int | None = None
    slo: Slo | None = None
    """None: the profile's."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Ready to be run, once per policy."""

    requests: list[Request]
    setup: Setup
    capacity_requests_per_s: float
    """Of one replica; see `saturation`."""
    load: float
    """Mean rate over the capacity of all replicas."""
    left_out: int
    """Requests that would not fit an empty engine."""


def engine_config(profile: Profile, kv_tokens: int | None = None) -> EngineConfig:
    """An engine of this profile, with its own pool or another.

    Raises:
        ValueError: if the pool has no block.
    """
    blocks = (kv_tokens or profile.kv_tokens) // BLOCK_TOKENS
    context = min(profile.context_tokens, blocks * BLOCK_TOKENS)
    return EngineConfig(profile, blocks, BLOCK_TOKENS, profile.sequences_max, profile.step_tokens_max, context)


def prepare(trace: Trace, wishes: Wishes) -> Replay:
    """Put a replay together.

    Raises:
        TraceError: if no request of the trace fits the engine.
    """
    count = min(len(trace.rows), wishes.requests_max or len(trace.rows))
    config = engine_config(wishes.profile, wishes.kv_tokens)
    requests = requests_of(
        trace,
        count,
        seed=wishes.seed,
        sequence_tokens_max=config.sequence_tokens_max,
        max_tokens_cap=wishes.max_tokens_cap,
    )
    if not requests:
        raise TraceError(f"No request fits an engine that takes {config.sequence_tokens_max:,} tokens.")
    capacity = saturated_requests_per_s(config, requests)
    left_out = count - len(requests)
    whole = capacity * wishes.replicas
    if wishes.load is not None:
        requests = at_rate(requests, wishes.load * whole, copies=wishes.replicas)
    last_s = requests[-1].arrives_s
    load = (len(requests) - 1) / last_s / whole if last_s else 0.0
    setup = Setup(config, wishes.slo or wishes.profile.slo, wishes.replicas, seed=wishes.seed)
    return Replay(requests, setup, capacity, wishes.load if wishes.load is not None else load, left_out)
