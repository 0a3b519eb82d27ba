"""Copies rules and dashboards into the Helm chart, which must hold what it installs, and renders it for kubectl."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy/helm/kvgate"
RENDERED = ROOT / "deploy/k8s/kvgate.yaml"
HEAD = "# The Helm chart with its default values, made by `make chart`. Name your engines before you apply it.\n"


def copies() -> dict[Path, str]:
    """What has to stand in the chart's files, and in no others beside them: rules and dashboards as they are."""
    rules = (ROOT / "deploy/prometheus").glob("*.yml")
    dashboards = (ROOT / "grafana/dashboards").glob("*.json")
    texts = {path: path.read_text("utf-8") for path in sorted((*rules, *dashboards))}
    return {
        CHART / "files" / ("dashboards" if path.suffix == ".json" else "rules") / path.name: text
        for path, text in texts.items()
        if path.suffix == ".json" or "\ngroups:\n" in text
    }


def copied() -> dict[Path, str]:
    """What stands there now."""
    return {path: path.read_text("utf-8") for path in sorted((CHART / "files").rglob("*.*"))}


def render(values: Mapping[str, object]) -> str:
    """The chart with these values, as `helm template` makes it.

    Raises:
        helm_python.HelmError: values that the chart refuses.
    """
    from helm_python import Chart  # noqa: PLC0415  # only those who render need it

    made = Chart.load(CHART).render(dict(values), name="kvgate", namespace="default")
    parts = ((name, text.strip().removeprefix("---").strip()) for name, text in sorted(made.items()))
    return "".join(f"---\n# {name}\n{text}\n" for name, text in parts if name.endswith(".yaml") and text)


def main() -> None:
    """Write what is made, or render other values."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--values", type=json.loads, help="print the chart with these values (JSON); write nothing")
    given = arguments.parse_args()
    if given.values is not None:
        sys.stdout.write(render(given.values))
        return
    wanted = copies()
    for path in copied().keys() - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    RENDERED.write_text(HEAD + render({}), "utf-8")


if __name__ == "__main__":
    main()
