"""`kvgate version`."""

from __future__ import annotations

import json
import platform
from typing import Annotated

import typer

from gateway import __version__


def version(
    *, as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False
) -> None:
    """Show the version.

    Example: kvgate version --json
    """
    if as_json:
        typer.echo(json.dumps({"version": __version__, "python_version": platform.python_version()}))
    else:
        typer.echo(f"kvgate {__version__}")
