"""The command line as a whole: what it lists, what it costs, and how it ends."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

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


def every_command() -> list[tuple[str, Any]]:
    """All there are, those of `config` too."""
    found = [(name, load(name)) for name in COMMANDS]
    return found + [(f"config {name}", inner) for name, inner in load("config").commands.items()]


@pytest.mark.parametrize(("name", "command"), every_command(), ids=lambda each: each if isinstance(each, str) else "")
def test_every_command_shows_how_it_is_used(name: str, command: Any) -> None:
    """An example that names the command and parses, and a word on each option and argument."""
    _, mark, examples = re.sub(r"\s+", " ", command.help).partition("Example")
    assert mark
    for example in examples.lstrip("s: ").split("; "):
        words = example.partition(" > ")[0].split()
        assert example.startswith(f"kvgate {name}")
        if name != "config":
            command.make_parser(command.context_class(command)).parse_args(words[1 + len(name.split()) :])
    unexplained = [param.name for param in command.params if not getattr(param, "help", "")]
    assert unexplained == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_for_every_shell(shell: str) -> None:
    """A script that the shell takes, where there is such a shell here."""
    environ = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "gateway", "--show-completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    assert "_KVGATE_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("kvgate rel", {"reload"}),
        ("kvgate serve --admin", {"--admin-host", "--admin-port"}),
        ("kvgate config ex", {"example"}),
        ("kvgate config show --j", {"--json"}),
    ],
)
def test_commands_and_their_options_are_completed(typed: str, completed: set[str]) -> None:
    """Also those of commands that are imported only when they are called."""
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_KVGATE_COMPLETE": "complete_bash"}
    command = [sys.executable, "-m", "gateway"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | words)
    assert set(done.stdout.split()) == completed


@pytest.mark.parametrize("args", [("nonsense",), ("version", "--nonsense"), ("check",), ("health", "--url", "ftp://x")])
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    done = kvgate(capsys, *args)
    assert done.code == 2
    assert done.out == ""
    assert "Error" in done.err


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    done = kvgate(capsys)
    assert "Commands:" in done.out + done.err
