"""What an operator may order on the admin port."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from gateway.admin.control import Control, add_control


class Operator:
    """Takes orders down."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.outcome: Mapping[str, object] = {"reloaded": True, "changed": []}

    async def reload(self) -> Mapping[str, object]:
        self.orders.append("reload")
        return self.outcome

    def drain(self, name: str) -> bool:
        self.orders.append(f"drain {name}")
        return name == "a"

    def resume(self, name: str) -> bool:
        self.orders.append(f"resume {name}")
        return name == "a"


@asynccontextmanager
async def serving(operator: Operator) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    add_control(app, Control(operator.reload, operator.drain, operator.resume))
    async with TestClient(TestServer(app)) as client:
        assert isinstance(client.session, ClientSession)
        yield client


async def test_a_reload_answers_with_what_came_of_it() -> None:
    """200 if the configuration is in effect, 400 if nothing has changed."""
    operator = Operator()
    async with serving(operator) as client:
        done = await client.post("/-/reload")
        assert (done.status, await done.json()) == (200, operator.outcome)
        operator.outcome = {"reloaded": False, "problems": [{"path": "mode", "message": "no"}]}
        rejected = await client.post("/-/reload")
        assert (rejected.status, await rejected.json()) == (400, operator.outcome)
        assert (await client.get("/-/reload")).status == 405


async def test_backends_are_drained_and_resumed() -> None:
    """404 where there is none of that name; nobody but a POST does it."""
    operator = Operator()
    async with serving(operator) as client:
        drained = await client.post("/api/v1/backends/a/drain")
        assert (drained.status, await drained.json()) == (200, {"backend": "a", "status": "draining"})
        resumed = await client.post("/api/v1/backends/a/resume")
        assert (resumed.status, await resumed.json()) == (200, {"backend": "a", "status": "resumed"})
        unknown = await client.post("/api/v1/backends/b/drain")
        assert (unknown.status, await unknown.json()) == (404, {"error": "no backend 'b' is configured"})
        assert (await client.get("/api/v1/backends/a/drain")).status == 405
    assert operator.orders == ["drain a", "resume a", "drain b"]
