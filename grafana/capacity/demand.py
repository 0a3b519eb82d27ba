"""The row that tells how much is asked for."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import BAD, COUNT, PER_SECOND, RATIO, TOKENS_PER_S, Question, lines, query
from grafana.promql import BACKEND, MODEL, SERVED, rate

_TOKENS = "kvgate_admission_tokens_total"

ROW = Row(
    "Demand: how much is asked for?",
    [
        lines(
            Question(
                "How much of the demand gets in?",
                "Predicted tokens per second by outcome (kvgate_admission_tokens_total).",
                TOKENS_PER_S,
            ),
            query(rate(_TOKENS, MODEL, "outcome"), "{{outcome}}"),
            stacked=True,
        ),
        lines(
            Question(
                "Which models are asked for?",
                "Predicted tokens per second by model (model:kvgate_demand_tokens:rate5m), refused ones included.",
                TOKENS_PER_S,
            ),
            query(f"model:kvgate_demand_tokens:rate5m{{{MODEL}}}", "{{model_name}}"),
            stacked=True,
        ),
        lines(
            Question(
                "Is the service level kept?",
                "Share of a day's requests refused for our reasons (model:kvgate_admission_errors:ratio_rate1d); "
                "the line is the error budget of 0.5 %.",
                RATIO,
                high=1,
                steps=((0.005, BAD),),
                empty="No traffic",
            ),
            query(f"model:kvgate_admission_errors:ratio_rate1d{{{MODEL}}}", "{{model_name}}"),
        ),
        lines(
            Question(
                "How many requests come?",
                "Requests per second by model (model:kvgate_requests:rate5m).",
                PER_SECOND,
            ),
            query(f"model:kvgate_requests:rate5m{{{MODEL}}}", "{{model_name}}"),
            stacked=True,
        ),
        lines(
            Question(
                "Which backends carry the load?",
                "Requests per second by backend (kvgate_requests_total). A rising share of a hosted backend is what "
                "your own pools cannot take.",
                PER_SECOND,
            ),
            query(rate("kvgate_requests_total", SERVED, "backend"), "{{backend}}"),
            stacked=True,
        ),
        lines(
            Question(
                "How many requests run at once?",
                "kvgate_backend_running_requests, as the engines report it.",
                COUNT,
            ),
            query(f"max by (job, backend) (kvgate_backend_running_requests{{{BACKEND}}})", "{{backend}}"),
            stacked=True,
        ),
    ],
)
