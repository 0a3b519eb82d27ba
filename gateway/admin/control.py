"""What an operator may order on the admin port: another configuration, and backends in and out of service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Control:
    """Who carries the orders out."""

    reload: Callable[[], Awaitable[Mapping[str, object]]]
    """Gives what came of it, ready for JSON, with `reloaded` in it."""
    drain: Callable[[str], bool]
    """Of a backend; False: there is none of that name. So is the next."""
    resume: Callable[[str], bool]


def add_control(app: web.Application, control: Control) -> None:
    """Serve `POST /-/reload` and `POST /api/v1/backends/{name}/drain|resume`."""

    async def reload(_request: web.Request) -> web.Response:
        outcome = await control.reload()
        return _json(outcome, status=200 if outcome["reloaded"] else 400)

    def ordering(order: Callable[[str], bool], state: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            name = request.match_info["name"]
            if not order(name):
                return _json({"error": f"no backend '{name[:63]}' is configured"}, status=404)
            return _json({"backend": name, "status": state})

        return handle

    app.router.add_post("/-/reload", reload)
    app.router.add_post("/api/v1/backends/{name}/drain", ordering(control.drain, "draining"))
    app.router.add_post("/api/v1/backends/{name}/resume", ordering(control.resume, "resumed"))


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"content-type": "application/json"})
