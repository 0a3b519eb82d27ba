"""The row that tells what being safe costs."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import RATIO, SECONDS, Question, lines, query
from grafana.promql import BACKEND, MODEL, RESERVED, share

ROW = Row(
    "Caution: what does being safe cost?",
    [
        lines(
            Question(
                "How much is held back?",
                "kvgate_backend_safety_margin_ratio: the share of each pool that admission leaves empty.",
                RATIO,
                high=1,
            ),
            query(f"max by (job, backend) (kvgate_backend_safety_margin_ratio{{{BACKEND}}})", "{{backend}}"),
        ),
        lines(
            Question(
                "How much of what is reserved gets used?",
                "kvgate_backend_kv_observed_tokens / kvgate_backend_kv_reserved_tokens. Low: forecasts are too "
                "careful; above 100 %: somebody else uses the engine.",
                RATIO,
                high=1.5,
                empty="Idle",
            ),
            query(
                share(f"max by (job, backend) (kvgate_backend_kv_observed_tokens{{{BACKEND}}})", RESERVED),
                "{{backend}}",
            ),
        ),
        lines(
            Question(
                "Are forecasts right?",
                "Actual / predicted tokens in an hour, mean and median (model:kvgate_prediction:mean_ratio_1h, "
                "model:kvgate_prediction:median_ratio_1h). The alert KVGatePredictionDrift is at a median above 1.25 "
                "or below 0.6.",
                RATIO,
                high=2,
                empty="No traffic",
            ),
            query(f"model:kvgate_prediction:mean_ratio_1h{{{MODEL}}}", "{{model_name}}: {{kind}}, mean"),
            query(f"model:kvgate_prediction:median_ratio_1h{{{MODEL}}}", "{{model_name}}: {{kind}}, median"),
        ),
        lines(
            Question(
                "Do forecasts cover what they say?",
                "kvgate_prediction_coverage_ratio: the share of answers no longer than the quantile at each level. "
                "Calibrated means 50, 90 and 99 %.",
                RATIO,
                high=1,
                empty="No traffic",
            ),
            query(
                f"avg by (model_name, level) (kvgate_prediction_coverage_ratio{{{MODEL}}})", "{{model_name}}: {{level}}"
            ),
        ),
        lines(
            Question(
                "Does our formula agree with the engine?",
                "kvgate_backend_kv_formula_ratio: tokens that the engine states / tokens by our formula. Far from 100 "
                "%: the model's description or the engine's settings are not what the gateway was told.",
                RATIO,
                high=2,
                empty="Not stated by the engine",
            ),
            query(f"max by (job, backend) (kvgate_backend_kv_formula_ratio{{{BACKEND}}})", "{{backend}}"),
        ),
        lines(
            Question(
                "How old is what forecasts were learned from?",
                "Time since kvgate_estimator_last_fit_timestamp_seconds of each model.",
                SECONDS,
                empty="Nothing learned yet",
            ),
            query(
                f"time() - max by (model_name) (kvgate_estimator_last_fit_timestamp_seconds{{{MODEL}}} > 0)",
                "{{model_name}}",
            ),
        ),
    ],
)
