"""Every query parses, and asks only for series and labels that the gateway exports or a rule records."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import yaml

from gateway.reporting.families import FAMILIES, PREFIX
from tests.deploy.promql import TARGET, Schema
from tests.grafana.dashboards import NAMES, Asked, filled_in, load, queries

RULES = Path(__file__).parent.parent.parent / "deploy" / "prometheus" / "recording.yml"
TIMES = {"__rate_interval": "5m", "__range": "1h"}
QUERIES = queries()


class Rule(msgspec.Struct):
    record: str
    expr: str


class Group(msgspec.Struct):
    rules: list[Rule]


class RuleFile(msgspec.Struct):
    groups: list[Group]


Labels = Mapping[str, frozenset[str]]


def exported() -> dict[str, frozenset[str]]:
    """Labels of every series of the contract."""
    known: dict[str, frozenset[str]] = {}
    for family in FAMILIES:
        name, labels = PREFIX + family.name, TARGET | frozenset(family.labels)
        if family.type == "histogram":
            known |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            known[name] = labels
    return known


def recorded(known: dict[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """With the labels of what the rules record; one rule may use another."""
    for group in msgspec.convert(yaml.safe_load(RULES.read_text("utf-8")), RuleFile).groups:
        for rule in group.rules:
            known[rule.record] = labels_of(rule.expr, known)
    return known


def labels_of(expr: str, known: Labels) -> frozenset[str]:
    """Labels of a query's result, once everything that it asks for is found to exist."""
    schema = Schema(known, ("vllm:", "ALERTS"))
    labels = schema.follow(filled_in(expr, TIMES))
    assert schema.wrong == []
    return labels


@pytest.fixture(scope="module")
def known() -> Labels:
    return recorded(exported())


@pytest.mark.parametrize("asked", QUERIES, ids=str)
def test_a_query_asks_for_what_exists(asked: Asked, known: Labels) -> None:
    """Names, labels that select, group and match, and labels in the legend."""
    labels = labels_of(asked.target.expr, known)
    shown = set(re.findall(r"{{\s*(\w+)\s*}}", asked.target.legend_format))
    assert "*" in labels or shown <= labels


@pytest.mark.parametrize("asked", QUERIES, ids=str)
def test_series_that_differ_have_legends_that_differ(asked: Asked, known: Labels) -> None:
    """Labels that a query keeps are shown, but for the job; tables and heatmaps show them by themselves."""
    labels = labels_of(asked.target.expr, known) - {"job"}
    if asked.panel.type in {"table", "heatmap"} or "*" in labels or asked.panel.repeat:
        return
    if asked.panel.type == "stat":
        assert labels == set()
        return
    hidden = {"backend"} if _is_repeated(asked) else set()
    assert labels - hidden <= set(re.findall(r"{{\s*(\w+)\s*}}", asked.target.legend_format))


def _is_repeated(asked: Asked) -> bool:
    """Whether the panel stands in a row that is repeated for each backend."""
    rows = [panel for panel in load(asked.dashboard).panels if panel.type == "row"]
    above = [row for row in rows if row.id < asked.panel.id]
    return above[-1].repeat == "backend"


@pytest.mark.parametrize("asked", QUERIES, ids=str)
def test_a_query_follows_the_variables(asked: Asked) -> None:
    """Each of our own series is selected by job and by each chosen label that it has; no variable is unknown."""
    declared = {variable.name for variable in load(asked.dashboard).templating.entries} | set(TIMES)
    assert set(re.findall(r"\$(\w+)", asked.target.expr)) <= declared
    for selector in re.findall(r"(?:kvgate_|model:|backend:)[\w:]+(\{.*?\})?", asked.target.expr):
        assert 'job=~"$job"' in selector


@pytest.mark.parametrize("name", NAMES)
def test_variables_and_annotations_ask_for_what_exists(name: str, known: Labels) -> None:
    dashboard = load(name)
    for annotation in dashboard.annotations.entries:
        labels_of(annotation.expr, known)
    for variable in dashboard.templating.entries:
        if variable.type == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.query)
            assert found is not None
            assert found[2] in labels_of(found[1], known)


def test_windows_follow_the_zoom_unless_they_are_what_is_asked() -> None:
    """Fixed windows are only those of which the title or the description speaks."""
    spoken = {"10m": "ten minutes", "1h": "an hour", "6h": "six hours"}
    for asked in QUERIES:
        for window in re.findall(r"\[([^$\]]+)\]", asked.target.expr):
            assert spoken[window] in asked.panel.description, asked
