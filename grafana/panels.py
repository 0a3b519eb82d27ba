"""The kinds of panels that the dashboards are made of, each from a question and its queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from grafana_foundation_sdk.builders import (
    common as common_builders,
    dashboard as dashboard_builders,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common, dashboard, heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import Dataquery, PromQueryFormat

SOURCE = common.DataSourceRef(type_val="prometheus", uid="${datasource}")

RATIO, SECONDS, BYTES, COUNT = "percentunit", "s", "bytes", "short"
PER_SECOND, TOKENS, TOKENS_PER_S, DAYS = "reqps", "si:tok", "si:tok/s", "d"

GOOD, WATCH, BAD = "green", "orange", "red"
Steps = tuple[tuple[float, str], ...]
"""Colours from a value upwards; what lies below the first is set by `Question.base`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a panel answers, and on what scale."""

    title: str
    text: str
    """What is shown, from which metric, and what to do about it."""
    unit: str
    low: float = 0.0
    high: float | None = None
    base: str = GOOD
    steps: Steps = ()
    empty: str = "No data"
    """What stands there without data."""
    words: tuple[dashboard.ValueMapping, ...] = field(default=())
    """Values that are shown as words."""


def worse_above(watch: float, bad: float) -> Steps:
    """Thresholds where large is bad."""
    return ((watch, WATCH), (bad, BAD))


def better_above(watch: float, good: float) -> Steps:
    """Thresholds where small is bad; goes with `base=BAD`."""
    return ((watch, WATCH), (good, GOOD))


def words_from(value: float, text: str, color: str = GOOD) -> tuple[dashboard.ValueMapping, ...]:
    """Show values from this one on as words."""
    result = dashboard.ValueMappingResult(text=text, color=color, index=0)
    return (dashboard.RangeMap(dashboard.DashboardRangeMapOptions(from_val=value, to=None, result=result)),)


def words_for(**texts: tuple[float, str]) -> tuple[dashboard.ValueMapping, ...]:
    """Show each value as its word, in its colour: `up=(1, GOOD)`."""
    results = {
        f"{value:g}": dashboard.ValueMappingResult(text=text, color=color, index=index)
        for index, (text, (value, color)) in enumerate(texts.items())
    }
    return (dashboard.ValueMap(results),)


def query(expr: str, legend: str = "", *, exemplars: bool = False) -> Dataquery:
    """A query over the time that is shown."""
    return prometheus.Dataquery().expr(expr).legend_format(legend).range().exemplar(exemplars).build()


def now(expr: str, legend: str = "") -> Dataquery:
    """A query for the end of the time that is shown."""
    return prometheus.Dataquery().expr(expr).legend_format(legend).instant().build()


def number(question: Question, *queries: Dataquery, width: int = 4, height: int = 4) -> dashboard.Panel:
    """One number in its colour."""
    graph = common.BigValueGraphMode.NONE if queries[0].instant else common.BigValueGraphMode.AREA
    builder = (
        stat.Panel()
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(graph)
    )
    return _ask(builder, question, queries, width, height, by_value=True)


def lines(
    question: Question,
    *queries: Dataquery,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    apart: str = "",
    link: str = "",
) -> dashboard.Panel:
    """Values over time. `apart`: queries (A, B, …) that are not stacked; `link`: what a click on a series opens."""
    stacking = common.StackingMode.NORMAL if stacked else common.StackingMode.NONE
    builder = (
        timeseries.Panel()
        .fill_opacity(30 if stacked else 0)
        .stacking(common_builders.StackingConfig().mode(stacking))
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
        .thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(
                common.GraphThresholdsStyleMode.DASHED if question.steps else common.GraphThresholdsStyleMode.OFF
            )
        )
    )
    for ref_id in apart:
        builder.override_by_query(
            ref_id,
            [
                dashboard.DynamicConfigValue(id_val="custom.stacking", value={"mode": common.StackingMode.NONE}),
                dashboard.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                dashboard.DynamicConfigValue(id_val="custom.lineWidth", value=2),
            ],
        )
    if link:
        builder.data_links([dashboard_builders.DashboardLink("Open this backend").url(link)])
    return _ask(builder, question, queries, width, height)


def states(question: Question, *queries: Dataquery, width: int = 16, height: int = 8) -> dashboard.Panel:
    """Which state holds when."""
    builder = statetimeline.Panel().merge_values(merge_values=True).show_value(common.VisibilityMode.AUTO)
    return _ask(builder, question, queries, width, height, by_value=True)


def heat(question: Question, expr: str, width: int = 8, height: int = 8) -> dashboard.Panel:
    """A histogram over time; the question's unit is that of the buckets."""
    asked = (
        prometheus.Dataquery()
        .expr(expr)
        .legend_format("{{le}}")
        .range()
        .exemplar(exemplar=True)
        .format(PromQueryFormat.HEATMAP)
        .build()
    )
    builder = (
        heatmap.Panel()
        .calculate(calculate=False)
        .color(heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .y_axis(heatmap.YAxisConfig().unit(question.unit))
    )
    return _ask(builder, question, (asked,), width, height)


def rows(question: Question, *queries: Dataquery, hidden: tuple[str, ...] = (), width: int = 8) -> dashboard.Panel:
    """A table with a row for each series; queries are joined by their labels."""
    for asked in queries:
        asked.format_val = PromQueryFormat.TABLE
    builder = (
        table.Panel()
        .with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize", options={"excludeByName": dict.fromkeys(("Time", "__name__", *hidden), True)}
            )
        )
    )
    return _ask(builder, question, queries, width, height=8)


class _Builder(Protocol):
    def build(self) -> dashboard.Panel: ...


def _ask(
    builder: _Builder,
    question: Question,
    queries: tuple[Dataquery, ...],
    width: int,
    height: int,
    *,
    by_value: bool = False,
) -> dashboard.Panel:
    """Give a panel what all kinds have in common."""
    panel = builder.build()
    panel.title, panel.description, panel.datasource = question.title, question.text, SOURCE
    panel.grid_pos = dashboard.GridPos(w=width, h=height)
    panel.targets = []
    for index, asked in enumerate(queries):
        asked.ref_id, asked.datasource = chr(ord("A") + index), SOURCE
        panel.targets.append(asked)
    panel.field_config = panel.field_config or dashboard.FieldConfigSource()
    defaults = panel.field_config.defaults
    defaults.unit, defaults.min_val, defaults.max_val = question.unit, question.low, question.high
    defaults.no_value, defaults.mappings = question.empty, list(question.words) or None
    steps = [(None, question.base), *question.steps]
    defaults.thresholds = dashboard.ThresholdsConfig(
        mode=dashboard.ThresholdsMode.ABSOLUTE,
        steps=[dashboard.Threshold(value=value, color=color) for value, color in steps],
    )
    mode = dashboard.FieldColorModeId.THRESHOLDS if by_value else dashboard.FieldColorModeId.PALETTE_CLASSIC
    defaults.color = dashboard.FieldColor(mode=mode)
    return panel
