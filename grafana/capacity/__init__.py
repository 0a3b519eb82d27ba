"""The dashboard for planning, one module per row: how much memory is there, and how much is asked for?"""

from __future__ import annotations

from grafana.board import Board
from grafana.capacity import caution, demand, needs, summary, supply

BOARD = Board(
    name="capacity",
    title="Capacity (planning)",
    text="How much KV memory is there, how much is asked for, and what does each request need? Recorded series come "
    "from deploy/prometheus/recording.yml.",
    since="now-7d",
    refresh="5m",
    rows=[summary.ROW, demand.ROW, supply.ROW, needs.ROW, caution.ROW],
)
