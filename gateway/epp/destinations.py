"""Where backends are, as data planes want it: `ip:port`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlsplit

LOOKUP_MAX_S = 2.0
KNOWN_FOR_S = 5.0
"""How long an answer of the name service holds."""
HTTP_PORT = 80
KNOWN_MAX = 4096
"""Addresses that are kept; more than ever run, and reloads bring new ones."""


class NoAddressError(Exception):
    """A backend's name has no address now."""


class Located(Protocol):
    """Whoever has a URL: a backend."""

    @property
    def url(self) -> str:
        """Where it is, as configured."""


def unsuitable(url: str) -> str:
    """Why a data plane cannot be sent to a backend of this URL; empty if it can."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.path not in ("", "/", "/v1", "/v1/"):
        return "must be http://host:port: an endpoint picker names an address and nothing else"
    return ""


class Destinations:
    """Addresses of backends, names looked up when they are needed.

    Args:
        backends: by name, each with a URL that is not `unsuitable`. May change at any time.
    """

    def __init__(self, backends: Mapping[str, Located]) -> None:
        self._backends = backends
        self._known: dict[str, tuple[str, float]] = {}

    async def of(self, backend: str) -> str:
        """Its `ip:port`, the last one known where the name service fails.

        Raises:
            NoAddressError: none was ever known.
        """
        url = self._backends[backend].url
        loop = asyncio.get_running_loop()
        endpoint, until = self._known.get(url, ("", 0.0))
        if not endpoint or loop.time() >= until:
            endpoint, for_s = await _looked_up(url, endpoint)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[url] = endpoint, loop.time() + for_s
        return endpoint

    async def outside(self, subset: frozenset[str] | None) -> frozenset[str]:
        """Backends that a request must not go to, because only these endpoints are allowed."""
        if subset is None:
            return frozenset()
        outside = set()
        for backend in tuple(self._backends):
            try:
                if await self.of(backend) not in subset:
                    outside.add(backend)
            except (NoAddressError, KeyError):  # it may have been removed meanwhile
                outside.add(backend)
        return frozenset(outside)


async def _looked_up(url: str, before: str) -> tuple[str, float]:
    """The endpoint at a URL, and for how many seconds it holds."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or HTTP_PORT
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return _endpoint(host, port), float("inf")
    try:
        async with asyncio.timeout(LOOKUP_MAX_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        if before:
            return before, KNOWN_FOR_S
        raise NoAddressError(f"{host} has no address") from None
    # A name that several engines share tells none of them apart: whoever comes first in the list gets it all.
    return _endpoint(str(found[0][4][0]), port), KNOWN_FOR_S


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
