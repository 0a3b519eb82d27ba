"""The compose file through its schema and through Docker Compose, which needs no Docker to read it."""

from __future__ import annotations

import pytest

from tests.deploy.tools import DEPLOY, done, said, tool

pytestmark = [pytest.mark.ops, pytest.mark.timeout(60)]

FOLDER = DEPLOY / "compose"
WATCHERS = {"alertmanager", "grafana", "prometheus"}


def test_it_follows_the_specification() -> None:
    """The schema that the Compose project publishes."""
    said(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml")


@pytest.mark.parametrize(
    ("profile", "services"),
    [
        ("", {"engine-a", "engine-b", "gateway", "traffic"}),
        ("mock", {"engine-a", "engine-b", "gateway", "traffic"}),
        ("gpu", {"gateway-gpu", "vllm"}),
        ("novita", {"gateway-novita"}),
    ],
)
def test_each_profile_starts_its_services(profile: str, services: set[str]) -> None:
    """And none of another profile, even where .env names a default."""
    chosen = ("--profile", profile) if profile else ()
    listed = said(tool("docker-compose"), *chosen, "config", "--services", cwd=FOLDER)
    assert set(listed.split()) == services | WATCHERS | {"token"}


def test_the_watchers_take_their_files() -> None:
    """Prometheus and Alertmanager read what they get mounted."""
    said(tool("promtool"), "check", "config", "--syntax-only", FOLDER / "prometheus.yml")
    said(tool("amtool"), "check-config", FOLDER / "alertmanager.yml")
    assert done(tool("amtool"), "check-config", FOLDER / "prometheus.yml").returncode != 0
