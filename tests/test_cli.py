"""The command line as a whole: what it lists, what it costs, and how it ends."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from gateway.cli import COMMANDS, load
from tests.cli.command import kvgate


def test_help_lists_every_command_and_imports_no_room() -> None:
    """Help is asked for by people who wait: it loads neither the server nor a client."""
    code = (
        "import sys\n"
        "from gateway.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'aiohttp', 'openai', 'pydantic', 'prometheus_client', 'structlog', 'rich', 'msgspec', 'yaml'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert "..." not in done.stdout.split("Commands:")[1], "each line of help fits"


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "gateway", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: kvgate ")
    assert "\x1b[" not in done.stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if find_spec(f"gateway.cli.{name}")])
def test_every_command_is_there_and_has_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(name).name == name or name == "config"
    arguments = (name, "show", "--help") if name == "config" else (name, "--help")
    done = kvgate(capsys, *arguments)
    assert done.code == 0
    assert "--json" in done.out


@pytest.mark.parametrize("args", [("nonsense",), ("version", "--nonsense"), ("check",), ("health", "--url", "ftp://x")])
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    done = kvgate(capsys, *args)
    assert done.code == 2
    assert done.out == ""
    assert "Error" in done.err


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    done = kvgate(capsys)
    assert "Commands:" in done.out + done.err
