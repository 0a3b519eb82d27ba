"""`kvgate health`: asks a running gateway; made for container health checks, so it imports next to nothing."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gateway.cli.asking import OK, Address, NoAnswerError, address, ask


def health(
    *,
    url: Annotated[str, typer.Option(help="Base URL of the gateway.")] = "http://127.0.0.1:8080",
    timeout_s: Annotated[float, typer.Option(min=0.1, max=60, help="How long to wait for the answer.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Exit 0 if the gateway is healthy.

    Example: kvgate health --url http://127.0.0.1:8080
    """
    problem = _problem(address(url), timeout_s)
    if as_json:
        typer.echo(json.dumps({"healthy": not problem, "url": url, "problem": problem or None}))
    else:
        typer.echo(f"{url} {problem or 'is healthy'}", err=bool(problem))
    raise typer.Exit(1 if problem else 0)


def _problem(gateway: Address, timeout_s: float) -> str:
    """What is wrong, or nothing."""
    try:
        status, _ = ask(gateway, "/health", timeout_s=timeout_s)
    except NoAnswerError as error:
        return str(error)
    return "" if status == OK else f"answers with status {status}"
