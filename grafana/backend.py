"""The dashboard of one backend or a few: do our books agree with the engine, and is the engine well?"""

from __future__ import annotations

from grafana.board import Board, Row
from grafana.panels import (
    BAD,
    BYTES,
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    TOKENS,
    Question,
    better_above,
    heat,
    lines,
    query,
    worse_above,
)
from grafana.promql import BACKEND, CAPACITY, ENGINE, PREEMPTIONS, SERVED, increase, mean, quantile, rate

_KV = "kvgate_backend_kv_"


def _gauge(name: str, more: str = "", by: str = "", of: str = "max") -> str:
    """A gauge of the pool, once however many gateways report it."""
    return f"{of} by (job, backend{by}) ({_KV}{name}{{{BACKEND}{more}}})"


_BOOKS = Row(
    "$backend: do our books agree with the engine?",
    [
        lines(
            Question(
                "What fills the pool?",
                "The ledger's kvgate_backend_kv_reserved_tokens: resident, and predicted beyond that; above them what "
                "it cannot explain (external). Lines: capacity, what the engine reports (observed), and the forecast "
                "peak of what is admitted. Observed should lie on resident and external, and no peak above capacity.",
                TOKENS,
            ),
            query(_gauge("reserved_tokens", ',kind="resident"'), "resident"),
            query(_gauge("reserved_tokens", ',kind="predicted"'), "predicted"),
            query(_gauge("external_tokens"), "external"),
            query(_gauge("capacity_tokens"), "capacity"),
            query(_gauge("observed_tokens"), "observed by the engine"),
            query(_gauge("peak_forecast_tokens", by=", horizon"), "forecast peak within {{horizon}}"),
            stacked=True,
            apart="DEF",
            width=12,
            height=10,
        ),
        lines(
            Question(
                "How far are ledger and engine apart?",
                "Observed - resident - external tokens / capacity (backend:kvgate_kv_ledger_error:ratio). Above zero "
                "the engine holds more than we know of, below zero less.",
                RATIO,
                low=-1,
                high=1,
                empty="The engine does not say",
            ),
            query(f"avg by (job, backend) (backend:kvgate_kv_ledger_error:ratio{{{BACKEND}}})", "error"),
            width=6,
            height=10,
        ),
        lines(
            Question(
                "How much more can it take?",
                "kvgate_backend_kv_headroom_tokens / capacity beside kvgate_backend_safety_margin_ratio, which is left "
                "empty.",
                RATIO,
                high=1,
                base=BAD,
                steps=better_above(0.02, 0.10),
            ),
            query(f"{_gauge('headroom_tokens', of='min')} / {CAPACITY}", "headroom"),
            query(f"max by (job, backend) (kvgate_backend_safety_margin_ratio{{{BACKEND}}})", "safety margin"),
            width=6,
            height=10,
        ),
    ],
    repeat="backend",
)
_LOAD = Row(
    "Load: what is it doing?",
    [
        lines(
            Question(
                "How many requests does each engine run, and how many wait in it?",
                "kvgate_backend_running_requests and kvgate_backend_waiting_requests as the engine reports them. "
                "Waiting inside the engine should be rare: it is what admission is for.",
                COUNT,
            ),
            query(f"max by (job, backend) (kvgate_backend_running_requests{{{BACKEND}}})", "{{backend}}: running"),
            query(f"max by (job, backend) (kvgate_backend_waiting_requests{{{BACKEND}}})", "{{backend}}: waiting"),
        ),
        lines(
            Question(
                "Does the engine run what we sent?",
                "kvgate_requests_in_flight beside vllm:num_requests_running and vllm:num_requests_waiting, joined by "
                "model_name. Theirs above ours: somebody bypasses the gateway.",
                COUNT,
            ),
            query(f"sum by (model_name) (kvgate_requests_in_flight{{{SERVED}}})", "{{model_name}}: sent"),
            query(
                f"sum by (model_name) (vllm:num_requests_running{{{ENGINE}}} + vllm:num_requests_waiting{{{ENGINE}}})",
                "{{model_name}}: in vLLM",
            ),
        ),
        lines(
            Question(
                "How old is the oldest request?",
                "kvgate_oldest_in_flight_age_seconds: a line that only rises is a stream that is stuck.",
                SECONDS,
            ),
            query(f"max by (job, backend) (kvgate_oldest_in_flight_age_seconds{{{BACKEND}}})", "{{backend}}"),
        ),
        heat(
            Question(
                "How are first tokens spread?",
                "kvgate_time_to_first_token_seconds over time. Two bands are two kinds of requests, or queue and no "
                "queue.",
                SECONDS,
                empty="No traffic",
            ),
            increase("kvgate_time_to_first_token_seconds_bucket", SERVED, "le", over="$__rate_interval"),
        ),
        lines(
            Question(
                "Which engine is slow?",
                "95th percentile of kvgate_time_per_output_token_seconds by backend.",
                SECONDS,
                steps=worse_above(0.1, 0.25),
                empty="No traffic",
            ),
            query(quantile(0.95, "kvgate_time_per_output_token_seconds", SERVED, "backend"), "{{backend}}"),
        ),
        lines(
            Question(
                "How often does it preempt?",
                "kvgate_backend_preemptions_total in ten minutes; the alert is above 5.",
                COUNT,
                steps=worse_above(1, 5),
            ),
            query(PREEMPTIONS, "{{backend}}"),
        ),
    ],
)
_HEALTH = Row(
    "Health: does it answer?",
    [
        lines(
            Question(
                "How does it fail?",
                "kvgate_upstream_errors_total by reason: connect and reset are the process, timeout is load, http_5xx "
                "the engine, http_429 a quota, protocol an answer that could not be read.",
                PER_SECOND,
            ),
            query(rate("kvgate_upstream_errors_total", BACKEND, "backend, reason") + " > 0", "{{backend}}: {{reason}}"),
            stacked=True,
        ),
        lines(
            Question(
                "How often is a request sent again elsewhere?",
                "kvgate_upstream_retries_total by the backend that failed: users do not see these.",
                PER_SECOND,
            ),
            query(rate("kvgate_upstream_retries_total", BACKEND, "backend"), "{{backend}}"),
        ),
        lines(
            Question(
                "Which answers does it give?",
                "kvgate_requests_total by backend and HTTP status.",
                PER_SECOND,
            ),
            query(rate("kvgate_requests_total", SERVED, "backend, code") + " > 0", "{{backend}}: {{code}}"),
            stacked=True,
        ),
        lines(
            Question(
                "How old is what we know of it?",
                "Time since kvgate_telemetry_last_success_timestamp_seconds; the alert is at 30 s.",
                SECONDS,
                steps=worse_above(10, 30),
            ),
            query(
                "time() - max by (job, backend, source) "
                f"(kvgate_telemetry_last_success_timestamp_seconds{{{BACKEND}}} > 0)",
                "{{backend}}: {{source}}",
            ),
        ),
        lines(
            Question(
                "Why can it not be read?",
                "kvgate_telemetry_errors_total by source and reason.",
                PER_SECOND,
            ),
            query(
                rate("kvgate_telemetry_errors_total", BACKEND, "backend, source, reason"),
                "{{backend}}: {{source}}, {{reason}}",
            ),
        ),
        lines(
            Question(
                "How long does reading it take?",
                "Mean of kvgate_telemetry_scrape_duration_seconds by source, over all backends.",
                SECONDS,
                steps=((1, BAD),),
            ),
            query(mean("kvgate_telemetry_scrape_duration_seconds", 'job=~"$job"', "source"), "{{source}}"),
        ),
    ],
)
_GPU = Row(
    "GPU: what does the card say?",
    [
        lines(
            Question(
                "How much GPU memory is used?",
                "kvgate_gpu_memory_used_bytes below kvgate_gpu_memory_total_bytes. Engines take their whole pool at "
                "the start, so this does not move with the load.",
                BYTES,
                empty="No GPU on this machine",
            ),
            query(f"max by (backend, gpu) (kvgate_gpu_memory_used_bytes{{{BACKEND}}})", "{{backend}} {{gpu}}: used"),
            query(f"max by (backend, gpu) (kvgate_gpu_memory_total_bytes{{{BACKEND}}})", "{{backend}} {{gpu}}: total"),
        ),
        lines(
            Question(
                "Who else holds GPU memory?",
                "kvgate_gpu_memory_unaccounted_bytes / kvgate_gpu_memory_total_bytes: used beyond what the engine held "
                "once it was warm. The alert is at 3 %.",
                RATIO,
                high=1,
                steps=((0.03, BAD),),
                empty="No GPU on this machine",
            ),
            query(
                f"max by (backend, gpu) (kvgate_gpu_memory_unaccounted_bytes{{{BACKEND}}}) / "
                f"max by (backend, gpu) (kvgate_gpu_memory_total_bytes{{{BACKEND}}})",
                "{{backend}} {{gpu}}",
            ),
        ),
        lines(
            Question(
                "Is the GPU busy?",
                "kvgate_gpu_utilization_ratio: the share of time in which a kernel ran. High with few requests: long "
                "prompts; low with a full pool: memory is the limit, not computing.",
                RATIO,
                high=1,
                empty="No GPU on this machine",
            ),
            query(f"max by (backend, gpu) (kvgate_gpu_utilization_ratio{{{BACKEND}}})", "{{backend}} {{gpu}}"),
        ),
    ],
)

BOARD = Board(
    name="backend",
    title="Backend",
    text="Do our books agree with the engine, what is it doing, and is it well? Choose one backend or a few.",
    since="now-1h",
    refresh="30s",
    rows=[_BOOKS, _LOAD, _HEALTH, _GPU],
)
