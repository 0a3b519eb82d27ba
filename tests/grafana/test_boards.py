"""The shape of the dashboards: every panel answers one question in full, and stands where nothing else stands."""

import itertools

import pytest

from tests.grafana.dashboards import NAMES, Position, Source, load, panels

GRID_COLUMNS = 24
SOURCE = Source("prometheus", "${datasource}")


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_answers_one_question(name: str) -> None:
    """A title that asks, a description that tells from what and what for, a unit, a scale, and what empty means."""
    for panel in panels(name):
        assert panel.title.endswith("?"), panel.title
        assert panel.title.count("?") == 1
        assert len(panel.title) <= 70, panel.title
        assert len(panel.description) >= 40, panel.title
        assert panel.description.endswith("."), panel.title
        assert panel.field_config is not None
        defaults = panel.field_config.defaults
        assert defaults.unit, panel.title
        assert defaults.min is not None, panel.title
        assert defaults.no_value, panel.title
        if defaults.unit == "percentunit":
            assert defaults.max is not None, panel.title


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_asks_the_chosen_prometheus(name: str) -> None:
    """At least one query each, lettered in order, all of the data source variable."""
    for panel in panels(name):
        assert panel.datasource == SOURCE
        assert [target.ref_id for target in panel.targets] == [chr(65 + i) for i in range(len(panel.targets))]
        assert panel.targets, panel.title
        assert all(target.datasource == SOURCE for target in panel.targets)
        assert len({(target.expr, target.legend_format) for target in panel.targets}) == len(panel.targets)


@pytest.mark.parametrize("name", NAMES)
def test_thresholds_start_below_everything_and_rise(name: str) -> None:
    for panel in panels(name):
        assert panel.field_config is not None
        thresholds = panel.field_config.defaults.thresholds
        assert thresholds is not None, panel.title
        first, *steps = thresholds.steps
        assert first.value is None
        values = [step.value for step in steps]
        assert None not in values
        assert values == sorted(set(values), key=lambda value: value or 0.0), panel.title
        low, high = panel.field_config.defaults.min, panel.field_config.defaults.max
        assert all(value is not None and (low or 0.0) < value <= (high or float("inf")) for value in values), (
            panel.title
        )


@pytest.mark.parametrize("name", NAMES)
def test_panels_fit_the_grid_and_do_not_overlap(name: str) -> None:
    placed = load(name).panels
    for panel in placed:
        assert panel.grid_pos.x >= 0
        assert panel.grid_pos.x + panel.grid_pos.w <= GRID_COLUMNS
    for one, other in itertools.combinations(placed, 2):
        assert not _overlap(one.grid_pos, other.grid_pos), (one.title, other.title)
    tops = [(panel.grid_pos.y, panel.grid_pos.x) for panel in placed]
    assert tops == sorted(tops)


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_the_grid_are_full(name: str) -> None:
    """No holes: the panels that start at one height fill its width."""
    for _, line in itertools.groupby(load(name).panels, key=lambda panel: panel.grid_pos.y):
        assert sum(panel.grid_pos.w for panel in line) == GRID_COLUMNS


@pytest.mark.parametrize("name", NAMES)
def test_no_title_is_given_twice(name: str) -> None:
    titles = [panel.title for panel in load(name).panels]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", NAMES)
def test_variables_are_the_same_everywhere(name: str) -> None:
    """So that a link between dashboards carries them; "All" backends are those of the chosen models."""
    variables = {variable.name: variable for variable in load(name).templating.entries}
    assert list(variables)[:5] == ["datasource", "job", "model_name", "backend", "runbook"]
    assert all(variable.label and variable.description for variable in variables.values())
    assert all(variable.datasource == SOURCE for variable in variables.values() if variable.type == "query")
    assert variables["backend"].all_value is None
    assert variables["model_name"].all_value == ".*"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_the_other_dashboards_and_to_the_runbook(name: str) -> None:
    dashboard = load(name)
    others, runbook = dashboard.links
    assert others.type == "dashboards"
    assert others.tags == dashboard.tags == ["kvgate"]
    assert others.include_vars
    assert others.keep_time
    assert runbook.url == "${runbook}"
    assert {variable.name: variable.query for variable in dashboard.templating.entries}[
        "runbook"
    ] == "deploy/RUNBOOK.md"


def _overlap(one: Position, other: Position) -> bool:
    beside = one.x + one.w <= other.x or other.x + other.w <= one.x
    above = one.y + one.h <= other.y or other.y + other.h <= one.y
    return not (beside or above)
