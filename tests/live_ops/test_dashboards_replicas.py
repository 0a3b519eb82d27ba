"""Two gateways before the same backends, one of which serves two models: the dashboards count nothing twice."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.grafana.dashboards import filled_in, queries

pytestmark = [
    pytest.mark.ops,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package `prometheus`"),
]

VALUES = {"__rate_interval": "5m", "__range": "10m", "job": ".+", "model_name": ".*", "backend": "(b0|b1)"}
GATEWAYS = ("g0", "g1")
MODELS = {"b0": "xy", "b1": "x"}
HEADROOM = {"b0": 100, "b1": 300}
DRAINS = ("g1", "b0")
CANNOT_REACH = ("g0", "b1")

EXPECTED: dict[tuple[str, str], dict[str, float]] = {
    ("overview", "Is the memory as full as we think?"): {
        '{job="kvgate",model_name="x"}': 0.6,
        '{job="kvgate",model_name="y"}': 0.6,
    },
    ("overview", "How much room has the fullest pool?"): {"{}": 0.1},
    ("overview", "How many backends are down?"): {"{}": 0},
    ("overview", "What state is each backend in?"): {
        '{backend="b0",job="kvgate"}': 4,
        '{backend="b1",job="kvgate"}': 6,
    },
    ("overview", "Which versions and configurations run?"): {
        f'{{instance="{gateway}",job="kvgate",sha256="of {gateway}",version="1"}}': 1 for gateway in GATEWAYS
    },
    ("overview", "Do engines preempt in spite of admission?"): {
        '{backend="b0",job="kvgate"}': 10,
        '{backend="b1",job="kvgate"}': 10,
    },
    ("capacity", "How many tokens fit into all pools?"): {"{}": 2000},
    ("capacity", "Is more wanted than there is?"): {
        '{job="kvgate",model_name="x"}': 0.65,
        '{job="kvgate",model_name="y"}': 0.7,
    },
}
"""What the first query of each panel gives."""


def series() -> Iterator[tuple[str, str]]:
    """What both gateways export: name with labels, and values in promtool's writing."""
    for gateway in GATEWAYS:
        own = f'job="kvgate",instance="{gateway}"'
        yield f'kvgate_build_info{{{own},version="1"}}', "1+0x20"
        yield f'kvgate_config_info{{{own},sha256="of {gateway}"}}', "1+0x20"
        for model in "xy":
            yield f'kvgate_admission_queue_tokens{{{own},model_name="{model}",priority="batch"}}', "50+0x20"
        for backend, models in MODELS.items():
            of = f'{own},backend="{backend}"'
            for model in models:
                yield f'kvgate_backend_info{{{of},model_name="{model}"}}', "1+0x20"
            yield f"kvgate_backend_kv_capacity_tokens{{{of}}}", "1000+0x20"
            yield f"kvgate_backend_kv_headroom_tokens{{{of}}}", f"{HEADROOM[backend]}+0x20"
            yield f'kvgate_backend_kv_reserved_tokens{{{of},kind="resident"}}', "400+0x20"
            yield f'kvgate_backend_kv_reserved_tokens{{{of},kind="predicted"}}', "200+0x20"
            yield f"kvgate_backend_preemptions_total{{{of}}}", "0+1x20"
            yield f"kvgate_backend_up{{{of}}}", f"{int((gateway, backend) != CANNOT_REACH)}+0x20"
            for state in ("ready", "draining"):
                is_on = (state == "draining") == ((gateway, backend) == DRAINS)
                yield f'kvgate_backend_state{{{of},state="{state}"}}', f"{int(is_on)}+0x20"


def test_replicas_and_models_are_not_counted_twice(tmp_path: Path) -> None:
    """Capacity once per pool, room as the most careful gateway sees it, states as the worst does."""
    asked = {(query.dashboard, query.panel.title): query.target for query in reversed(queries())}
    tests = [
        {
            "expr": filled_in(asked[panel].expr, VALUES),
            "eval_time": "15m",
            "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
        }
        for panel, samples in EXPECTED.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series()]
    file = tmp_path / "replicas.yml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": tests}]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
