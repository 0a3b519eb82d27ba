"""PromQL in pieces: the selectors that follow the dashboards' variables, and the few shapes that queries have."""

from __future__ import annotations

JOB = 'job=~"$job"'
MODEL = f'{JOB},model_name=~"$model_name"'
BACKEND = f'{JOB},backend=~"$backend"'
SERVED = f'{MODEL},backend=~"$backend"'
ENGINE = 'model_name=~"$model_name"'
"""vLLM's own series: another job, the same `model_name`."""

BUDGET_REASONS = "headroom|queue_full|queue_timeout|no_backend|stale_telemetry"
"""Reasons for which a refusal is ours: they burn the error budget."""
CALLER_REASONS = "too_large|tenant_limit|client_gone"
"""Reasons that lie with the caller: such requests count neither way."""

INFO = f"max by (job, backend, model_name) (kvgate_backend_info{{{SERVED}}})"
"""Which backend serves which model; one backend may serve several."""
CAPACITY = f"(max by (job, backend) (kvgate_backend_kv_capacity_tokens{{{BACKEND}}}) > 0)"
"""Tokens of each pool, once however many gateways report it; hosted backends have none."""
HEADROOM = f"min by (job, backend) (kvgate_backend_kv_headroom_tokens{{{BACKEND}}})"
RESERVED = f"max by (job, backend) (sum without (kind) (kvgate_backend_kv_reserved_tokens{{{BACKEND}}}))"
OCCUPANCY = "backend:kvgate_kv_occupancy:ratio_rate5m"
BUSY, CROWDED = 0.70, 0.85
"""Mean occupancy above which bursts have to wait, and above which everybody does."""
PREEMPTIONS = f"max by (job, backend) (increase(kvgate_backend_preemptions_total{{{BACKEND}}}[10m]))"
"""Every gateway counts what the engine says: the same preemptions."""
EXHAUSTION_SHOWN_MAX_S = 600
"""Forecasts of more than this are drawn as this: nobody acts on them yet."""
EXHAUSTION_S = (
    f"clamp_max(min by (job, backend) (kvgate_backend_kv_time_to_exhaustion_seconds{{{BACKEND}}}), "
    f"{EXHAUSTION_SHOWN_MAX_S})"
)


def rate(metric: str, selector: str, by: str = "", *, over: str = "$__rate_interval") -> str:
    """Per second, summed by these labels."""
    return f"{_sum(by)} (rate({metric}{{{selector}}}[{over}]))"


def increase(metric: str, selector: str, by: str = "", *, over: str = "$__range") -> str:
    """How many in that time, summed by these labels."""
    return f"{_sum(by)} (increase({metric}{{{selector}}}[{over}]))"


def share(part: str, whole: str) -> str:
    """Part of a whole; nothing where the whole is zero, so that idle looks idle instead of perfect."""
    return f"{part} / ({whole} > 0)"


def quantile(q: float, histogram: str, selector: str, by: str = "") -> str:
    """A quantile of a histogram, over all series of each group."""
    groups = f"{by}, le" if by else "le"
    return f"histogram_quantile({q:g}, {rate(f'{histogram}_bucket', selector, groups)})"


def mean(histogram: str, selector: str, by: str = "") -> str:
    """The mean of what a histogram observed."""
    return share(rate(f"{histogram}_sum", selector, by), rate(f"{histogram}_count", selector, by))


def by_model(expr: str) -> str:
    """Sum a value per (job, backend) over the backends that serve each model."""
    return f"sum by (job, model_name) ({expr} * on (job, backend) group_right () {INFO})"


def _sum(by: str) -> str:
    return f"sum by ({by})" if by else "sum"
