"""The committed dashboards as tests read them: panels, queries, and what stands for a variable in a query."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent.parent.parent / "grafana" / "dashboards"
NAMES = ("overview", "capacity", "backend", "tenants")


class Position(msgspec.Struct):
    x: int
    y: int
    w: int
    h: int


class Source(msgspec.Struct):
    type: str
    uid: str


class Target(msgspec.Struct, rename="camel"):
    expr: str
    ref_id: str
    datasource: Source
    legend_format: str = ""
    instant: bool = False
    format: str = "time_series"


class Step(msgspec.Struct):
    value: float | None
    color: str


class Thresholds(msgspec.Struct):
    mode: str
    steps: list[Step]


class Defaults(msgspec.Struct, rename="camel"):
    unit: str = ""
    min: float | None = None
    max: float | None = None
    no_value: str = ""
    thresholds: Thresholds | None = None


class FieldConfig(msgspec.Struct):
    defaults: Defaults


class Panel(msgspec.Struct, rename="camel"):
    """A panel; or a row, which has a title only."""

    id: int
    type: str
    title: str
    grid_pos: Position
    description: str = ""
    datasource: Source | None = None
    targets: list[Target] = []
    field_config: FieldConfig | None = None
    repeat: str = ""


class Variable(msgspec.Struct, rename="camel"):
    name: str
    type: str
    description: str
    query: str
    label: str = ""
    all_value: str | None = None
    datasource: Source | None = None


class Templating(msgspec.Struct):
    entries: list[Variable] = msgspec.field(name="list")


class Link(msgspec.Struct, rename="camel"):
    title: str
    type: str
    tags: list[str]
    url: str = ""
    include_vars: bool = False
    keep_time: bool = False


class Annotation(msgspec.Struct):
    name: str
    expr: str


class Annotations(msgspec.Struct):
    entries: list[Annotation] = msgspec.field(name="list")


class Dashboard(msgspec.Struct):
    """One file."""

    uid: str
    title: str
    description: str
    tags: list[str]
    panels: list[Panel]
    templating: Templating
    annotations: Annotations
    links: list[Link]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query in its panel."""

    dashboard: str
    panel: Panel
    target: Target

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel.title} ({self.target.ref_id})"


def load(name: str) -> Dashboard:
    """A committed dashboard."""
    return msgspec.json.decode((FOLDER / f"{name}.json").read_bytes(), type=Dashboard)


def panels(name: str) -> list[Panel]:
    """Its panels, without rows."""
    return [panel for panel in load(name).panels if panel.type != "row"]


def queries() -> list[Asked]:
    """Every query of every panel."""
    return [Asked(name, panel, target) for name in NAMES for panel in panels(name) for target in panel.targets]


def filled_in(expr: str, values: dict[str, str]) -> str:
    """A query with these values for its variables, the longest name first."""
    for name in sorted(values, key=len, reverse=True):
        expr = expr.replace(f"${name}", values[name])
    return expr
