"""The figure of the proof of admission: goodput, the worst cell and preemptions over load, one line per policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Many
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from benchmarks.admission_cells import BEST_LIMIT, CellRow, Measured
from benchmarks.admission_report import loads_of, mean, names_of, per_100
from gateway.simulation.plot import COLOURS, DASHES, STYLE

WIDTH, LEFT, CHART_WIDTH, CHART_HEIGHT, STEP = 880, 60, 620, 190, 250
TOP = 84
NAME_HEIGHT = 15
PREEMPTIONS_SHOWN_MAX = 40.0
TITLES = {"kvgate": "KVGate", "none": "no gateway", BEST_LIMIT: "best limit in hindsight"}


@dataclass(frozen=True, slots=True)
class _Chart:
    head: str
    most: float
    of: Callable[[list[Measured]], float]


CHARTS = (
    _Chart(
        "Goodput as % of the oracle's, mean of the cells", 100, lambda ones: 100 * mean([o.of_oracle for o in ones])
    ),
    _Chart("The same in the worst cell", 100, lambda ones: 100 * min(one.of_oracle for one in ones)),
    _Chart(
        f"Preemptions per 100 requests served, mean of the cells (cut at {PREEMPTIONS_SHOWN_MAX:g})",
        PREEMPTIONS_SHOWN_MAX,
        lambda ones: mean([per_100(one.result) for one in ones]),
    ),
)


def admission_svg(rows: Many[CellRow]) -> str:
    """Draw the rows."""
    height = TOP + STEP * len(CHARTS) + 10
    cells, loads = len({row.cell for row in rows}), loads_of(rows)
    title = "Admission against an oracle that knows every answer's length"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{title}</title><style>{STYLE}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        _text(20, 28, title, "title"),
        _text(
            20, 48, f"{cells} pairs of trace and engine, simulated; load 1 is what an engine can do at most", "small"
        ),
    ]
    for number, chart in enumerate(CHARTS):
        parts += _chart(chart, rows, loads, TOP + number * STEP)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(chart: _Chart, rows: Many[CellRow], loads: Many[float], top: float) -> list[str]:
    bottom = top + CHART_HEIGHT
    parts = [_text(20, top - 10, chart.head, "head")]
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - part * CHART_HEIGHT
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{LEFT + CHART_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>',
            _text(LEFT - 8, y + 4, f"{part * chart.most:g}", "small", "end"),
        ]
    parts += [_text(_x(load, loads), bottom + 16, f"{load:g}", "small", "middle") for load in loads]
    parts.append(_text(LEFT + CHART_WIDTH, bottom + 30, "load", "small", "end"))
    ends: list[tuple[float, str, int]] = []
    for index, name in enumerate(names_of(rows)):
        values = [chart.of([row.policies[name] for row in rows if row.load == load]) for load in loads]
        ys = [bottom - min(max(value, 0.0), chart.most) / chart.most * CHART_HEIGHT for value in values]
        points = " ".join(f"{_x(load, loads):.1f},{y:.1f}" for load, y in zip(loads, ys, strict=True))
        parts.append(f'<polyline fill="none" {_look(index)} points="{points}"/>')
        parts += [
            f'<circle cx="{_x(load, loads):.1f}" cy="{y:.1f}" r="2.5" fill="{_colour(index)}"/>'
            for load, y in zip(loads, ys, strict=True)
        ]
        ends.append((ys[-1], TITLES.get(name, name), index))
    return parts + _names(ends, bottom)


def _names(ends: list[tuple[float, str, int]], bottom: float) -> list[str]:
    """Each name beside the end of its line, pushed apart where they would lie on each other."""
    ends = sorted(ends)
    ys = [y for y, _, _ in ends]
    for before, here in pairwise(range(len(ys))):
        ys[here] = max(ys[here], ys[before] + NAME_HEIGHT)
    over = max(0.0, ys[-1] - bottom) if ys else 0.0
    for here in reversed(range(len(ys))):
        limit = bottom if here == len(ys) - 1 else ys[here + 1] - NAME_HEIGHT
        ys[here] = min(ys[here], limit) if over else ys[here]
    x = LEFT + CHART_WIDTH + 12
    parts = []
    for y, (_, name, index) in zip(ys, ends, strict=True):
        parts += [
            f'<line x1="{x}" x2="{x + 22}" y1="{y:.1f}" y2="{y:.1f}" {_look(index)}/>',
            _text(x + 28, y + 4, name, "small"),
        ]
    return parts


def _x(load: float, loads: Many[float]) -> float:
    least, most = loads[0], loads[-1]
    return LEFT + (CHART_WIDTH * (load - least) / (most - least) if most > least else CHART_WIDTH / 2)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _look(index: int) -> str:
    width = 3 if index == 0 else 1.6
    return f'stroke="{_colour(index)}" stroke-width="{width}" stroke-dasharray="{DASHES[index % len(DASHES)]}"'
