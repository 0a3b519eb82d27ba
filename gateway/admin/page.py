"""The page on the admin port: fixed files, under headers that let a browser run these and reach nobody else."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).parent / "page"
TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""Nothing inline, nothing from elsewhere, in nobody's frame; and no text ever becomes markup, not even by mistake."""
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
"""`no-cache`: a browser asks each time, so that an upgraded gateway never meets its predecessor's scripts."""


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    packed: bytes
    content_type: str
    etag: str


def _read(path: Path) -> _File:
    body = path.read_bytes()
    packed = gzip.compress(body, mtime=0)
    return _File(body, packed, TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:32])


FILES: Final = {path.name: _read(path) for path in sorted(FOLDER.iterdir())}
"""Read while this is imported: the event loop never waits for a disk, and a full or a lost one changes nothing."""


def page_routes() -> list[web.RouteDef]:
    """`GET /` and the files that it asks for; they name each other relatively, so that a proxy may add a prefix."""
    return [web.get("/", _index), web.get("/page/{name}", _file)]


async def _index(request: web.Request) -> web.Response:
    return _answer(request, FILES["index.html"])


async def _file(request: web.Request) -> web.Response:
    file = FILES.get(request.match_info["name"])
    if file is None:
        raise web.HTTPNotFound
    return _answer(request, file)


def _answer(request: web.Request, file: _File) -> web.Response:
    known = request.if_none_match or ()
    if any(etag.value in (file.etag, "*") for etag in known):
        answer = web.Response(status=304, headers=HEADERS)
    else:
        answer = web.Response(body=file.body, headers=HEADERS, content_type=file.content_type, charset="utf-8")
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            answer.body = file.packed
            answer.headers["Content-Encoding"] = "gzip"
    answer.etag = file.etag
    return answer
