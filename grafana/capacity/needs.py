"""The row that tells what each request needs."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import BAD, RATIO, SECONDS, TOKENS, TOKENS_PER_S, Question, lines, query
from grafana.promql import BACKEND, ENGINE, MODEL, SERVED, mean, rate, share

_TOKENS = "kvgate_admission_tokens_total"

ROW = Row(
    "Requests: what does each need?",
    [
        lines(
            Question(
                "What are the tokens?",
                "Tokens per second that backends reported: prompts computed, prompts found in the prefix cache, "
                "answers.",
                TOKENS_PER_S,
            ),
            query(
                f"{rate('kvgate_prompt_tokens_total', SERVED)} - {rate('kvgate_cached_prompt_tokens_total', SERVED)}",
                "prompt",
            ),
            query(rate("kvgate_cached_prompt_tokens_total", SERVED), "prompt, cached"),
            query(rate("kvgate_generation_tokens_total", SERVED), "answer"),
            stacked=True,
        ),
        lines(
            Question(
                "How long are prompts and answers?",
                "Mean tokens per successful request (kvgate_prompt_tokens_total, kvgate_generation_tokens_total).",
                TOKENS,
                empty="No traffic",
            ),
            *(
                query(
                    share(
                        rate(f"kvgate_{metric}_tokens_total", SERVED, "model_name"),
                        rate("kvgate_requests_total", f'{SERVED},code="200"', "model_name"),
                    ),
                    f"{{{{model_name}}}}: {name}",
                )
                for metric, name in (("prompt", "prompt"), ("generation", "answer"))
            ),
        ),
        lines(
            Question(
                "How much does the prefix cache save?",
                "Share of prompt tokens found in the cache: as answers tell it, beside vLLM's own count by model_name.",
                RATIO,
                high=1,
                empty="No traffic",
            ),
            query(
                share(
                    rate("kvgate_cached_prompt_tokens_total", SERVED, "model_name"),
                    rate("kvgate_prompt_tokens_total", SERVED, "model_name"),
                ),
                "{{model_name}}: answers",
            ),
            query(
                share(
                    rate("vllm:prefix_cache_hits_total", ENGINE, "model_name"),
                    rate("vllm:prefix_cache_queries_total", ENGINE, "model_name"),
                ),
                "{{model_name}}: vLLM",
            ),
        ),
        lines(
            Question(
                "How long does a token stay in memory?",
                "Reserved token-seconds / admitted tokens: the mean time for which a request holds what it was "
                "predicted to need. Halving it doubles what the pools can serve.",
                SECONDS,
                empty="No traffic",
            ),
            query(
                share(
                    rate("kvgate_backend_kv_token_seconds_total", BACKEND, "job"),
                    rate(_TOKENS, f'{MODEL},outcome="admitted"', "job"),
                ),
                "{{job}}",
            ),
        ),
        lines(
            Question(
                "How long do requests take?",
                "Mean of kvgate_request_duration_seconds by model, of requests that reached a backend.",
                SECONDS,
                empty="No traffic",
            ),
            query(mean("kvgate_request_duration_seconds", SERVED, "model_name"), "{{model_name}}"),
        ),
        lines(
            Question(
                "How much of the hosted quota is left?",
                "kvgate_backend_rate_limit_remaining_ratio by unit; the alert is at 10 %.",
                RATIO,
                high=1,
                base=BAD,
                steps=((0.10, "green"),),
                empty="No hosted backend",
            ),
            query(
                f"min by (job, backend, unit) (kvgate_backend_rate_limit_remaining_ratio{{{BACKEND}}})",
                "{{backend}}: {{unit}}",
            ),
        ),
    ],
)
