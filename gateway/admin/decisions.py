"""The admin port's pages of the decision journal: one decision by request id, and the newest ones."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway.reporting.journal import KEPT_MAX, Journal

LIMIT = 50
"""Decisions on a page that names no limit."""
_DIGITS_MAX = 9


def add_decisions(app: web.Application, journal: Journal) -> None:
    """Serve `/api/v1/decisions` and `/api/v1/decisions/{request_id}`."""

    async def newest(request: web.Request) -> web.Response:
        given = request.query.get("limit", str(LIMIT))
        if not (given.isascii() and given.isdigit() and len(given) <= _DIGITS_MAX and 1 <= int(given) <= KEPT_MAX):
            return _json({"error": f"limit must be a whole number from 1 to {KEPT_MAX:,}"}, 400)
        return _json({"decisions": journal.latest(int(given))})

    async def one(request: web.Request) -> web.Response:
        found = journal.find(request.match_info["request_id"])
        if found is None:
            text = f"no decision on this request is known: it still waits, or is not among the last {KEPT_MAX:,}"
            return _json({"error": text}, 404)
        return _json(found)

    app.router.add_get("/api/v1/decisions", newest)
    app.router.add_get("/api/v1/decisions/{request_id}", one)


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"content-type": "application/json"})
