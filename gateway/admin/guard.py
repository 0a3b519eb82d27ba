"""Who may use the admin port: whoever has its token, or whoever is on this machine where it asks for none.

A browser on this machine is a way in for any page that it shows. So orders are taken from this port's own page alone,
and without a token nothing is answered that was asked for under a name other than this machine's: a page elsewhere can
make its own name mean 127.0.0.1, but it cannot make the browser say `localhost`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.admin.loopback import is_loopback

FOR_PROBES = frozenset({"/health", "/ready"})
"""Say nothing but whether it lives and takes requests, and are asked by address."""
SCHEME = "bearer "
READING = frozenset({"GET", "HEAD"})


def guard(token_sha256: Callable[[], bytes | None]) -> Middleware:
    """Turns away whoever may not.

    Args:
        token_sha256: SHA-256 of the token that is asked for now; None: none is.
    """

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in FOR_PROBES:
            return await handler(request)
        token = token_sha256()
        if token is None and not _means_this_machine(request.headers.get("host", "")):
            return _refused(403, "without listen.admin_token this port answers to localhost and loopback only")
        if request.method not in READING and is_from_another_site(request):
            return _refused(403, "not from another site")
        if token is not None and not _is_page(request.path) and not _has(token, request.headers.get("authorization")):
            return _refused(401, "send the admin port's token as 'Authorization: Bearer TOKEN'")
        return await handler(request)

    return guarded


def is_from_another_site(request: web.Request) -> bool:
    """Any page that an operator's browser shows could send an order; browsers say where a request comes from."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


def _is_page(path: str) -> bool:
    """The files of the page, which know nothing: they ask for the token themselves."""
    return path == "/" or path.startswith("/page/")


def _means_this_machine(host: str) -> bool:
    """Whether a Host header names a loopback address; browsers always send one, so none at all is no browser."""
    try:
        return not host or is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _has(token_sha256: bytes, authorization: str | None) -> bool:
    given = authorization or ""
    shown = given[len(SCHEME) :].strip() if given[: len(SCHEME)].lower() == SCHEME else ""
    digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).digest()
    return hmac.compare_digest(digest, token_sha256)


def _refused(status: int, text: str) -> web.Response:
    headers = {"content-type": "application/json"}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="kvgate admin"'
    return web.Response(status=status, body=msgspec.json.encode({"error": text}), headers=headers)
