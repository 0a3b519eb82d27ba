"""Rules, alerts, dashboards, runbook and code speak of the same metrics, labels and values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from gateway.backends.catalog import ENGINES
from gateway.reporting.cardinality import Fleet
from gateway.reporting.families import FAMILIES, PREFIX
from gateway.reporting.labels import closed_values
from tests.deploy.promql import TARGET, Schema
from tests.deploy.tools import said, tool
from tests.grafana.dashboards import NAMES, filled_in, load, queries
from tests.reporting.samples import used_up

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RECORDING = PROMETHEUS / "recording.yml"
ALERTS = PROMETHEUS / "alerts.yml"
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"
FOREIGN = ("vllm:", "up", "ALERTS")
GRAFANA = {"__rate_interval": "5m", "__range": "1h"}


class Rule(msgspec.Struct, rename={"for_": "for"}):
    """A recording rule or an alert."""

    expr: str
    record: str = ""
    alert: str = ""
    for_: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


def rules(path: Path) -> list[Rule]:
    groups = yaml.safe_load(path.read_text("utf-8"))["groups"]
    return [msgspec.convert(rule, Rule) for group in groups for rule in group["rules"]]


def schema() -> Schema:
    """Metrics of the code, and of the recording rules, whose labels follow from theirs."""
    labels: dict[str, frozenset[str]] = {}
    for family in FAMILIES:
        own = frozenset(family.labels) | TARGET
        name = PREFIX + family.name
        if family.type == "histogram":
            labels |= {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
        else:
            labels[name] = own
    known = Schema(labels, FOREIGN)
    for rule in rules(RECORDING):
        labels[rule.record] = known.follow(rule.expr)
    return known


def family_of(metric: str) -> str:
    """The family that a name belongs to, without the prefix; for a recorded one, its own name."""
    name = metric.removeprefix(PREFIX)
    names = {family.name for family in FAMILIES}
    stem = re.sub(r"_(bucket|sum|count)$", "", name)
    return name if name in names or stem not in names else stem


def unknown_values(found: Schema) -> Iterator[str]:
    """Comparisons with a value that no series ever has: these match nothing, or everything."""
    for metric, label, value in found.matched:
        name = family_of(metric)
        values = (*ENGINES, "auto") if (name, label) == ("backend_info", "kind") else closed_values(name, label)
        if values and "$" not in value and value not in (*values, "", ".+", ".*"):
            yield f"{metric}: {label} is never {value}"


def test_rules_use_what_exists() -> None:
    """Metrics, their labels at every step, and the values of labels that have only a few."""
    found = schema()
    for alert in rules(ALERTS):
        found.follow(alert.expr)
    assert found.wrong == []
    assert list(unknown_values(found)) == []


def test_dashboards_compare_with_values_that_occur() -> None:
    """That their series and labels exist is seen to where they are made."""
    found = schema()
    for asked in queries():
        found.follow(filled_in(asked.target.expr, GRAFANA))
    assert list(unknown_values(found)) == []


@pytest.mark.parametrize(
    ("expr", "complaint"),
    [
        ("kvgate_no_such_metric", "there is no metric kvgate_no_such_metric"),
        ('kvgate_backend_up{model_name="m"}', "no label model_name"),
        ("sum by (model_name) (kvgate_backend_up)", "no label model_name"),
        ("sum without (kind) (kvgate_backend_up)", "no label kind"),
        ("kvgate_backend_up and on (backend, model_name) kvgate_backend_info", "no label model_name"),
        ("kvgate_backend_info * on (backend) group_left (state) kvgate_backend_up", "no label state"),
        ("sum by (backend) (sum by (job) (kvgate_backend_up))", "no label backend"),
        ("histogram_quantile(0.9, rate(kvgate_event_loop_lag_seconds_sum[5m]))", "no label le"),
        ("model:kvgate_kv_headroom:ratio{backend='b'}", "no label backend"),
    ],
)
def test_what_does_not_exist_is_found(expr: str, complaint: str) -> None:
    """The checks above would be worth nothing if they let these pass."""
    found = schema()
    found.follow(expr)
    assert any(complaint in wrong for wrong in found.wrong), found.wrong


@pytest.mark.parametrize(
    ("expr", "complaint"),
    [
        ('kvgate_admission_decisions_total{outcome=~"admitted|dropped"}', "outcome is never dropped"),
        ('sum(rate(kvgate_admission_decisions_total{reason!="no_such"}[5m])) > 0', "reason is never no_such"),
        ('kvgate_backend_info{kind="triton"}', "kind is never triton"),
        ('rate(kvgate_prediction_ratio_bucket{kind="resident"}[5m])', "kind is never resident"),
    ],
)
def test_values_that_never_occur_are_found(expr: str, complaint: str) -> None:
    found = schema()
    found.follow(expr)
    assert [wrong.partition(": ")[2] for wrong in unknown_values(found)] == [complaint]


def test_recorded_names_say_what_their_labels_are() -> None:
    """Level, metric and operation."""
    known = schema().labels
    for rule in rules(RECORDING):
        level, metric, operation = rule.record.split(":")
        assert {"job", {"backend": "backend", "model": "model_name"}[level]} <= known[rule.record]
        assert metric.startswith(PREFIX)
        assert re.search(r"ratio|sum|rate|p95", operation), rule.record


def test_every_alert_tells_what_is_wrong_and_what_to_do() -> None:
    headings = re.findall(r"^## (KVGate\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    for alert in rules(ALERTS):
        assert alert.labels["severity"] in ("critical", "warning", "info"), alert
        assert alert.annotations.keys() == {"summary", "description", "runbook", "dashboard"}, alert
        assert "{{" not in alert.annotations["summary"], f"{alert}: a summary stands for many, so it has no values"
        assert "$value" in alert.annotations["description"], alert
        assert alert.annotations["runbook"] == f"deploy/RUNBOOK.md#{alert.alert.lower()}"
    assert headings == list(dict.fromkeys(alert.alert for alert in rules(ALERTS)))
    assert len(headings) == 23


def test_descriptions_name_labels_that_the_alert_has() -> None:
    """An unknown label would be an empty space in the middle of a sentence."""
    found = schema()
    for alert in rules(ALERTS):
        labels = found.follow(alert.expr) | alert.labels.keys()
        assert set(re.findall(r"\$labels\.(\w+)", str(alert.annotations))) <= labels, alert


def test_links_of_the_runbook_lead_somewhere() -> None:
    text = RUNBOOK.read_text("utf-8")
    anchors = {heading.lower() for heading in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([a-z]+)\)", text)) <= anchors
    known = schema().labels
    for name in re.findall(r"\b(kvgate_\w+|(?:model|backend):\w+:\w+)", text):
        assert any(metric == name or metric.startswith(f"{name}_") for metric in known), name


def test_alerts_lead_to_dashboards_that_exist() -> None:
    uids = {f"/d/{load(name).uid}" for name in NAMES}
    assert {alert.annotations["dashboard"] for alert in rules(ALERTS)} <= uids


def test_every_alert_is_shown_firing() -> None:
    """By name in the unit tests of the rules; that they hold is seen below, where promtool is."""
    text = "".join(path.read_text("utf-8") for path in UNIT_TESTS)
    for alert in rules(ALERTS):
        assert re.search(rf'alertname(="|: ){alert.alert}\b', text), alert


def test_promtool_finds_nothing_to_complain_of() -> None:
    said(tool("promtool"), "check", "rules", "--lint=all", "--lint-fatal", RECORDING, ALERTS)
    said(tool("promtool"), "check", "config", PROMETHEUS / "prometheus.yml")


def test_promtool_takes_the_page() -> None:
    """With every family on it, and every value of every label."""
    page, _ = used_up(Fleet(3, 2, gpus=2, tenants=2)).render()
    assert said(tool("promtool"), "check", "metrics", text=page.decode()) == ""


def test_alertmanager_takes_its_example() -> None:
    said(tool("amtool"), "check-config", PROMETHEUS / "alertmanager.yml")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    """What `promtool test rules` says of series that are made up."""
    said(tool("promtool"), "test", "rules", path)
