"""The chart through Helm itself, and what it makes through the schemas of Kubernetes and of the operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import generate
from gateway.config import load_config
from tests.deploy.tools import ENVIRONMENT, attempt, done, objects, read, rendered, said, tool

pytestmark = [pytest.mark.ops, pytest.mark.timeout(300)]

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))
"""Of Kubernetes, all of them that the chart says it is for and the schemas know."""
TARGET: dict[str, Any] = {
    "name": "vllm",
    "backends": ["vllm-0", "vllm-1"],
    "models": ["llama-3.1-8b"],
    "capacityTokens": 412_160,
    "minReplicas": 0,
    "maxReplicas": 2,
}
EVERYTHING: dict[str, Any] = {
    "config": {
        "ledger": "redis://valkey:6379/0",
        "backends": [
            {"name": "vllm-0", "url": "http://vllm-0.vllm:8000"},
            {"name": "novita", "url": "https://api.novita.ai/openai", "api_key": "file:/run/secrets/kvgate/novita"},
        ],
    },
    "admin": {"tokenSecret": {"name": "kvgate-admin"}},
    "secrets": {"create": {"novita": "not-a-key"}},
    "state": {"existingClaim": "learned"},
    "networkPolicy": {"egress": [{"ports": [{"port": 8000}]}]},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboards": {"enabled": True, "annotations": {"grafana_folder": "KVGate"}},
    "keda": {"enabled": True, "targets": [TARGET]},
    "extraEnv": [{"name": "TZ", "value": "UTC"}],
    "podAnnotations": {"a": "b"},
}
ACCEPTED = {
    "CKV_K8S_11": "no limit on CPU: throttling would hold back every stream",
    "CKV_K8S_15": "a pinned tag need not be pulled again",
    "CKV_K8S_21": "the namespace is chosen when it is applied",
    "CKV_K8S_43": "a digest is known once an image is pushed: image.digest",
}
"""What checkov finds and we mean."""


@pytest.fixture(scope="module")
def everything() -> str:
    """All that the chart can make."""
    return rendered(EVERYTHING)


def test_helm_finds_no_fault() -> None:
    """`helm lint --strict` has nothing to say but that there is no icon."""
    tool("hadolint")
    lint = f"import helm_python; print(helm_python.lint({str(generate.CHART)!r}, strict=True))"
    report = yaml.safe_load(said(ENVIRONMENT / "bin/python", "-c", lint))
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


def test_the_committed_render_is_what_the_chart_makes() -> None:
    """`make chart`."""
    assert generate.RENDERED.read_text("utf-8") == generate.HEAD + rendered({})


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version: str, everything: str, tmp_path: Path) -> None:
    """In each version that the chart is for, and with nothing in it that the version does not know."""
    path = tmp_path / "everything.yaml"
    path.write_text(everything, "utf-8")
    said(tool("kubernetes-validate"), "-k", version, "--strict", "--quiet", path)
    broken = everything.replace("readOnlyRootFilesystem:", "readOnlyRootFilesytem:")
    path.write_text(broken, "utf-8")
    assert done(tool("kubernetes-validate"), "-k", version, "--strict", "--quiet", path).returncode == 1


def test_operators_know_their_objects(everything: str) -> None:
    """ServiceMonitor, PrometheusRules and ScaledObject by the schemas of their makers; one that is wrong is found."""
    node, check = tool("node"), ENVIRONMENT / "crd/check.mjs"
    if not check.exists():
        pytest.skip("the schemas are not installed: there was no npm")
    names = ["PrometheusRule kvgate-alerts", "PrometheusRule kvgate-recording", "ScaledObject kvgate-vllm"]
    assert said(node, check, text=everything).splitlines() == [*names, "ServiceMonitor kvgate"]
    broken = everything.replace("behavior: currentReplicasIfHigher", "behavior: guess")
    assert "fallback/behavior must be equal to one of" in said(node, check, text=broken)


def test_rules_and_dashboards_arrive_unchanged(everything: str) -> None:
    """Helm does not take Prometheus' {{ $value }} or Grafana's [[variables]] for its own."""
    made = objects(everything)
    for path, text in generate.copies().items():
        name = f"kvgate-{path.stem}"
        if path.suffix == ".json":
            (found,) = [each for each in made if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name]
            assert found["data"][path.name] == text
            assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        else:
            (found,) = [each for each in made if each["kind"] == "PrometheusRule" and each["metadata"]["name"] == name]
            assert found["spec"] == yaml.safe_load(text)


def test_checkov_finds_only_what_is_meant(everything: str, tmp_path: Path) -> None:
    """No known weakness of a workload besides those that are accepted with a reason."""
    path = tmp_path / "everything.yaml"
    path.write_text(everything, "utf-8")
    command = (tool("checkov"), "-f", path, "--framework", "kubernetes", "--compact", "--quiet", "--skip-download")
    assert "FAILED" not in said(*command, "--skip-check", ",".join(ACCEPTED))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"config": {"backends": []}}, "/config/backends"),
        ({"config": {"backends": [{"url": "vllm:8000"}]}}, "/config/backends/0/url"),
        ({"config": {"backends": [{"url": "http://a", "api_key": "sk-secret"}]}}, "/config/backends/0/api_key"),
        ({"replica": 2}, "'replica' not allowed"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"service": {"port": 0}}, "/service/port"),
        ({"networkPolicy": {"adminFrom": "monitoring"}}, "/networkPolicy/adminFrom"),
        ({"keda": {"targets": [{**TARGET, "capacityTokens": 0}]}}, "/keda/targets/0/capacityTokens"),
        ({"keda": {"targets": [{**TARGET, "models": ['m"} or up{a="']}]}}, "/keda/targets/0/models"),
        ({"replicas": 2}, "More than one replica needs config.ledger"),
        ({"serviceMonitor": {"enabled": True}}, "serviceMonitor needs admin.tokenSecret"),
        ({"admin": {"tokenSecret": {"name": "A b"}}}, "/admin/tokenSecret/name"),
        ({"autoscaling": {"enabled": True}}, "More than one replica needs config.ledger"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], complaint: str) -> None:
    """Before anything is installed, with the place of the fault."""
    made = attempt(values)
    assert made.returncode == 1
    assert complaint in made.stderr


def test_with_a_token_monitoring_reaches_the_admin_port(everything: str, tmp_path: Path) -> None:
    """The pod, the gateway in it and Prometheus are told of the same Secret; others do not come through."""
    made = {(each["kind"], each["metadata"]["name"]): each for each in objects(everything)}
    assert made["Service", "kvgate-admin"]["spec"]["ports"][0]["targetPort"] == "admin"
    doors = {door["ports"][0]["port"]: door for door in made["NetworkPolicy", "kvgate"]["spec"]["ingress"]}
    labels = {"kubernetes.io/metadata.name": "monitoring"}
    assert doors["admin"]["from"] == [{"namespaceSelector": {"matchLabels": labels}}]
    (endpoint,) = made["ServiceMonitor", "kvgate"]["spec"]["endpoints"]
    pod = made["Deployment", "kvgate"]["spec"]["template"]["spec"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "admin-token"]
    (item,) = secret["items"]
    assert endpoint["authorization"]["credentials"] == {"name": secret["secretName"], "key": item["key"]}
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "admin-token"]
    environ = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    reference = environ["KVGATE_LISTEN__ADMIN_TOKEN"]
    assert reference == f"file:{mount['mountPath']}/{item['path']}"
    (tmp_path / "token").write_text("t" * 64)
    listen = objects(made["ConfigMap", "kvgate"]["data"]["kvgate.yaml"])[0]["listen"]
    environ = {"KVGATE_LISTEN__ADMIN_TOKEN": f"file:{tmp_path}/token"}
    assert load_config(overrides={"listen": listen}, environ=environ).listen.admin_host == "0.0.0.0"


def test_a_changed_configuration_makes_new_pods() -> None:
    """Else they would run on with the old one."""
    marks = set()
    for name in ("a", "b"):
        made = objects(rendered({"config": {"backends": [{"name": name, "url": "http://vllm:8000"}]}}))
        (pod,) = [each["spec"]["template"] for each in made if each["kind"] == "Deployment"]
        marks.add(pod["metadata"]["annotations"]["checksum/config"])
    assert len(marks) == 2


def test_engines_grow_with_demand(everything: str, tmp_path: Path) -> None:
    """Held and predicted tokens as one replica of the gateway tells of them, those that wait, and those turned away."""
    (scaled,) = [each for each in objects(everything) if each["kind"] == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    share = read("helm/kvgate/values.yaml")["keda"]["targetUtilization"]
    assert int(trigger["metadata"]["threshold"]) == round(TARGET["capacityTokens"] * share)
    held = 'kvgate_backend_kv_reserved_tokens{{backend="{}", kind="{}", instance="{}"}}'
    model = 'model_name="llama-3.1-8b"'
    series = {
        held.format("vllm-0", "resident", "a"): "1000x20",
        held.format("vllm-0", "predicted", "a"): "500x20",
        held.format("vllm-0", "resident", "b"): "900x20",
        held.format("vllm-1", "resident", "a"): "2000x20",
        held.format("other", "resident", "a"): "7777x20",
        f'kvgate_admission_queue_tokens{{{model}, instance="a"}}': "100x20",
        f'kvgate_admission_queue_tokens{{{model}, instance="b"}}': "200x20",
        # One request in 30 s is let in and takes 600 tokens; one in 60 s is turned away for want of room.
        f'kvgate_admission_tokens_total{{{model}, outcome="admitted"}}': "0+1200x20",
        f'kvgate_admission_decisions_total{{{model}, outcome="admitted", reason="ok"}}': "0+2x20",
        f'kvgate_admission_decisions_total{{{model}, outcome="rejected", reason="headroom"}}': "0+1x20",
        f'kvgate_admission_decisions_total{{{model}, outcome="rejected", reason="too_large"}}': "0+50x20",
    }
    expected = (1000 + 500) + 2000 + (100 + 200) + 30 * (1 / 60) * 600
    query = trigger["metadata"]["query"]
    quiet = {name: values for name, values in series.items() if name.startswith("kvgate_backend")}
    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in given.items()],
            "promql_expr_test": [
                {"expr": query, "eval_time": "15m", "exp_samples": [{"labels": "{}", "value": value}]},
            ],
        }
        for given, value in ((series, expected), (quiet, 3500))
    ]
    path = tmp_path / "demand.yml"
    path.write_text(yaml.safe_dump({"tests": tests}), "utf-8")
    said(tool("promtool"), "test", "rules", path)
