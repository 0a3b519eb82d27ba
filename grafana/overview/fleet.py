"""The row that tells whether several gateways work together; empty for a single one."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import BAD, COUNT, GOOD, PER_SECOND, SECONDS, WATCH, Question, lines, query, states, words_for
from grafana.promql import BACKEND, JOB, quantile, rate

_ALONE = "Not shared"
_NO_PICKER = "No endpoint picker"

ROW = Row(
    "Fleet: do the gateways work together?",
    [
        lines(
            Question(
                "Do replicas share one ledger?",
                "kvgate_ledger_mode: how many processes are in each mode. Degraded: the store is lost, and each "
                "process uses its part of the pools only.",
                COUNT,
                empty=_ALONE,
            ),
            query(f"sum by (mode) (kvgate_ledger_mode{{{JOB}}})", "{{mode}}"),
        ),
        states(
            Question(
                "Does the ledger's store answer?",
                "kvgate_ledger_store_up of each process: whether its last call was answered.",
                COUNT,
                high=1,
                base=BAD,
                steps=((1, GOOD),),
                empty=_ALONE,
                words=words_for(answers=(1, GOOD), silent=(0, BAD)),
            ),
            query(f"min by (instance) (kvgate_ledger_store_up{{{JOB}}})", "{{instance}}"),
            width=8,
        ),
        lines(
            Question(
                "How long does the store take?",
                "99th percentile of kvgate_ledger_store_duration_seconds by operation. It is added to every request.",
                SECONDS,
                steps=((0.01, WATCH), (0.1, BAD)),
                empty=_ALONE,
            ),
            query(quantile(0.99, "kvgate_ledger_store_duration_seconds", JOB, "op"), "{{op}}"),
        ),
        lines(
            Question(
                "How many leases run out?",
                "kvgate_ledger_leases_expired_total by backend: reservations that nobody renewed, because their "
                "process died or lost them.",
                PER_SECOND,
                empty=_ALONE,
            ),
            query(rate("kvgate_ledger_leases_expired_total", BACKEND, "backend"), "{{backend}}"),
        ),
        lines(
            Question(
                "How many requests does Envoy wait for?",
                "kvgate_ext_proc_streams_in_flight of each endpoint picker: streams that Envoy holds open.",
                COUNT,
                empty=_NO_PICKER,
            ),
            query(f"sum by (instance) (kvgate_ext_proc_streams_in_flight{{{JOB}}})", "{{instance}}"),
        ),
        lines(
            Question(
                "How do Envoy's streams end?",
                "kvgate_ext_proc_streams_total by gRPC code; other codes than OK are requests that got no endpoint.",
                PER_SECOND,
                empty=_NO_PICKER,
            ),
            query(rate("kvgate_ext_proc_streams_total", JOB, "code"), "{{code}}"),
            stacked=True,
        ),
    ],
)
