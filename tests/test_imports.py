"""Each module imports alone, without a warning, and the server stays free of heavy libraries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ["envoy", "grpc", "openai", "opentelemetry", "pandas", "redis", "tokenizers", "torch", "transformers"]
"""What users install beside the server, or never; importing any of them would cost every start."""
SERVER_ONLY = ["aiohttp", "numpy"]
"""What serving needs, and no other command may pay for."""

IMPORT_EACH_ALONE = """
import importlib, json, sys
failures = {}
for name in json.load(sys.stdin):
    for loaded in [module for module in sys.modules if module.partition(".")[0] in ("gateway", "estimator")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as error:
        failures[name] = repr(error)
print(json.dumps(failures))
"""
"""Forgets our own modules between imports, so that each one meets the others as in a fresh interpreter."""

LIST_LOADED = """
import json, runpy, sys
try:
    {statement}
except SystemExit:
    pass
print("\\n" + json.dumps(sorted(sys.modules)))
"""


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _rooms() -> dict[str, list[str]]:
    """Modules by the folder they lie in."""
    rooms: dict[str, list[str]] = {}
    for package in ("estimator", "gateway"):
        for path in sorted((ROOT / package).rglob("*.py")):
            rooms.setdefault(_module(path.parent / "__init__.py"), []).append(_module(path))
    return rooms


def _run(code: str, stdin: str = "") -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


ROOMS = _rooms()


@pytest.mark.parametrize("room", ROOMS)
def test_each_module_imports_alone(room: str) -> None:
    """No module needs another to have been imported before it, and none warns."""
    assert json.loads(_run(IMPORT_EACH_ALONE, json.dumps(ROOMS[room]))) == {}


@pytest.mark.parametrize(
    ("module", "statement", "unwanted"),
    [
        ("gateway.app", "import gateway.app", HEAVY),
        (
            "gateway.__main__",
            "sys.argv = ['kvgate', '--help']; runpy.run_module('gateway', run_name='__main__')",
            [*HEAVY, *SERVER_ONLY],
        ),
    ],
    ids=["server", "command"],
)
def test_starting_loads_nothing_heavy(module: str, statement: str, unwanted: list[str]) -> None:
    """The server imports no client library and no plotting; `kvgate --help` not even what the server needs."""
    if module not in ROOMS["gateway"]:
        pytest.skip(f"{module} does not exist yet")
    loaded = json.loads(_run(LIST_LOADED.format(statement=statement)).splitlines()[-1])
    assert module.partition(".")[0] in loaded
    assert [name for name in unwanted if name in loaded] == []
