"""A whole dashboard: its rows laid out on the grid, and the variables, links and annotations that all of them share."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.models import dashboard

from grafana.panels import SOURCE

GRID_COLUMNS = 24
TAG = "kvgate"
RUNBOOK = "deploy/RUNBOOK.md"

Laid = dashboard.Panel | dashboard.RowPanel


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the dashboard, which is one question that its panels answer together."""

    title: str
    panels: Sequence[dashboard.Panel]
    repeat: str = ""
    """The variable for whose values the row is repeated."""


@dataclass(frozen=True, slots=True)
class Board:
    """What differs between the dashboards."""

    name: str
    """Ends its uid and is the name of its file."""
    title: str
    text: str
    since: str
    refresh: str
    rows: Sequence[Row]
    variables: Sequence[dashboard.VariableModel] = ()
    """Beside those that every dashboard has."""


def build(board: Board) -> dashboard.Dashboard:
    """The dashboard as Grafana knows it; the same at every call."""
    return dashboard.Dashboard(
        uid=f"kvgate-{board.name}",
        title=f"KVGate / {board.title}",
        description=board.text,
        tags=[TAG],
        graph_tooltip=dashboard.DashboardCursorSync.CROSSHAIR,
        time=dashboard.DashboardDashboardTime(from_val=board.since, to="now"),
        refresh=board.refresh,
        panels=list(_laid_out(board.rows)),
        templating=dashboard.DashboardDashboardTemplating([*_shared_variables(), *board.variables]),
        annotations=dashboard.AnnotationContainer(_annotations()),
        links=_links(),
    )


def _laid_out(rows: Sequence[Row]) -> Iterator[Laid]:
    """Rows and panels from left to right and from top to bottom, numbered in this order."""
    number = y = 0
    for row in rows:
        number += 1
        yield dashboard.RowPanel(
            id_val=number,
            title=row.title,
            repeat=row.repeat or None,
            grid_pos=dashboard.GridPos(x=0, y=y, w=GRID_COLUMNS, h=1),
        )
        y, x, height = y + 1, 0, 0
        for panel in row.panels:
            number, size = number + 1, panel.grid_pos
            assert size is not None
            if x + size.w > GRID_COLUMNS:
                y, x, height = y + height, 0, 0
            placed = copy.copy(panel)
            placed.id_val, placed.grid_pos = number, dashboard.GridPos(x=x, y=y, w=size.w, h=size.h)
            yield placed
            x, height = x + size.w, max(height, size.h)
        y += height


def label_values(name: str, label: str, series: str, text: str, *, every: str | None = None) -> dashboard.VariableModel:
    """A variable over the values of a label. `every`: the expression for "All"; without it, all listed values."""
    query = f"label_values({series}, {name})"
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=label,
        description=text,
        datasource=SOURCE,
        query=query,
        definition=query,
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.NATURAL_ASC,
        multi=True,
        include_all=True,
        all_value=every,
        current=dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]),
    )


def _shared_variables() -> list[dashboard.VariableModel]:
    info = 'kvgate_backend_info{job=~"$job"'
    return [
        dashboard.VariableModel(
            type_val=dashboard.VariableType.DATASOURCE,
            name="datasource",
            label="Data source",
            description="The Prometheus that scrapes the gateway.",
            query="prometheus",
            refresh=dashboard.VariableRefresh.ON_DASHBOARD_LOAD,
        ),
        label_values("job", "Job", "kvgate_build_info", "The scrape job of the gateways.", every=".+"),
        label_values("model_name", "Model", f"{info}}}", "As the configuration names it.", every=".*"),
        # "All" stands for the backends of the chosen models: most series of a backend have no label for the model.
        label_values("backend", "Backend", f'{info},model_name=~"$model_name"}}', "Those of the chosen models."),
        dashboard.VariableModel(
            type_val=dashboard.VariableType.CONSTANT,
            name="runbook",
            label="Runbook",
            description="Where your copy of the runbook can be read.",
            query=RUNBOOK,
            current=dashboard.VariableOption(selected=True, text=RUNBOOK, value=RUNBOOK),
            hide=dashboard.VariableHide.HIDE_VARIABLE,
        ),
    ]


def _annotations() -> list[dashboard.AnnotationQuery]:
    return [
        dashboard.AnnotationQuery(
            name="Firing alerts",
            datasource=SOURCE,
            enable=True,
            icon_color="red",
            expr='ALERTS{alertname=~"KVGate.+",alertstate="firing"}',
            title_format="{{alertname}}",
            text_format="{{severity}} {{model_name}} {{backend}}",
            step="60s",
        ),
        dashboard.AnnotationQuery(
            name="Configuration loaded",
            datasource=SOURCE,
            enable=True,
            icon_color="blue",
            expr='kvgate_config_last_reload_success_timestamp_seconds{job=~"$job"} * 1000',
            title_format="Configuration loaded",
            text_format="{{instance}}",
            step="60s",
            use_value_for_time=True,
        ),
    ]


def _links() -> list[dashboard.DashboardLink]:
    return [
        dashboard.DashboardLink(
            title="KVGate",
            type_val=dashboard.DashboardLinkType.DASHBOARDS,
            icon="external link",
            tooltip="The other dashboards, with the same time and the same variables",
            tags=[TAG],
            include_vars=True,
            keep_time=True,
        ),
        dashboard.DashboardLink(
            title="Runbook",
            type_val=dashboard.DashboardLinkType.LINK,
            icon="doc",
            tooltip=f"{RUNBOOK}: what each alert means and what to do. The variable 'runbook' holds its address.",
            url="${runbook}",
            target_blank=True,
        ),
    ]
