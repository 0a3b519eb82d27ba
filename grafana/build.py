"""Writes the dashboards as JSON files, which are what people import and what deployments mount."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import backend, board, capacity, overview, tenants

FOLDER = Path(__file__).parent / "dashboards"


def texts() -> Iterator[tuple[Path, str]]:
    """Each dashboard's file and what has to stand in it."""
    for described in (overview.BOARD, capacity.BOARD, backend.BOARD, tenants.BOARD):
        yield FOLDER / f"{described.name}.json", text(board.build(described))


def text(dashboard: Dashboard) -> str:
    """A dashboard as its file holds it."""
    tree = json.loads(json.dumps(dashboard, cls=JSONEncoder))
    for link in tree["links"]:
        # The SDK knows only one place, a menu that nobody opens; without it a link stands on top of the page.
        del link["placement"]
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"


def parse(text: str) -> Dashboard:
    """A dashboard from its file."""
    register_default_plugins()
    return Dashboard.from_json(json.loads(text))


def main() -> None:
    """Write every file anew."""
    FOLDER.mkdir(exist_ok=True)
    for path, content in texts():
        path.write_text(content, "utf-8")


if __name__ == "__main__":
    main()
