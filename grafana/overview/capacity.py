"""The row that tells how much room is left, and for how long."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import BAD, RATIO, SECONDS, Question, better_above, lines, query
from grafana.promql import (
    CAPACITY,
    ENGINE,
    EXHAUSTION_S,
    EXHAUSTION_SHOWN_MAX_S,
    HEADROOM,
    RESERVED,
    by_model,
    share,
)

BACKEND_URL = (
    "/d/kvgate-backend?${datasource:queryparam}&${job:queryparam}"
    "&var-backend=${__field.labels.backend}&${__url_time_range}"
)


_HELD = share(by_model(RESERVED), by_model(CAPACITY))
ROW = Row(
    "Capacity: how much room is left?",
    [
        lines(
            Question(
                "How much room has each pool?",
                "kvgate_backend_kv_headroom_tokens / kvgate_backend_kv_capacity_tokens. A click opens the backend.",
                RATIO,
                high=1,
                base=BAD,
                steps=better_above(0.02, 0.10),
            ),
            query(f"{HEADROOM} / {CAPACITY}", "{{backend}}"),
            link=BACKEND_URL,
        ),
        lines(
            Question(
                "When does each pool run out?",
                "kvgate_backend_kv_time_to_exhaustion_seconds, a forecast from what admitted requests will grow to. "
                "Drawn at the top: not within ten minutes.",
                SECONDS,
                high=EXHAUSTION_SHOWN_MAX_S,
                base=BAD,
                steps=better_above(30, 120),
            ),
            query(EXHAUSTION_S, "{{backend}}"),
            link=BACKEND_URL,
        ),
        lines(
            Question(
                "Is the memory as full as we think?",
                "Reserved tokens / capacity by the ledger, beside vllm:kv_cache_usage_perc, joined by model_name. Ours "
                "is higher by what running requests are predicted to grow; theirs above ours: traffic that bypasses "
                "the gateway.",
                RATIO,
                high=1.2,
            ),
            query(_HELD, "{{model_name}}: reserved here"),
            query(f"avg by (model_name) (vllm:kv_cache_usage_perc{{{ENGINE}}})", "{{model_name}}: used in vLLM"),
        ),
    ],
)
