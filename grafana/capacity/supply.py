"""The row that tells how full the pools are, and will be."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import BAD, RATIO, Question, better_above, lines, query, worse_above
from grafana.promql import BACKEND, BUSY, CAPACITY, CROWDED, MODEL, OCCUPANCY, RESERVED, by_model

_WAITING = f"sum by (job, model_name) (kvgate_admission_queue_tokens{{{MODEL}}})"

ROW = Row(
    "Supply: how much is there?",
    [
        lines(
            Question(
                "How full is each pool?",
                "Five-minute mean of reserved tokens / capacity (backend:kvgate_kv_occupancy:ratio_rate5m).",
                RATIO,
                high=1.2,
                steps=worse_above(BUSY, CROWDED),
            ),
            query(f"{OCCUPANCY}{{{BACKEND}}}", "{{backend}}"),
            width=12,
        ),
        lines(
            Question(
                "Is more wanted than there is?",
                "Reserved and waiting tokens / capacity by model (kvgate_admission_queue_tokens). Above 100 % requests "
                "wait for memory: this is what to scale on, long before engines are slow.",
                RATIO,
                high=2,
                steps=worse_above(CROWDED, 1),
            ),
            query(f"({by_model(RESERVED)} + {_WAITING}) / {by_model(CAPACITY)}", "{{model_name}}"),
            width=12,
        ),
        lines(
            Question(
                "Is it fuller than a week ago?",
                "Mean occupancy of the pools now and seven days before (backend:kvgate_kv_occupancy:ratio_rate5m).",
                RATIO,
                high=1,
            ),
            query(f"avg({OCCUPANCY}{{{BACKEND}}})", "now"),
            query(f"avg({OCCUPANCY}{{{BACKEND}}} offset 7d)", "a week before"),
            width=12,
        ),
        lines(
            Question(
                "How much room will each model have in three days?",
                "model:kvgate_kv_headroom:ratio, and the straight line through its last six hours three days on. "
                "The alert KVGateCapacityTrend looks at the same line.",
                RATIO,
                high=1,
                base=BAD,
                steps=better_above(0.02, 0.10),
            ),
            query(f"model:kvgate_kv_headroom:ratio{{{MODEL}}}", "{{model_name}}: now"),
            query(
                f"clamp(predict_linear(model:kvgate_kv_headroom:ratio{{{MODEL}}}[6h], 3 * 86400), 0, 1)",
                "{{model_name}}: in three days",
            ),
            width=12,
        ),
    ],
)
