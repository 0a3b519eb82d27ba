"""The row that tells what users feel."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import PER_SECOND, SECONDS, Question, lines, query, worse_above
from grafana.promql import ENGINE, MODEL, SERVED, quantile, rate

_FIRST, _EACH = "kvgate_time_to_first_token_seconds", "kvgate_time_per_output_token_seconds"
ROW = Row(
    "Users: what do they feel?",
    [
        lines(
            Question(
                "How long until the first token?",
                "Quantiles of kvgate_time_to_first_token_seconds, queue included. Points are single requests: follow "
                "their trace.",
                SECONDS,
                steps=worse_above(2, 5),
                empty="No traffic",
            ),
            *(query(quantile(q, _FIRST, SERVED), f"p{q * 100:g}", exemplars=True) for q in (0.5, 0.95, 0.99)),
        ),
        lines(
            Question(
                "How much of that is the engine's?",
                "95th percentile of the first token seen here beside vllm:time_to_first_token_seconds, joined by "
                "model_name. What lies between them is our queue and the network.",
                SECONDS,
                empty="No traffic",
            ),
            query(quantile(0.95, _FIRST, SERVED, "model_name"), "{{model_name}}: here"),
            query(
                quantile(0.95, "vllm:time_to_first_token_seconds", ENGINE, "model_name"), "{{model_name}}: inside vLLM"
            ),
        ),
        lines(
            Question(
                "How fast do answers flow?",
                "Quantiles of kvgate_time_per_output_token_seconds, a mean per request. 0.1 s is slower than people "
                "read.",
                SECONDS,
                steps=worse_above(0.1, 0.25),
                empty="No traffic",
            ),
            *(query(quantile(q, _EACH, SERVED), f"p{q * 100:g}", exemplars=True) for q in (0.5, 0.95, 0.99)),
        ),
        lines(
            Question(
                "Which answers do clients get?",
                "kvgate_requests_total by HTTP status. 429 is admission, 502 and 504 are engines, 503 is nobody there.",
                PER_SECOND,
            ),
            query(rate("kvgate_requests_total", MODEL, "code") + " > 0", "{{code}}"),
            stacked=True,
        ),
        lines(
            Question(
                "How long do whole answers take?",
                "Quantiles of kvgate_request_duration_seconds of requests that reached a backend.",
                SECONDS,
                empty="No traffic",
            ),
            *(
                query(quantile(q, "kvgate_request_duration_seconds", SERVED), f"p{q * 100:g}", exemplars=True)
                for q in (0.5, 0.95, 0.99)
            ),
        ),
        lines(
            Question(
                "When do clients give up?",
                "kvgate_client_disconnects_total: while queued, before the first token, or during the answer.",
                PER_SECOND,
            ),
            query(rate("kvgate_client_disconnects_total", MODEL, "phase"), "{{phase}}"),
            stacked=True,
        ),
    ],
)
