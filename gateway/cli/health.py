"""`kvgate health`: asks a running gateway; made for container health checks, so it imports next to nothing."""

from __future__ import annotations

import http.client
import json
from typing import Annotated
from urllib.parse import urlsplit

import typer

OK = 200
DEFAULT_PORT = 80


def health(
    *,
    url: Annotated[str, typer.Option(help="Base URL of the gateway.")] = "http://127.0.0.1:8080",
    timeout_s: Annotated[float, typer.Option(min=0.1, max=60, help="How long to wait for the answer.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Exit 0 if the gateway is healthy."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise typer.BadParameter("must be http://HOST:PORT", param_hint="--url") from None
    if parts.scheme != "http" or not parts.hostname:
        raise typer.BadParameter("must be http://HOST:PORT", param_hint="--url")
    problem = _ask(parts.hostname, port, timeout_s)
    if as_json:
        typer.echo(json.dumps({"healthy": not problem, "url": url, "problem": problem or None}))
    else:
        typer.echo(f"{url} {problem or 'is healthy'}", err=bool(problem))
    raise typer.Exit(1 if problem else 0)


def _ask(host: str, port: int, timeout_s: float) -> str:
    """What is wrong, or nothing. No proxy is asked, whatever the environment says."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer: {str(error) or type(error).__name__}"
    finally:
        connection.close()
    return "" if status == OK else f"answers with status {status}"
