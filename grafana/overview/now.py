"""The row that tells whether anybody is hurt."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import (
    BAD,
    COUNT,
    GOOD,
    PER_SECOND,
    RATIO,
    SECONDS,
    WATCH,
    Question,
    better_above,
    now,
    number,
    query,
    rows,
    states,
    words_for,
    words_from,
    worse_above,
)
from grafana.promql import (
    BACKEND,
    BUDGET_REASONS,
    CALLER_REASONS,
    CAPACITY,
    EXHAUSTION_S,
    EXHAUSTION_SHOWN_MAX_S,
    HEADROOM,
    MODEL,
    SERVED,
    quantile,
    rate,
    share,
)

ERROR_BUDGET = 0.005
"""The SLO of 99.5 % that the alerts are made for; 14.4 times as much burns a month's budget in two days."""

DOWN = 6
"""Above the states, so that it wins."""


_DECISIONS = "kvgate_admission_decisions_total"
_REFUSED = rate(_DECISIONS, f'{MODEL},outcome=~"rejected|evicted",reason=~"{BUDGET_REASONS}"')
_COUNTED = rate(_DECISIONS, f'{MODEL},reason!~"{CALLER_REASONS}"')
_CODES = {"ready": 1, "sleeping": 2, "cold": 3, "draining": 4, "ejected": 5}
_STATES = [f'(kvgate_backend_state{{{BACKEND},state="{name}"}} == 1) * {code}' for name, code in _CODES.items()]
_DOWN = f"(kvgate_backend_up{{{BACKEND}}} == 0) + {DOWN}"

ROW = Row(
    "Now: is anybody hurt?",
    [
        number(
            Question(
                "How many requests get in per second?",
                "Admitted requests (kvgate_admission_decisions_total). Zero with users waiting: look at the backends.",
                PER_SECOND,
            ),
            query(rate(_DECISIONS, f'{MODEL},outcome="admitted"')),
        ),
        number(
            Question(
                "What share is refused for our reasons?",
                "Refused or given up for lack of room, of backends or of telemetry; requests that could never fit, "
                "that are over their tenant's share or that left are not counted. Orange above the SLO's 0.5 %, red "
                "where a month's error budget is gone in two days.",
                RATIO,
                high=1,
                steps=worse_above(ERROR_BUDGET, 14.4 * ERROR_BUDGET),
                empty="No traffic",
            ),
            query(share(_REFUSED, _COUNTED)),
        ),
        number(
            Question(
                "How much room has the fullest pool?",
                "Smallest kvgate_backend_kv_headroom_tokens / kvgate_backend_kv_capacity_tokens. Below 2 % newcomers "
                "wait.",
                RATIO,
                high=1,
                base=BAD,
                steps=better_above(0.02, 0.10),
            ),
            query(f"min({HEADROOM} / {CAPACITY})"),
        ),
        number(
            Question(
                "When does the next pool run out?",
                "Smallest forecast of kvgate_backend_kv_time_to_exhaustion_seconds, up to ten minutes ahead.",
                SECONDS,
                high=EXHAUSTION_SHOWN_MAX_S,
                base=BAD,
                steps=better_above(30, 120),
                words=words_from(EXHAUSTION_SHOWN_MAX_S, "Not in sight"),
            ),
            query(f"min({EXHAUSTION_S})"),
        ),
        number(
            Question(
                "How late is the first token (p95)?",
                "95th percentile of kvgate_time_to_first_token_seconds: from arrival, queue included.",
                SECONDS,
                steps=worse_above(2, 5),
                empty="No traffic",
            ),
            query(quantile(0.95, "kvgate_time_to_first_token_seconds", SERVED)),
        ),
        number(
            Question(
                "How many backends are down?",
                "Backends whose last health check failed in every gateway (kvgate_backend_up).",
                COUNT,
                steps=((1, BAD),),
            ),
            query(f"sum(1 - max by (job, backend) (kvgate_backend_up{{{BACKEND}}}))"),
        ),
        rows(
            Question(
                "Which alerts fire?",
                "Firing alerts of KVGate; the runbook has a section under each name.",
                COUNT,
                empty="None",
            ),
            now('ALERTS{alertname=~"KVGate.+",alertstate="firing"}'),
            hidden=("Value", "alertstate", "instance"),
        ),
        states(
            Question(
                "What state is each backend in?",
                "kvgate_backend_state and kvgate_backend_up; the worst that any gateway sees. Ejected: it failed and "
                "is given nothing; cold: not looked at yet; draining: finishes what it has; down: its health check "
                "fails.",
                COUNT,
                high=DOWN,
                steps=((3, WATCH), (5, BAD)),
                words=words_for(
                    ready=(1, GOOD),
                    sleeping=(2, "blue"),
                    cold=(3, WATCH),
                    draining=(4, "purple"),
                    ejected=(5, BAD),
                    down=(DOWN, "dark-red"),
                ),
            ),
            query(f"max by (job, backend) ({' or '.join([*_STATES, _DOWN])})", "{{backend}}"),
        ),
    ],
)
