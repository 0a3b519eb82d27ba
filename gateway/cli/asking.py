"""How commands ask a running gateway: one plain request, no proxy whatever the environment says, few imports."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import typer

OK = 200
UNAUTHORIZED = 401
DEFAULT_PORTS = {"http": 80, "https": 443}


class NoAnswerError(Exception):
    """Nobody answered; the text says why."""


class Address(NamedTuple):
    """Where a gateway is."""

    host: str
    port: int
    is_tls: bool = False


def address(url: str, option: str = "--url") -> Address:
    """What a base URL names that a user gave as this option.

    Raises:
        BadParameter: it is not http(s)://HOST:PORT.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in DEFAULT_PORTS and parts.hostname:
            return Address(parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme], parts.scheme == "https")
    except ValueError:  # such as a port that is no number
        pass
    raise typer.BadParameter("must be http://HOST:PORT or https://HOST:PORT", param_hint=option)


def ask(
    to: Address,
    path: str,
    *,
    timeout_s: float,
    body_bytes_max: int = 0,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Status and the first bytes of the answer's body. With a `body` of its own it is a POST, else a GET.

    A certificate must be one that the system trusts, or that the file named by SSL_CERT_FILE does.

    Raises:
        NoAnswerError: there is none in time.
    """
    kind = http.client.HTTPSConnection if to.is_tls else http.client.HTTPConnection
    connection = kind(to.host, to.port, timeout=timeout_s)
    try:
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(body_bytes_max) if body_bytes_max else b""
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswerError(f"does not answer: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
