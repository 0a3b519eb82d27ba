"""The dashboard of tenants: who uses the memory, who is turned away, and who pays for what?"""

from __future__ import annotations

from grafana.board import Board, Row, label_values
from grafana.panels import (
    COUNT,
    PER_SECOND,
    RATIO,
    TOKENS,
    WATCH,
    Question,
    lines,
    now,
    number,
    query,
    rows,
    worse_above,
)
from grafana.promql import BACKEND, CAPACITY, JOB, MODEL, increase, rate, share

TENANT = f'{JOB},tenant=~"$tenant"'
ADMITTED = f'{TENANT},outcome="admitted"'
TURNED_AWAY = f'{TENANT},outcome!="admitted"'
_USED = "kvgate_tenant_kv_token_seconds_total"
_DECISIONS = "kvgate_tenant_admission_decisions_total"
_PART = f"{increase(_USED, TENANT, 'tenant')} / on () group_left () ({increase(_USED, JOB)} > 0)"
"""Of each tenant in what all use."""

_NOW = Row(
    "In all: who uses it?",
    [
        number(
            Question(
                "How many tenants are active?",
                "Tenants that were admitted in the time shown (kvgate_tenant_admission_decisions_total).",
                COUNT,
            ),
            now(f"count({increase(_DECISIONS, ADMITTED, 'tenant')} > 0)"),
        ),
        number(
            Question(
                "How much memory do tenants take?",
                "Mean of reserved tokens in the time shown / capacity (kvgate_tenant_kv_token_seconds_total).",
                RATIO,
                high=1,
            ),
            now(f"{rate(_USED, TENANT, over='$__range')} / sum({CAPACITY})"),
        ),
        number(
            Question(
                "How much has the largest tenant?",
                "Share of all reserved token-seconds in the time shown that is one tenant's.",
                RATIO,
                high=1,
                steps=worse_above(0.5, 0.8),
            ),
            now(f"max({_PART})"),
        ),
        number(
            Question(
                "What share of requests is not admitted?",
                "Rejected or given up / all, in the time shown (kvgate_tenant_admission_decisions_total).",
                RATIO,
                high=1,
                steps=worse_above(0.005, 0.072),
                empty="No traffic",
            ),
            now(share(increase(_DECISIONS, TURNED_AWAY), increase(_DECISIONS, TENANT))),
        ),
        number(
            Question(
                "How many requests meet a limit?",
                "Decisions with the reason tenant_limit, in the time shown (kvgate_admission_decisions_total).",
                COUNT,
                steps=((1, WATCH),),
            ),
            now(increase("kvgate_admission_decisions_total", f'{MODEL},reason="tenant_limit"')),
        ),
        number(
            Question(
                "How many requests lack a tenant's name?",
                "Label values folded into 'other' in the time shown (kvgate_label_overflow_total): the rows below are "
                "then not complete.",
                COUNT,
                steps=((1, WATCH),),
                empty="None",
            ),
            now(increase("kvgate_label_overflow_total", f'{JOB},label="tenant"')),
        ),
    ],
)
_SHARES = Row(
    "Shares: who takes how much?",
    [
        lines(
            Question(
                "Who holds the memory?",
                "Reserved tokens by tenant: token-seconds per second (kvgate_tenant_kv_token_seconds_total).",
                TOKENS,
            ),
            query(rate(_USED, TENANT, "tenant"), "{{tenant}}"),
            width=12,
            stacked=True,
        ),
        lines(
            Question(
                "Who asks, and gets in?",
                "Admitted requests per second by tenant (kvgate_tenant_admission_decisions_total).",
                PER_SECOND,
            ),
            query(rate(_DECISIONS, ADMITTED, "tenant"), "{{tenant}}"),
            width=12,
            stacked=True,
        ),
        lines(
            Question(
                "Who is turned away?",
                "Requests per second by tenant that were rejected, or evicted from the queue.",
                PER_SECOND,
            ),
            query(rate(_DECISIONS, TURNED_AWAY, "tenant, outcome"), "{{tenant}}: {{outcome}}"),
            width=12,
            stacked=True,
        ),
        lines(
            Question(
                "Is anybody treated worse than the others?",
                "Share of each tenant's requests that is not admitted. One line far above the rest: a limit, or "
                "starvation.",
                RATIO,
                high=1,
                empty="No traffic",
            ),
            query(
                share(rate(_DECISIONS, TURNED_AWAY, "tenant"), rate(_DECISIONS, TENANT, "tenant")),
                "{{tenant}}",
            ),
            width=12,
        ),
    ],
)
_BILL = Row(
    "Bill: what is each tenant's part?",
    [
        rows(
            Question(
                "How many token-seconds did each tenant use?",
                "Increase of kvgate_tenant_kv_token_seconds_total over the time shown: the fair unit of memory, length "
                "x time.",
                TOKENS,
            ),
            now(increase(_USED, TENANT, "tenant")),
        ),
        rows(
            Question(
                "Which part of the whole is that?",
                "A tenant's share of all token-seconds in the time shown.",
                RATIO,
                high=1,
            ),
            now(_PART),
        ),
        rows(
            Question(
                "How many requests was that?",
                "Requests by tenant and outcome in the time shown (kvgate_tenant_admission_decisions_total).",
                COUNT,
            ),
            now(increase(_DECISIONS, TENANT, "tenant, outcome")),
        ),
        lines(
            Question(
                "How much of the pools do tenants explain?",
                "Token-seconds of all tenants / those of all backends: below 100 % the rest had no tenant.",
                RATIO,
                high=1.2,
                empty="No traffic",
            ),
            query(
                share(rate(_USED, JOB, "job"), rate("kvgate_backend_kv_token_seconds_total", BACKEND, "job")),
                "{{job}}",
            ),
            width=24,
        ),
    ],
)

BOARD = Board(
    name="tenants",
    title="Tenants",
    text="Who uses the memory, who is turned away, and what is each tenant's part? Empty unless the gateway is told to "
    "count by tenant.",
    since="now-24h",
    refresh="1m",
    rows=[_NOW, _SHARES, _BILL],
    variables=[
        label_values("tenant", "Tenant", f'{_USED}{{job=~"$job"}}', "As the configuration names it.", every=".*")
    ],
)
