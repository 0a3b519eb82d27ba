"""The metrics contract as data: every family that is exported, with its exact name, type, labels, values and buckets.

A name, type or label changes only with an entry in the changelog. Model labels come from the configuration or from what
a configured backend lists, never from a request. No label ever holds a user, key, session, path or URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "kvgate_"
OTHER = "other"
"""Stands for label values that are not known, or too many."""
NO_BACKEND = "none"
"""The backend of a request that reached none."""

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""Endpoints whose series exist from the start; the others' come with their first request."""
OUTCOMES = ("admitted", "rejected", "evicted")
"""`evicted`: left the queue unserved."""
PRIORITIES = ("interactive", "standard", "batch")
PHASES = ("queued", "prefill", "decode")
UPSTREAM_REASONS = ("connect", "timeout", "reset", "http_5xx", "http_429", "protocol")
TELEMETRY_REASONS = ("connect", "timeout", "parse", "missing_metric")
STATES = ("ready", "cold", "draining", "ejected", "sleeping")
KV_KINDS = ("resident", "predicted")
PREDICTION_KINDS = ("prompt", "output")
PREDICTION_RESULTS = ("covered", "exceeded")
DECISIONS = (
    ("admitted", "ok"),
    ("admitted", "ok_after_wait"),
    ("rejected", "headroom"),
    ("rejected", "queue_full"),
    ("rejected", "queue_timeout"),
    ("rejected", "no_backend"),
    ("rejected", "stale_telemetry"),
    ("rejected", "too_large"),
    ("rejected", "tenant_limit"),
    ("rejected", "shutdown"),
    ("evicted", "queue_timeout"),
    ("evicted", "no_backend"),
    ("evicted", "stale_telemetry"),
    ("evicted", "tenant_limit"),
    ("evicted", "client_gone"),
    ("evicted", "shutdown"),
)
"""Outcome and reason as they occur together. Observe mode adds `admitted` with the reason that would have refused."""
HORIZONS = ("30s", "300s")
"""How far the forecasts of a pool look."""
LEVELS = (0.5, 0.9, 0.99)
"""Quantiles of a forecast whose coverage is measured."""
QUOTA_UNITS = ("requests", "tokens")
SOURCES = ("metrics", "nvml", "kv_events", "headers")
LEDGER_MODES = ("local", "shared", "degraded")
LEDGER_OPS = ("acquire", "release", "renew", "usage")
GRPC_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""All that there are; the series of most come with their first stream."""

LATENCY_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
"""vLLM's own buckets, so that both can be laid over each other; so are the next."""
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
WAIT_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
RATIO = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)
DECISION_S = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1)
RETRY_AFTER_S = (0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60)
SCRAPE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)
STORE_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
LAG_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


SUFFIXES = {
    "token_seconds": "token-seconds",
    "timestamp_seconds": "unix seconds",
    "seconds": "seconds",
    "bytes": "bytes",
    "tokens": "tokens",
    "ratio": "ratio",
    "requests": "requests",
}
"""Ends of names that tell the unit, longest first. A ratio is 1 for all, never percent."""
UNITS = {
    "requests_in_flight": "requests",
    "client_disconnects_total": "requests",
    "upstream_errors_total": "failures",
    "upstream_retries_total": "retries",
    "admission_decisions_total": "requests",
    "admission_queue_depth": "requests",
    "admission_queue_limit": "requests",
    "backend_preemptions_total": "preemptions",
    "telemetry_errors_total": "reads",
    "prediction_outcomes_total": "requests",
    "tenant_admission_decisions_total": "requests",
    "label_overflow_total": "events",
    "ledger_leases_expired_total": "leases",
    "ext_proc_streams_in_flight": "streams",
    "ext_proc_streams_total": "streams",
}
"""Units of names that count things and say so in the plural, as is usual, instead of at their end."""
FLAGS = ("backend_up", "backend_state", "config_last_reload_successful", "ledger_mode", "ledger_store_up")
"""1 or 0: no unit. So are the `_info` metrics, which are always 1."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family."""

    name: str
    """Without `PREFIX`."""
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """What one counts: the last words of the name, or `UNITS` where it names no unit; empty for flags."""
        stem = f"_{self.name.removesuffix('_total')}"
        return next((unit for end, unit in SUFFIXES.items() if stem.endswith(f"_{end}")), UNITS.get(self.name, ""))


def _counter(name: str, labels: str, text: str) -> Family:
    return Family(name, "counter", tuple(labels.split()), text)


def _gauge(name: str, labels: str, text: str) -> Family:
    return Family(name, "gauge", tuple(labels.split()), text)


def _histogram(name: str, labels: str, text: str, buckets: tuple[float, ...]) -> Family:
    return Family(name, "histogram", tuple(labels.split()), text, buckets)


REQUEST = (
    _counter("requests_total", "endpoint model_name backend code", "API requests answered, by HTTP status."),
    _histogram(
        "request_duration_seconds", "endpoint model_name backend", "Arrival to last byte, queue included.", LATENCY_S
    ),
    _histogram(
        "time_to_first_token_seconds",
        "model_name backend",
        "Arrival to first token, queue included (streaming).",
        FIRST_TOKEN_S,
    ),
    _histogram(
        "time_per_output_token_seconds",
        "model_name backend",
        "Per request mean time per output token after the first.",
        PER_TOKEN_S,
    ),
    _gauge("requests_in_flight", "model_name backend priority", "Requests dispatched and not finished."),
    _gauge("oldest_in_flight_age_seconds", "backend", "Age of the oldest dispatched request; 0 without any."),
    _counter("prompt_tokens_total", "model_name backend", "Prompt tokens reported by the backend."),
    _counter("cached_prompt_tokens_total", "model_name backend", "Prompt tokens served from prefix cache."),
    _counter("generation_tokens_total", "model_name backend", "Generated tokens."),
    _counter("client_disconnects_total", "model_name phase", "Clients that left before the end."),
    _counter("upstream_errors_total", "backend reason", "Backend failures."),
    _counter(
        "upstream_retries_total", "backend reason", "Requests sent again to another backend before the first byte."
    ),
)
ADMISSION = (
    _counter("admission_decisions_total", "model_name priority outcome reason", "Terminal outcome, once per request."),
    _counter(
        "admission_tokens_total", "model_name priority outcome", "Predicted KV tokens of the requests decided on."
    ),
    _gauge("admission_queue_depth", "model_name priority", "Requests waiting for headroom."),
    _gauge("admission_queue_tokens", "model_name priority", "Predicted KV tokens waiting for headroom."),
    _gauge("admission_oldest_wait_seconds", "model_name priority", "Age of the head of the queue; 0 when empty."),
    _gauge("admission_queue_limit", "model_name", "Configured queue length."),
    _histogram("admission_queue_wait_seconds", "model_name priority outcome", "Enqueue to terminal outcome.", WAIT_S),
    _histogram("admission_decision_duration_seconds", "", "Time that one decision takes.", DECISION_S),
    _histogram("retry_after_seconds", "model_name", "Retry-After sent with rejections.", RETRY_AFTER_S),
)
BACKEND = (
    _gauge("backend_info", "backend model_name kind engine_version", "Always 1."),
    _gauge("backend_up", "backend", "1 if the backend passed its last health check."),
    _gauge("backend_state", "backend state", "1 for the state it is in, 0 for the others."),
    _gauge("backend_kv_capacity_tokens", "backend", "KV pool size in tokens."),
    _gauge("backend_kv_reserved_tokens", "backend kind", "Ledger: tokens held, and tokens predicted beyond them."),
    _gauge("backend_kv_observed_tokens", "backend", "Engine telemetry: tokens in use; NaN if it does not say."),
    _gauge("backend_kv_external_tokens", "backend", "Observed tokens that the ledger cannot explain."),
    _gauge("backend_kv_headroom_tokens", "backend", "Tokens admission would still accept now."),
    _gauge(
        "backend_kv_peak_forecast_tokens",
        "backend horizon",
        "Forecast maximum of the tokens that admitted requests hold inside the horizon.",
    ),
    _gauge(
        "backend_kv_time_to_exhaustion_seconds",
        "backend",
        "Forecast time until the headroom reaches zero; +Inf when not in sight.",
    ),
    _gauge(
        "backend_kv_formula_ratio", "backend", "KV tokens the engine states / those of the formula; NaN if unknown."
    ),
    _counter("backend_kv_token_seconds_total", "backend", "Integral of reserved tokens over time."),
    _gauge("backend_safety_margin_ratio", "backend", "Share of capacity held back now."),
    _gauge("backend_running_requests", "backend", "Engine: running; NaN if it does not say."),
    _gauge("backend_waiting_requests", "backend", "Engine: waiting; NaN if it does not say."),
    _counter("backend_preemptions_total", "backend", "Engine: preemptions seen."),
    _gauge(
        "backend_rate_limit_remaining_ratio",
        "backend unit",
        "Hosted: share of its limit per minute that is left, below 0 where it is overdrawn.",
    ),
)
TELEMETRY = (
    _gauge("telemetry_last_success_timestamp_seconds", "backend source", "Time of the last good read; 0: none yet."),
    _counter("telemetry_errors_total", "backend source reason", "Reads that brought nothing usable."),
    _histogram("telemetry_scrape_duration_seconds", "source", "Time of one telemetry read.", SCRAPE_S),
)
PREDICTION = (
    _histogram("prediction_ratio", "model_name kind", "Actual / predicted at request end.", RATIO),
    _counter("prediction_outcomes_total", "model_name kind result", "Whether actual stayed within the reserved bound."),
    _gauge(
        "prediction_target_exceed_ratio", "model_name", "Configured share of requests allowed to exceed their bound."
    ),
    _gauge(
        "prediction_coverage_ratio",
        "model_name level",
        "Measured share of answers no longer than the forecast's quantile at this level; NaN before there are any.",
    ),
    _gauge(
        "estimator_last_fit_timestamp_seconds",
        "model_name",
        "Time at which the forecast of output lengths last changed; 0: not yet.",
    ),
)
GPU = (
    _gauge("gpu_memory_used_bytes", "gpu backend", "NVML: used."),
    _gauge("gpu_memory_total_bytes", "gpu backend", "NVML: total."),
    _gauge(
        "gpu_memory_unaccounted_bytes",
        "gpu backend",
        "NVML: used beyond what the engine held once it was warm (weights, KV pool, overhead).",
    ),
    _gauge("gpu_utilization_ratio", "gpu backend", "NVML: share of time in which a kernel ran."),
)
TENANT = (
    _counter("tenant_admission_decisions_total", "tenant outcome", "Terminal outcome of a tenant's requests."),
    _counter("tenant_kv_token_seconds_total", "tenant", "Integral of the tokens that a tenant's requests reserve."),
)
"""Fed where `metrics.tenants` is on."""
PROCESS = (
    _gauge("build_info", "version revision python_version", "Always 1."),
    _gauge("config_info", "sha256", "Always 1. Short hash of the effective config."),
    _gauge("config_last_reload_successful", "", "1 if the last load of the configuration worked, the start included."),
    _gauge("config_last_reload_success_timestamp_seconds", "", "Time of the last load that worked."),
    _gauge("tls_certificate_not_after_timestamp_seconds", "name", "Expiry of the certificates in use."),
    _histogram("event_loop_lag_seconds", "", "asyncio scheduling lag.", LAG_S),
    _counter("label_overflow_total", "label", "Label values folded into other."),
)
LEDGER = (
    _gauge("ledger_mode", "mode", "1 for the way in which room is shared with other replicas, 0 for the others."),
    _gauge("ledger_store_up", "", "1 if the store of the shared ledger answered the last call."),
    _histogram("ledger_store_duration_seconds", "op", "Time of one call of the store.", STORE_S),
    _counter("ledger_leases_expired_total", "backend", "Leases that nobody renewed: a replica died, or leaked them."),
)
"""Exist where several replicas share one ledger."""
EXT_PROC = (
    _gauge("ext_proc_streams_in_flight", "", "Endpoint picker: streams that Envoy holds open."),
    _counter("ext_proc_streams_total", "code", "Endpoint picker: streams that ended, by gRPC code."),
)
"""Exist in the endpoint picker."""
GATEWAY = (*REQUEST, *ADMISSION, *BACKEND, *TELEMETRY, *PREDICTION, *GPU, *TENANT, *PROCESS)
"""Exist in every gateway."""
FAMILIES = (*GATEWAY, *LEDGER, *EXT_PROC)
