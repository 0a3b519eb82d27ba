"""What commands print: tables and faults for people, one JSON object for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import NoReturn

import typer

from gateway.config.faults import EX_CONFIG, ConfigError, Fault


def print_json(content: object) -> None:
    """One JSON object on standard output."""
    typer.echo(json.dumps(content, indent=2))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_faults(faults: Sequence[Fault]) -> None:
    """Each fault on a line of standard error, its path in red on a terminal that wants colour."""
    for fault in faults:
        path = fault.path if "NO_COLOR" in os.environ else typer.style(fault.path, fg="red", bold=True)
        typer.echo(f"{path}: {fault.message}", err=True)


def fail_bad_config(error: ConfigError, *, as_json: bool) -> NoReturn:
    """Say what is wrong with the configuration and exit with 78."""
    if as_json:
        print_json({"problems": problems(error.faults)})
    else:
        print_faults(error.faults)
    raise typer.Exit(EX_CONFIG) from None


def problems(faults: Sequence[Fault]) -> list[dict[str, str]]:
    """Faults for JSON."""
    return [{"path": fault.path, "message": fault.message} for fault in faults]
