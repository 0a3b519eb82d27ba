"""A replay as one SVG, drawn by hand: goodput per policy, and memory and queues over time; light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass
from xml.sax.saxutils import escape

from gateway.simulation.record import Sample
from gateway.simulation.results import Result

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's, which people with any colour vision tell apart, in an order that suits both grounds."""
DASHES = ("", "6 3", "2 3", "8 3 2 3", "12 4", "1 4", "4 4")
"""Lines differ in more than colour."""
WIDTH, LEFT, RIGHT = 880, 190, 50
BAR_HEIGHT, BAR_STEP, CHART_HEIGHT, GAP, TOP = 18, 26, 150, 62, 64
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.ground{fill:#fff}.axis{stroke:#8c959f}.grid{stroke:#d8dee4}"
    ".small{font-size:11px;fill:#59636e}.title{font-size:16px;font-weight:600}.head{font-weight:600}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.ground{fill:#0d1117}.axis{stroke:#6e7681}"
    ".grid{stroke:#30363d}.small{fill:#9198a1}}"
)


@dataclass(frozen=True, slots=True)
class Plotted:
    """One policy's run."""

    result: Result
    samples: Many[Sample]


def replay_svg(title: str, runs: Many[Plotted]) -> str:
    """Draw the runs of one replay."""
    bars_height = BAR_STEP * len(runs)
    kv_top = TOP + bars_height + GAP
    queue_top = kv_top + CHART_HEIGHT + GAP
    height = queue_top + CHART_HEIGHT + 50
    queued_max = max((sample.queued for run in runs for sample in run.samples), default=0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        _text(20, 26, title, "title"),
        _text(20, TOP - 10, "Goodput: requests per second that met their SLO (share of all)", "head"),
        *_bars(runs),
        _text(20, kv_top - 12, "KV memory in use, % of all pools", "head"),
        *_lines(runs, kv_top, [[100 * sample.kv_used for sample in run.samples] for run in runs], 100),
        _text(20, queue_top - 12, "Requests waiting: in the gateway and in the engines", "head"),
        *_lines(runs, queue_top, [[sample.queued for sample in run.samples] for run in runs], _round_up(queued_max)),
        _text(LEFT + (WIDTH - LEFT - RIGHT) / 2, height - 12, "seconds", "small", "middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _bars(runs: Many[Plotted]) -> list[str]:
    most = max((run.result.goodput for run in runs), default=0.0) or 1.0
    parts = []
    for index, run in enumerate(runs):
        y = TOP + index * BAR_STEP
        width = max(1.0, (WIDTH - LEFT - RIGHT - 60) * run.result.goodput / most)
        label = f"{run.result.goodput:.2f} ({run.result.attainment:.0%})"
        parts += [
            _text(LEFT - 10, y + 14, run.result.policy, anchor="end"),
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="2" fill="{_colour(index)}"/>',
            _text(LEFT + width + 8, y + 14, label),
        ]
    return parts


def _lines(runs: Many[Plotted], top: float, series: Many[Many[float]], most: float) -> list[str]:
    """A chart with time across, a line per run, and its name where the line ends."""
    last_s = max((sample.at_s for run in runs for sample in run.samples), default=0.0) or 1.0
    across, bottom = WIDTH - LEFT - RIGHT, top + CHART_HEIGHT
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * CHART_HEIGHT
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{LEFT + across}" y1="{y:.1f}" y2="{y:.1f}"/>',
            _text(LEFT - 8, y + 4, f"{part * most:g}", "small", "end"),
        ]
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_text(LEFT + part * across, bottom + 16, f"{part * last_s:.0f}", "small", "middle"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT + across}" y1="{bottom}" y2="{bottom}"/>')
    for index, (run, values) in enumerate(zip(runs, series, strict=True)):
        points = " ".join(
            f"{LEFT + sample.at_s / last_s * across:.1f},{bottom - min(value, most) / most * CHART_HEIGHT:.1f}"
            for sample, value in zip(run.samples, values, strict=True)
        )
        parts.append(f'<polyline fill="none" {_look(index)} points="{points}"/>')
    return parts + _names(runs, top)


def _names(runs: Many[Plotted], top: float) -> list[str]:
    """Which line is whose."""
    parts = []
    for index, run in enumerate(runs):
        y = top + 12 + index * 18
        parts += [
            f'<line x1="20" x2="42" y1="{y - 4}" y2="{y - 4}" {_look(index)}/>',
            _text(48, y, run.result.policy, "small"),
        ]
    return parts


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _look(index: int) -> str:
    return f'stroke="{_colour(index)}" stroke-width="1.8" stroke-dasharray="{DASHES[index % len(DASHES)]}"'


def _round_up(value: float) -> float:
    """The next of 10, 20, 30, 40, 60, 80, 100, 200, ..."""
    size = 10.0 ** math.floor(math.log10(max(value, 10)))
    return next(digit * size for digit in (1, 2, 3, 4, 6, 8, 10) if digit * size >= value)
