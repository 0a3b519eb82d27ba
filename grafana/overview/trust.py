"""The row that tells whether the numbers can be believed."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import (
    BAD,
    COUNT,
    GOOD,
    RATIO,
    SECONDS,
    Question,
    better_above,
    lines,
    now,
    query,
    rows,
    states,
    words_for,
    worse_above,
)
from grafana.promql import BACKEND, INFO, JOB, MODEL, PREEMPTIONS, quantile, rate, share

_READ = f"max by (job, backend, source) (kvgate_telemetry_last_success_timestamp_seconds{{{BACKEND}}} > 0)"
ROW = Row(
    "Trust: can the numbers be believed?",
    [
        lines(
            Question(
                "How old is what we know of the engines?",
                "Time since the last good read (kvgate_telemetry_last_success_timestamp_seconds); the alert is at 30 "
                "s.",
                SECONDS,
                steps=worse_above(10, 30),
            ),
            query(f"time() - {_READ}", "{{backend}}: {{source}}"),
        ),
        lines(
            Question(
                "Do engines preempt in spite of admission?",
                "kvgate_backend_preemptions_total, in ten minutes: each is work done twice. Above 5 the alert fires: "
                "predictions are too low, or traffic bypasses the gateway.",
                COUNT,
                steps=worse_above(1, 5),
            ),
            query(PREEMPTIONS, "{{backend}}"),
        ),
        lines(
            Question(
                "How often are forecasts too low?",
                "Share of requests that outgrew what was reserved for them, in an hour, beside the share that the "
                "configuration allows (kvgate_prediction_outcomes_total, kvgate_prediction_target_exceed_ratio).",
                RATIO,
                high=1,
                empty="No traffic",
            ),
            query(
                share(
                    rate(
                        "kvgate_prediction_outcomes_total", f'{MODEL},result="exceeded"', "model_name, kind", over="1h"
                    ),
                    rate("kvgate_prediction_outcomes_total", MODEL, "model_name, kind", over="1h"),
                ),
                "{{model_name}}: {{kind}}",
            ),
            query(f"max(kvgate_prediction_target_exceed_ratio{{{MODEL}}})", "allowed"),
        ),
        lines(
            Question(
                "Does the gateway itself keep up?",
                "99th percentile of kvgate_event_loop_lag_seconds per process; above 0.1 s it delays every stream.",
                SECONDS,
                steps=worse_above(0.05, 0.1),
            ),
            query(quantile(0.99, "kvgate_event_loop_lag_seconds", JOB, "instance"), "{{instance}}"),
        ),
        lines(
            Question(
                "What does a decision cost?",
                "99th percentile of kvgate_admission_decision_duration_seconds per process.",
                SECONDS,
                steps=worse_above(0.001, 0.01),
                empty="No traffic",
            ),
            query(quantile(0.99, "kvgate_admission_decision_duration_seconds", JOB, "instance"), "{{instance}}"),
        ),
        rows(
            Question(
                "Which versions and configurations run?",
                "kvgate_build_info and kvgate_config_info of each process: rows that differ for long are a half-done "
                "rollout.",
                COUNT,
            ),
            now(
                f"kvgate_build_info{{{JOB}}} * on (job, instance) group_left (sha256) kvgate_config_info{{{JOB}}}",
            ),
            hidden=("Value", "job", "python_version"),
        ),
        rows(
            Question(
                "Which engines are behind it?",
                "kvgate_backend_info: kind and version of each backend, and the models that it serves.",
                COUNT,
            ),
            now(INFO.replace("(job, backend, model_name)", "(backend, model_name, kind, engine_version)")),
            hidden=("Value",),
        ),
        states(
            Question(
                "Did every gateway load its configuration?",
                "kvgate_config_last_reload_successful of each process. After a failure it goes on with what it had.",
                COUNT,
                high=1,
                base=BAD,
                steps=((1, GOOD),),
                words=words_for(loaded=(1, GOOD), failed=(0, BAD)),
            ),
            query(f"min by (instance) (kvgate_config_last_reload_successful{{{JOB}}})", "{{instance}}"),
            width=8,
        ),
        lines(
            Question(
                "When do certificates run out?",
                "Time left of kvgate_tls_certificate_not_after_timestamp_seconds; alerts at seven days and at one.",
                SECONDS,
                base=BAD,
                steps=better_above(86_400, 604_800),
                empty="No TLS",
            ),
            query(f"min by (name) (kvgate_tls_certificate_not_after_timestamp_seconds{{{JOB}}}) - time()", "{{name}}"),
        ),
    ],
)
