"""The compose file and what it mounts: every path there, every configuration one that the gateway takes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.cli.health import health
from gateway.config import load_config
from tests.deploy.tools import DEPLOY, ROOT, read

COMPOSE = read("compose/compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
GATEWAYS = {"gateway": "mock", "gateway-gpu": "gpu", "gateway-novita": "novita"}
LOOPBACK = re.compile(r"127\.0\.0\.1:\d+:\d+")


@pytest.mark.parametrize(("service", "profile"), GATEWAYS.items())
def test_each_profile_has_a_gateway_that_starts(service: str, profile: str) -> None:
    """Its configuration is one, with the variables that it gets, and its backends run in the same profile."""
    described = SERVICES[service]
    assert described["profiles"] == [profile]
    environ = {name: value or "a-key" for name, value in described["environment"].items()}
    environ |= {"KVGATE_LISTEN__ADMIN_TOKEN": "env:MADE", "MADE": "m" * 64}
    path = Path(described["command"][-1])
    config = load_config(DEPLOY / "compose/kvgate" / path.relative_to("/etc/kvgate"), environ=environ)
    assert config.listen.admin_host == "0.0.0.0"
    assert config.state.path
    for backend in config.backends:
        scheme, _, address = backend.url.partition("://")
        assert scheme == "https" or SERVICES[address.partition(":")[0]]["profiles"] == [profile]


def test_the_mock_profile_starts_where_none_is_named() -> None:
    """It needs neither a GPU nor a key."""
    assert "COMPOSE_PROFILES=mock\n" in (DEPLOY / "compose/.env").read_text("utf-8")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_pinned_and_private(service: str) -> None:
    """A tag that moves is no tag, and nothing is opened beyond this machine."""
    described = SERVICES[service]
    name, _, tag = described["image"].partition(":")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name
    assert all(LOOPBACK.fullmatch(port) for port in described.get("ports", []))
    if name == "kvgate":
        assert tag == gateway.__version__
        assert described["read_only"] is True
        assert described["cap_drop"] == ["ALL"]


def test_every_mounted_path_is_there() -> None:
    """Docker would make an empty folder of a name that is spelled wrong."""
    mounts = [volume for each in SERVICES.values() for volume in each.get("volumes", [])]
    folders = [volume.partition(":")[0] for volume in mounts if volume.startswith(".")]
    assert [folder for folder in folders if not (DEPLOY / "compose" / folder).resolve().exists()] == []
    assert set(COMPOSE["volumes"]) == {volume.partition(":")[0] for volume in mounts if not volume.startswith(".")}


def test_the_admin_port_has_a_token_of_its_own(tmp_path: Path) -> None:
    """Made at the first start, before anybody needs it, and told to the gateway and to Prometheus alone."""
    (maker,) = [each for each in SERVICES.values() if each.get("network_mode") == "none"]
    made, _, folder = maker["volumes"][0].partition(":")
    (script,) = maker["command"]
    tokens = []
    for _ in range(2):
        exec(script.replace(folder, str(tmp_path)), {})  # it is what is tested
        tokens.append((tmp_path / "admin-token").read_text())
    assert tokens[0] == tokens[1]
    assert load_config(environ={"KVGATE_LISTEN__ADMIN_TOKEN": "env:T", "T": tokens[0]}).listen.admin_token
    assert not maker.get("profiles")
    sharing = {name for name, each in SERVICES.items() if f"{made}:/run/kvgate:ro" in each.get("volumes", [])}
    assert sharing == {*GATEWAYS, "prometheus"}
    for name in sharing:
        assert SERVICES[name]["depends_on"]["token"] == {"condition": "service_completed_successfully"}
    told = {SERVICES[name]["environment"]["KVGATE_LISTEN__ADMIN_TOKEN"] for name in GATEWAYS}
    assert told == {"file:/run/kvgate/admin-token"}


def test_prometheus_finds_the_gateway_and_all_rules() -> None:
    """By the name that the alerts know it by; the folder holds examples of other files too."""
    described = read("compose/prometheus.yml")
    jobs = {job["job_name"]: job for job in described["scrape_configs"]}
    assert jobs["kvgate"]["static_configs"] == [{"targets": ["kvgate:8081"]}]
    assert jobs["kvgate"]["authorization"] == {"credentials_file": "/run/kvgate/admin-token"}
    rules = {path.name for path in (DEPLOY / "prometheus").glob("*.yml") if "groups" in read(f"prometheus/{path.name}")}
    assert {Path(path).name for path in described["rule_files"]} == rules
    engines = {name for each in jobs["engines"]["dns_sd_configs"] for name in each["names"]}
    assert engines <= set(SERVICES)


def test_alerts_are_silenced_as_in_the_example() -> None:
    """Which alert follows from which is a matter of the rules, not of how they are deployed."""
    assert read("compose/alertmanager.yml")["inhibit_rules"] == read("prometheus/alertmanager.yml")["inhibit_rules"]


def test_grafana_starts_with_a_dashboard_that_is_there() -> None:
    """And finds the others in the folder that its provider names."""
    grafana = SERVICES["grafana"]
    target = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"]}
    provider = read("compose/grafana/provisioning/dashboards/kvgate.yaml")["providers"][0]
    folder = provider["options"]["path"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(folder)
    assert (DEPLOY / "compose" / target[folder] / home.name).is_file()


def test_the_image_is_of_this_version_and_gets_what_it_copies() -> None:
    """Each file that the Dockerfile copies from the repository is let through by .dockerignore."""
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
    assert f'image.version="{gateway.__version__}"' in dockerfile
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").split() if line.startswith("!")}
    assert copied == let_through
    assert all(list(ROOT.glob(name)) for name in copied)


def test_the_image_asks_itself_where_it_listens() -> None:
    """`kvgate health` without arguments asks the port that the image exposes."""
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text("utf-8")
    assert 'CMD ["kvgate", "health"]' in dockerfile
    assert inspect.signature(health).parameters["url"].default.endswith(f":{load_config(environ={}).listen.port}")
    assert "EXPOSE 8080 8081\n" in dockerfile
