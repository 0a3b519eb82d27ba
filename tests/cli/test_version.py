"""The version is the package's."""

import json

import pytest

from gateway import __version__
from tests.cli.command import kvgate


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert kvgate(capsys, "version").out == f"kvgate {__version__}\n"
    assert json.loads(kvgate(capsys, "version", "--json").out)["version"] == __version__
