"""What a run was worth: goodput, waits, preemptions and memory, from what was recorded of it."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass

from gateway.simulation.policies import Setup
from gateway.simulation.record import Record
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request


@dataclass(frozen=True, slots=True)
class Result:
    """One policy on one workload. NaN where nothing was served."""

    policy: str
    goodput: float
    """Requests that met their SLO, per second of the time in which requests came."""
    attainment: float
    """Part of all requests that met their SLO."""
    refused: int
    """Turned away, or gave up in the gateway's queue."""
    preemptions_per_request: float
    """Of those served."""
    kv_utilisation: float
    """Part of the pools in use, mean over the time in which requests came."""
    ttft_p99_s: float
    tpot_p99_s: float
    wasted: float
    """Part of all computed tokens that had been computed before."""
    decisions: int


def measure(policy: str, record: Record, requests: Many[Request], setup: Setup) -> Result:
    """Sum a finished run up."""
    waits = [wait for wait in waits_s(record, requests) if wait is not None]
    good = sum(served_well(record, requests, setup.slo))
    # The last token is never fed back.
    useful_tokens = sum(
        request.prompt_tokens + request.output_tokens - 1
        for request, ended_s in zip(requests, record.ended_s, strict=True)
        if ended_s is not None
    )
    span_s = requests[-1].arrives_s or max((end for end in record.ended_s if end is not None), default=0.0) or math.nan
    pool_blocks = setup.config.blocks * setup.replicas
    return Result(
        policy,
        goodput=good / span_s,
        attainment=good / len(requests),
        refused=sum(at is not None for at in record.refused_s),
        preemptions_per_request=record.preemptions / len(waits) if waits else math.nan,
        kv_utilisation=record.kv_block_seconds / (pool_blocks * span_s),
        ttft_p99_s=percentile([ttft_s for ttft_s, _ in waits], 0.99),
        tpot_p99_s=percentile([tpot_s for _, tpot_s in waits], 0.99),
        wasted=1 - useful_tokens / record.computed_tokens if record.computed_tokens else math.nan,
        decisions=record.decisions,
    )


def waits_s(record: Record, requests: Many[Request]) -> list[tuple[float, float] | None]:
    """Time to first token and mean time per further token of each request; None if it was not served."""
    waits: list[tuple[float, float] | None] = []
    for request, first_s, ended_s in zip(requests, record.first_token_s, record.ended_s, strict=True):
        if first_s is None or ended_s is None:
            waits.append(None)
        else:
            waits.append((first_s - request.arrives_s, (ended_s - first_s) / max(1, request.output_tokens - 1)))
    return waits


def served_well(record: Record, requests: Many[Request], slo: Slo) -> list[bool]:
    """Which requests met their SLO."""
    return [
        wait is not None and slo.is_met(request.prompt_tokens, *wait)
        for request, wait in zip(requests, waits_s(record, requests), strict=True)
    ]


def percentile(values: Many[float], part: float) -> float:
    """The smallest value that so large a part of them does not exceed; NaN of none."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)] if values else math.nan
