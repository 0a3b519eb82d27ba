"""The row that tells who gets in, and how long that takes."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import BAD, COUNT, PER_SECOND, SECONDS, Question, lines, query
from grafana.promql import ENGINE, MODEL, quantile, rate

_WAIT = "kvgate_admission_queue_wait_seconds"
ROW = Row(
    "Admission: who gets in?",
    [
        lines(
            Question(
                "What becomes of the requests?",
                "Decisions by outcome and reason (kvgate_admission_decisions_total): every request is here once.",
                PER_SECOND,
            ),
            query(
                rate("kvgate_admission_decisions_total", MODEL, "outcome, reason") + " > 0", "{{outcome}}: {{reason}}"
            ),
            stacked=True,
        ),
        lines(
            Question(
                "How long is the queue, and how long may it get?",
                "kvgate_admission_queue_depth by class, below the limit of all together; at the limit newcomers are "
                "refused.",
                COUNT,
            ),
            query(f"sum by (priority) (kvgate_admission_queue_depth{{{MODEL}}})", "{{priority}}"),
            query(f"sum(kvgate_admission_queue_limit{{{MODEL}}})", "limit"),
        ),
        lines(
            Question(
                "Do requests wait here or inside the engines?",
                "kvgate_admission_queue_depth beside vllm:num_requests_waiting, joined by model_name. Admission works "
                "where requests wait here: inside the engine they block each other and may be preempted.",
                COUNT,
            ),
            query(f"sum by (model_name) (kvgate_admission_queue_depth{{{MODEL}}})", "{{model_name}}: here"),
            query(f"sum by (model_name) (vllm:num_requests_waiting{{{ENGINE}}})", "{{model_name}}: inside vLLM"),
        ),
        lines(
            Question(
                "How long do the admitted wait?",
                "Quantiles of kvgate_admission_queue_wait_seconds of admitted requests. The alert is at 5 s for "
                "interactive.",
                SECONDS,
                steps=((5, BAD),),
                empty="No traffic",
            ),
            *(
                query(quantile(q, _WAIT, f'{MODEL},outcome="admitted"'), f"p{q * 100:g}", exemplars=True)
                for q in (0.5, 0.95, 0.99)
            ),
        ),
        lines(
            Question(
                "How long has the longest waiting request waited?",
                "kvgate_admission_oldest_wait_seconds by class; a class that only rises is starved.",
                SECONDS,
            ),
            query(f"max by (priority) (kvgate_admission_oldest_wait_seconds{{{MODEL}}})", "{{priority}}"),
        ),
        lines(
            Question(
                "When are refused clients told to come back?",
                "Quantiles of the Retry-After that was sent (kvgate_retry_after_seconds): the predicted time until "
                "room.",
                SECONDS,
                high=60,
                empty="Nobody refused",
            ),
            query(quantile(0.5, "kvgate_retry_after_seconds", MODEL, "model_name"), "{{model_name}}: p50"),
            query(quantile(0.95, "kvgate_retry_after_seconds", MODEL, "model_name"), "{{model_name}}: p95"),
        ),
    ],
)
