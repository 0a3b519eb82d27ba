"""The command `kvgate`. A command's module is imported when the command runs: help costs no more than typer does."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "serve": "Run the gateway in front of engines and providers.",
    "epp": "Run it as an endpoint picker for Envoy and Kubernetes (beta).",
    "demo": "Show the gateway at work, on two simulated engines.",
    "engine": "Serve a simulated engine: no GPU, no weights.",
    "estimate": "KV cache of one request, per GPU and in all.",
    "plan": "Memory of a model on GPUs, and which GPUs it fits.",
    "replay": "Replay a trace in virtual time and compare policies.",
    "check": "Check a configuration and ask every backend in it.",
    "status": "Live headroom of a running gateway.",
    "reload": "Let a running gateway read its configuration anew.",
    "explain": "What a running gateway would do with a request, and why.",
    "config": "Schema, commented example or effective configuration.",
    "health": "Exit 0 if the gateway is healthy.",
    "version": "Show the version.",
}
"""Each is `gateway.cli.<name>.<name>`: a function, or a Typer of further commands."""


class LazyCommand(TyperCommand):
    """Stands for a command in the help, and becomes it when it is called."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """The context of the command itself."""
        assert self.name is not None
        return load(self.name).make_context(*args, **kwargs)


def load(name: str) -> Any:
    """The command of that name, its module imported."""
    gc.disable()  # What is imported stays: to look for garbage among it takes a tenth of the start.
    try:
        found = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    finally:
        gc.enable()
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name)(found)
    return typer.main.get_command(app)


def main(args: list[str] | None = None) -> None:
    """Run a command and exit: 0 good, 1 a problem found, 2 wrong usage, 78 bad configuration.

    Raises:
        SystemExit: always.
    """
    root = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
    root.callback()(_kvgate)
    group = typer.main.get_command(root)
    assert isinstance(group, TyperGroup)
    for name, text in COMMANDS.items():
        group.add_command(LazyCommand(name, help=text))
    # Not through Typer's own call: its tracebacks show local variables, and with them what is secret.
    group(args=args, prog_name="kvgate")


def _kvgate() -> None:
    """KVGate admits LLM requests by the KV-cache memory they are predicted to need.

    Exit codes: 0 good, 1 a problem found, 2 wrong usage, 78 bad configuration.
    """
