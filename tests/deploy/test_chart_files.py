"""The chart and its render as files: true to what they copy, and true to the product that they run."""

from __future__ import annotations

import json
from typing import Any

import pytest

import gateway
from deploy import generate
from gateway.config import load_config
from tests.deploy.tools import DEPLOY, objects, read

FILES = [path.relative_to(generate.ROOT).as_posix() for path in generate.copies()]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What `kubectl apply` would get, by kind; the Service is the API's."""
    text = generate.RENDERED.read_text("utf-8")
    return {each["kind"]: each for each in objects(text) if not each["metadata"]["name"].endswith("-admin")}


def test_the_chart_holds_the_rules_and_dashboards_as_they_are() -> None:
    """A rule that was changed and not copied would be a rule that nobody runs: `make chart`."""
    wanted, there = generate.copies(), generate.copied()
    assert sorted(map(str, there)) == sorted(map(str, wanted))
    assert [path.name for path, text in wanted.items() if there[path] != text] == []
    assert {path.parent.name for path in wanted} == {"rules", "dashboards"}


def test_the_chart_is_of_this_version() -> None:
    """Its default image is the one that this code makes."""
    chart = read("helm/kvgate/Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (gateway.__version__, gateway.__version__)


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    """A value that the schema does not know is refused; one that has no default is not explained."""
    schema = json.loads((DEPLOY / "helm/kvgate/values.schema.json").read_text("utf-8"))
    assert set(schema["properties"]) - {"global"} == set(read("helm/kvgate/values.yaml"))
    assert schema["additionalProperties"] is False


def test_the_rendered_configuration_is_one(golden: dict[str, Any]) -> None:
    """The gateway takes it, with the variables that the pod has, and listens where the Services and probes look."""
    container = golden["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    environ = {each["name"]: each["value"] for each in container["env"]}
    text = golden["ConfigMap"]["data"]["kvgate.yaml"]
    config = load_config(overrides=objects(text)[0], environ=environ)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"api": config.listen.port, "admin": config.listen.admin_port}
    assert (config.listen.host, config.listen.admin_host) == ("0.0.0.0", "127.0.0.1")
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert str(config.state.path).rpartition("/")[0] in mounts
    assert container["args"][-1].rpartition("/")[0] in mounts


def test_a_pod_ends_later_than_the_gateway_drains(golden: dict[str, Any]) -> None:
    """Or answers would be cut that the gateway would have let end."""
    pod = golden["Deployment"]["spec"]["template"]["spec"]
    pause_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + load_config(environ={}).drain_max_s


def test_probes_ask_the_api(golden: dict[str, Any]) -> None:
    """Life is `/health`; whether it takes requests is `/ready`, which does not depend on engines."""
    container = golden["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert {probe: get["path"] for probe, get in asked.items()} == {
        "startup": "/health",
        "liveness": "/health",
        "readiness": "/ready",
    }
    assert {get["port"] for get in asked.values()} == {"api"}


def test_the_pod_may_do_nothing_that_it_need_not(golden: dict[str, Any]) -> None:
    """Kubernetes' restricted standard, and a root file system that nobody writes."""
    pod = golden["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


def test_nobody_reaches_the_admin_port(golden: dict[str, Any]) -> None:
    """It has no token until somebody makes one. The API is open, as its keys are the gateway's business."""
    policy = golden["NetworkPolicy"]["spec"]
    doors = {door["ports"][0]["port"]: door.get("from") for door in policy["ingress"]}
    assert doors == {"api": None}
    assert [
        each["metadata"]["name"] for each in objects(generate.RENDERED.read_text("utf-8")) if each["kind"] == "Service"
    ] == ["kvgate"]
    assert {port["targetPort"] for port in golden["Service"]["spec"]["ports"]} == {"api"}
