"""The dashboard for whoever is on call, one module per row: is anybody hurt, why, and can the numbers be trusted?"""

from __future__ import annotations

from grafana.board import Board
from grafana.overview import admission, capacity, fleet, now, trust, users

BOARD = Board(
    name="overview",
    title="Overview (on-call)",
    text="Is anybody hurt, why, and can the numbers be trusted? Read it from top to bottom.",
    since="now-1h",
    refresh="30s",
    rows=[now.ROW, admission.ROW, capacity.ROW, users.ROW, trust.ROW, fleet.ROW],
)
