"""How commands ask a running gateway: one plain GET, no proxy whatever the environment says, next to no imports."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

import typer

OK = 200
DEFAULT_PORT = 80


class NoAnswerError(Exception):
    """Nobody answered; the text says why."""


def address(url: str) -> tuple[str, int]:
    """Host and port of a base URL that a user gave as `--url`.

    Raises:
        BadParameter: it is not http://HOST:PORT.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname:
            return parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:  # such as a port that is no number
        pass
    raise typer.BadParameter("must be http://HOST:PORT", param_hint="--url")


def ask(host: str, port: int, path: str, *, timeout_s: float, body_bytes_max: int = 0) -> tuple[int, bytes]:
    """Status and the first bytes of the body.

    Raises:
        NoAnswerError: there is none in time.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(body_bytes_max) if body_bytes_max else b""
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswerError(f"does not answer: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
