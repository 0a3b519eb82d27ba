"""What is committed is what the modules describe, and what Grafana's own types understand."""

import json
from pathlib import Path

import pytest

from grafana import build
from tests.grafana.dashboards import FOLDER, NAMES, load

UIDS = {"kvgate-overview", "kvgate-capacity", "kvgate-backend", "kvgate-tenants"}
"""Links, alerts and bookmarks hold them: they never change."""


def test_the_files_are_those_that_are_built() -> None:
    """After a change: `python -m grafana.build`."""
    built = dict(build.texts())
    assert set(built) == set(FOLDER.iterdir())
    for path, text in built.items():
        assert path.read_text("utf-8") == text, path.name


def test_building_twice_gives_the_same() -> None:
    """No id depends on the run."""
    assert dict(build.texts()) == dict(build.texts())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_survives_grafanas_types(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text("utf-8")
    assert build.text(build.parse(text)) == text


def test_uids_are_stable() -> None:
    assert {load(name).uid for name in NAMES} == UIDS


@pytest.mark.parametrize("name", NAMES)
def test_a_file_can_be_provisioned(name: str) -> None:
    """Nothing asks at import time, which provisioning does not do, and nothing belongs to one Grafana."""
    tree = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    assert not {"__inputs", "__requires", "id", "version", "iteration"} & set(tree)
    ids = [panel["id"] for panel in tree["panels"]]
    assert ids == list(range(1, len(ids) + 1))


def test_main_writes_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FOLDER", tmp_path / "new")
    build.main()
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"{name}.json" for name in NAMES}
