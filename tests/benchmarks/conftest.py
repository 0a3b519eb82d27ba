"""The mock engine and the load generator, compiled once."""

import shutil
from pathlib import Path

import pytest

from benchmarks import native_load


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are. Without a C compiler there is nothing to test."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    patch = pytest.MonkeyPatch()
    patch.setattr(native_load, "BUILD", tmp_path_factory.mktemp("native"))
    native_load.build()
    folder = native_load.BUILD
    patch.undo()
    return folder


@pytest.fixture
def built(native: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """They are what `native_load` runs."""
    monkeypatch.setattr(native_load, "BUILD", native)
    return native
