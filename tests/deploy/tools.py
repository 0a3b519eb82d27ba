"""The real tools that deployments are checked with, and what they are run on."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
ENVIRONMENT = ROOT / ".venv-ops"


def tool(name: str) -> str:
    """Where a tool is. Skips the test where it is not: `make test-ops` installs what comes from package indexes."""
    found = shutil.which(name, path=str(ENVIRONMENT / "bin")) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def done(*command: str | Path, text: str | None = None, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A command that has ended, with what it said."""
    return subprocess.run(
        [str(part) for part in command], input=text or "", capture_output=True, text=True, cwd=cwd, check=False
    )


def said(*command: str | Path, text: str | None = None, cwd: Path = ROOT) -> str:
    """What a command wrote, which must have ended well."""
    ended = done(*command, text=text, cwd=cwd)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def attempt(values: Mapping[str, object]) -> subprocess.CompletedProcess[str]:
    """The try to render the chart with these values."""
    tool("hadolint")  # stands for the whole environment, which has Helm as a library
    python = ENVIRONMENT / "bin/python"
    return done(python, DEPLOY / "generate.py", "--values", json.dumps(values))


def rendered(values: Mapping[str, object]) -> str:
    """The chart with these values."""
    made = attempt(values)
    assert made.returncode == 0, made.stderr
    return made.stdout


def objects(text: str) -> list[Any]:
    """Kubernetes' objects in a text."""
    return [each for each in yaml.safe_load_all(text) if each]


def read(path: str) -> Any:
    """A YAML file below deploy/."""
    return yaml.safe_load((DEPLOY / path).read_text("utf-8"))
