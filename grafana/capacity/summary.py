"""The row that tells whether there is enough."""

from __future__ import annotations

from grafana.board import Row
from grafana.panels import (
    BAD,
    DAYS,
    RATIO,
    TOKENS,
    WATCH,
    Question,
    better_above,
    now,
    number,
    query,
    words_from,
    worse_above,
)
from grafana.promql import BACKEND, BUSY, CAPACITY, CROWDED, MODEL, OCCUPANCY, increase, rate, share

DAYS_SHOWN_MAX = 365
_TOKENS = "kvgate_admission_tokens_total"
_HEADROOM = f"model:kvgate_kv_headroom_tokens:sum{{{MODEL}}}"
_MEAN_OCCUPANCY = f"{rate('kvgate_backend_kv_token_seconds_total', BACKEND, over='$__range')} / sum({CAPACITY})"
_DEMAND = share(rate(_TOKENS, MODEL, over="$__range"), rate(_TOKENS, f'{MODEL},outcome="admitted"', over="$__range"))
_DAYS_TO_FULL = f"{_HEADROOM} / clamp_min(-deriv({_HEADROOM}[$__range]), 1e-9) / 86400"

ROW = Row(
    "In all: is there enough?",
    [
        number(
            Question(
                "How many tokens fit into all pools?",
                "Sum of kvgate_backend_kv_capacity_tokens, each pool once; hosted backends have none.",
                TOKENS,
            ),
            query(f"sum({CAPACITY})"),
        ),
        number(
            Question(
                "How full were the pools on average?",
                "Reserved token-seconds over the time shown / its length / capacity "
                "(kvgate_backend_kv_token_seconds_total). Above 70 % bursts wait, above 85 % everybody does.",
                RATIO,
                high=1,
                steps=worse_above(BUSY, CROWDED),
            ),
            now(_MEAN_OCCUPANCY),
        ),
        number(
            Question(
                "How full was the fullest pool?",
                "Highest five-minute mean of any pool in the time shown (backend:kvgate_kv_occupancy:ratio_rate5m).",
                RATIO,
                high=1,
                steps=worse_above(CROWDED, 0.95),
            ),
            now(f"max(max_over_time({OCCUPANCY}{{{BACKEND}}}[$__range]))"),
        ),
        number(
            Question(
                "How much demand was turned away?",
                "Predicted tokens of refused requests in the time shown (kvgate_admission_tokens_total).",
                TOKENS,
                steps=((1, WATCH),),
            ),
            now(increase(_TOKENS, f'{MODEL},outcome!="admitted"')),
        ),
        number(
            Question(
                "How full would they be had all got in?",
                "Mean occupancy x all predicted tokens / admitted ones. Above 100 % by how much more memory is needed; "
                "clients that tried again count each time, so this is an upper bound.",
                RATIO,
                high=2,
                steps=worse_above(BUSY, 1),
                empty="No traffic",
            ),
            now(f"{_MEAN_OCCUPANCY} * {_DEMAND}"),
        ),
        number(
            Question(
                "In how many days is it full?",
                "Headroom of the tightest model / its mean decline over the time shown "
                "(model:kvgate_kv_headroom_tokens:sum). Choose at least a week.",
                DAYS,
                high=DAYS_SHOWN_MAX,
                base=BAD,
                steps=better_above(7, 30),
                words=words_from(DAYS_SHOWN_MAX, "Not in sight"),
            ),
            now(f"clamp_max(min({_DAYS_TO_FULL}), {DAYS_SHOWN_MAX})"),
        ),
    ],
)
