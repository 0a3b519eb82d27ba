"""Schema, example and effective configuration from the command line."""

import json
from pathlib import Path

import pytest
import yaml

from gateway.config import Config, load_config
from tests.cli.command import kvgate


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert "backends" in json.loads(kvgate(capsys, "config", "schema").out)["properties"]
    assert kvgate(capsys, "config", "schema", "--json").code == 0


def test_the_example_is_a_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "kvgate.yaml"
    file.write_text(kvgate(capsys, "config", "example").out)
    assert load_config(file, environ={}) == Config()
    assert json.loads(kvgate(capsys, "config", "example", "--json").out) == Config().shown()


def test_the_effective_configuration_hides_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """File and environment together, in both forms."""
    monkeypatch.setenv("KEY", "sk-hidden")
    monkeypatch.setenv("KVGATE_LISTEN__PORT", "9")
    file = tmp_path / "kvgate.yaml"
    file.write_text("backends: [{name: a, url: 'http://h', api_key: 'env:KEY'}]")
    text = kvgate(capsys, "config", "show", "-c", file).out
    assert "sk-hidden" not in text
    shown = yaml.safe_load(text)
    assert (shown["listen"]["port"], shown["backends"][0]["api_key"]) == (9, "***")
    assert json.loads(kvgate(capsys, "config", "show", "-c", file, "--json").out) == shown


def test_a_bad_file_exits_with_78(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "kvgate.yaml"
    file.write_text("mod: x")
    done = kvgate(capsys, "config", "show", "-c", file)
    assert (done.code, done.err) == (78, "mod: unknown key; did you mean 'mode'?\n")
    done = kvgate(capsys, "config", "show", "-c", file, "--json")
    assert json.loads(done.out) == {"problems": [{"path": "mod", "message": "unknown key; did you mean 'mode'?"}]}
