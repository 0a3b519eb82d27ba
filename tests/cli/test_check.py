"""A check finds what would go wrong, and says where to mend it."""

import json
import socket
from pathlib import Path

import pytest
import yaml

from tests.certificates import EXPIRED, GOOD
from tests.cli.command import kvgate
from tests.cli.fake_engine import HOSTED, VLLM, hybrid, serving


def config(tmp_path: Path, *backends: str, rest: str = "") -> Path:
    file = tmp_path / "kvgate.yaml"
    file.write_text("backends:\n" + "".join(f"- {{{backend}}}\n" for backend in backends) + rest)
    return file


def test_a_good_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One line per backend, with what it found out about it."""
    with serving(VLLM) as engine, serving(HOSTED) as provider:
        file = config(tmp_path, f"name: own, url: '{engine}'", f"name: far, url: '{provider}', kind: openai")
        done = kvgate(capsys, "check", file)
        as_json = json.loads(kvgate(capsys, "check", file, "--json").out)
    assert (done.code, done.err) == (0, "")
    head, own, far, end = done.out.splitlines()
    assert head.split()[:3] == ["BACKEND", "KIND", "MODEL"]
    assert own.split()[:8] == ["own", "vllm", "tiny", "1,024", "tokens", "16", "512", "ok"]
    assert far.split()[:9] == ["far", "openai", "a,", "b,", "c", "+1", "-", "-", "8,192"]
    assert end == f"{file}: good"
    assert as_json["problems"] == as_json["warnings"] == []
    assert as_json["backends"][0] | {"latency_ms": 0} == {
        "backend": "own",
        "kind": "vllm",
        "models": ["tiny"],
        "kv_tokens": 1024,
        "block_tokens": 16,
        "context_tokens": 512,
        "telemetry": "ok",
        "latency_ms": 0,
        "kv_layout": "uniform",
        "kv_formula_ratio": None,
    }


def test_the_layout_of_each_kv_cache_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One that the catalogue explains is good, an unknown hybrid is a warning, a wrong model a problem."""
    with serving(hybrid("google/gemma-3-27b-it")) as known, serving(hybrid("/models/house")) as unknown:
        good = kvgate(capsys, "check", config(tmp_path, f"url: '{known}'"))
        doubtful = config(tmp_path, f"url: '{unknown}'")
        warned, as_json = kvgate(capsys, "check", doubtful), kvgate(capsys, "check", doubtful, "--json")
        wrong = config(tmp_path, f"url: '{known}', kv: {{model_config: openai/gpt-oss-20b}}")
        failed = kvgate(capsys, "check", wrong)
    assert (good.code, good.err) == (0, "")
    assert "from catalogue google/gemma-3-27b-it" in good.out
    assert warned.code == 0
    assert warned.err.startswith("backends.0.kv.model_config: warning: its layers share blocks in groups")
    assert warned.out.endswith("good, 1 warning(s)\n")
    (warning,) = json.loads(as_json.out)["warnings"]
    assert warning["path"] == "backends.0.kv.model_config"
    assert "over-admitted" in warning["message"]
    assert failed.code == 1
    assert failed.err.startswith("backends.0.kv.model_config: the engine states 373,865 tokens")
    assert "from kv.model_config openai/gpt-oss-20b" in failed.out


def test_every_problem_has_a_path_and_a_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text("{}")
    unsized = VLLM | {"/metrics": b'#\nvllm:kv_cache_usage_perc{engine="0"} 0.0\n'}
    with serving(VLLM) as engine, serving({}) as stranger, serving(unsized) as silent:
        file = config(
            tmp_path,
            f"name: dead, url: '{nobody}'",
            f"name: strange, url: '{stranger}'",
            f"name: renamed, url: '{engine}', models: {{big: huge}}",
            f"name: unknown, url: '{engine}', kv: {{model_config: no-such-model}}",
            f"name: silent, url: '{silent}', kind: vllm",
            rest=f"tokenizers: {{absent: '{tokenizer}'}}",
        )
        done = kvgate(capsys, "check", file, "--json")
        people = kvgate(capsys, "check", file)
    found = {problem["path"]: problem["message"] for problem in json.loads(done.out)["problems"]}
    assert done.code == people.code == 1
    assert "start the engine, or correct the URL" in found["backends.0.url"]
    assert "set its kind" in found["backends.1.kind"]
    assert found["backends.2.models.big"] == "the backend does not list 'huge'; correct its name"
    assert "no-such-model" in found["backends.3.kv.model_config"]
    assert "backends.4.kv.capacity_tokens" in found or "backends.4.kind" in found
    assert "no backend serves this model" in found["tokenizers.absent"]
    assert len(found) == 6
    assert people.out.endswith(f"{file}: 6 problem(s)\n")
    assert people.err.count("\n") == 6


def test_no_backend_is_a_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "kvgate.yaml"
    file.write_text("mode: observe")
    done = kvgate(capsys, "check", file)
    assert done.code == 1
    assert "backends: there are none" in done.err


def test_a_bad_configuration_is_not_tried(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = kvgate(capsys, "check", config(tmp_path, "url: 'ftp://h'"))
    assert done.code == 78
    assert "backends.0.url: must begin with http:// or https://" in done.err


def test_certificates_are_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One that has expired is a warning, one that cannot be used a problem."""
    file = tmp_path / "kvgate.yaml"
    with serving(VLLM) as url:
        tree = {"backends": [{"name": "own", "url": url}], "listen": {"tls": EXPIRED.write(tmp_path)}}
        file.write_text(yaml.safe_dump(tree))
        expired = kvgate(capsys, "check", file, "--json")
        (tmp_path / "key.pem").write_text(GOOD.key)
        wrong = kvgate(capsys, "check", file, "--json")
    assert expired.code == 0
    assert [warning["path"] for warning in json.loads(expired.out)["warnings"]] == ["listen.tls.certificate"]
    assert wrong.code == 1
    assert [problem["path"] for problem in json.loads(wrong.out)["problems"]] == ["listen.tls.key"]
