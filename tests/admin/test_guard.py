"""Who may use the admin port: asked over real connections, with the routes that it really has."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from gateway.admin.control import Control, add_control
from gateway.admin.page import FILES
from gateway.admin.routes import Admin
from gateway.admission.admission import Admission
from gateway.admission.limits import AdmissionLimits
from gateway.gate import Gate
from gateway.reporting.metrics import Metrics

TOKEN = "a-token-of-the-admin-port"
OURS = {"Authorization": f"Bearer {TOKEN}"}
PROBES = ("/health", "/ready")
PAGE = ("/", *(f"/page/{name}" for name in FILES))
READ = ("/metrics", "/api/v1/state", "/api/v1/decisions", "/api/v1/decisions/x", "/no/such/path")
ORDERS = ("/-/drain", "/-/reload", "/api/v1/backends/a/drain", "/api/v1/backends/a/resume")


class Port:
    """An admin port with everything on it, which takes orders down."""

    def __init__(self, client: TestClient[web.Request, web.Application], orders: list[str]) -> None:
        self.client = client
        self.orders = orders

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> int:
        async with self.client.get(path, headers=headers) as answer:
            return answer.status

    async def post(self, path: str, headers: Mapping[str, str] | None = None) -> int:
        async with self.client.post(path, headers=headers) as answer:
            return answer.status


@asynccontextmanager
async def port(token: str | None) -> AsyncIterator[Port]:
    orders: list[str] = []

    async def reload() -> Mapping[str, object]:
        orders.append("reload")
        return {"reloaded": True}

    def order(name: str) -> bool:
        orders.append(name)
        return True

    gate = Gate(Admission(AdmissionLimits()), asyncio.get_running_loop())
    admin = Admin(
        Metrics([], version="1", config_sha256="c", exceed_ratio_target=0.01),
        gate.snapshot,
        dict,
        is_draining=lambda: False,
        start_drain=lambda: orders.append("drain"),
        token_sha256=lambda: hashlib.sha256(token.encode()).digest() if token else None,
    )
    app = admin.app()
    add_control(app, Control(reload, order, order))
    async with TestClient(TestServer(app)) as client:
        assert isinstance(client.session, ClientSession)
        yield Port(client, orders)


async def test_without_the_token_nothing_is_told_and_no_order_taken() -> None:
    """Not even which paths there are; probes and the files of the page, which know nothing, are open."""
    async with port(TOKEN) as asked:
        for headers in ({}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer "}, {"X-Api-Key": TOKEN}):
            assert {path: await asked.get(path, headers) for path in READ} == dict.fromkeys(READ, 401)
            assert {path: await asked.post(path, headers) for path in ORDERS} == dict.fromkeys(ORDERS, 401)
        wrong = {"Authorization": f"Bearer {TOKEN}x"}
        async with asked.client.get("/metrics", headers=wrong) as answer:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert TOKEN not in await answer.text()
        assert {path: await asked.get(path) for path in PROBES + PAGE} == dict.fromkeys(PROBES + PAGE, 200)
        assert asked.orders == []


async def test_with_the_token_everything_is_there() -> None:
    """Under whatever name the port is reached."""
    async with port(TOKEN) as asked:
        statuses = [await asked.get(path, {**OURS, "Host": "kvgate.monitoring:8081"}) for path in READ]
        assert statuses == [200, 200, 200, 404, 404]
        assert [await asked.post(path, OURS) for path in ORDERS] == [202, 200, 200, 200]
        assert await asked.get("/metrics", {"authorization": f"bearer  {TOKEN} "}) == 200
        assert len(asked.orders) == len(ORDERS)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8081", "127.0.0.1.evil.example", "0.0.0.0", "[::", "a b"]
)
async def test_a_name_that_was_bent_to_this_machine_opens_nothing(host: str) -> None:
    """DNS rebinding: the browser sends the name of the page that asks. Probes come by any address."""
    async with port(None) as asked:
        bent = {"Host": host}
        assert {await asked.get(path, bent) for path in READ + PAGE} == {403}
        assert {await asked.post(path, bent) for path in ORDERS} == {403}
        assert {await asked.get(path, bent) for path in PROBES} == {200}
        assert asked.orders == []


@pytest.mark.parametrize("host", ["localhost", "localhost:8081", "127.0.0.1:1", "[::1]:8081", ""])
async def test_this_machine_needs_no_token_where_there_is_none(host: str) -> None:
    async with port(None) as asked:
        assert await asked.get("/api/v1/state", {"Host": host}) == 200
        assert await asked.post("/-/drain", {"Host": host}) == 202


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "null"},
    ],
)
async def test_pages_of_others_give_no_orders(token: str | None, headers: dict[str, str]) -> None:
    """Not even one that knows the token: no page but this port's own sends any."""
    async with port(token) as asked:
        for path in ORDERS:
            assert await asked.post(path, {**OURS, "Host": "localhost:8081", **headers}) == 403
        assert asked.orders == []
        own = {**OURS, "Host": "localhost:8081", "Origin": "http://localhost:8081", "Sec-Fetch-Site": "same-origin"}
        assert await asked.post("/-/drain", own) == 202
