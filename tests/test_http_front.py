"""The HTTP front: where it listens, and what it answers with after a reload."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from aiohttp import web

from gateway.http_front import listen_at


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
async def test_the_url_is_one_that_clients_can_use(host: str, shown: str) -> None:
    """An IPv6 address stands in brackets; port 0 becomes the one that was bound."""
    runner = web.ServerRunner(web.Server(_hello))
    await runner.setup()
    try:
        try:
            url = await listen_at(runner, host, 0, None)
        except OSError:
            pytest.skip("no such address on this machine")
        assert url.startswith(f"http://{shown}:")
        assert not url.endswith(":0")
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            assert await response.text() == "hello"
    finally:
        await runner.cleanup()


async def test_a_socket_that_listens_already() -> None:
    """It takes the place of any address."""
    runner = web.ServerRunner(web.Server(_hello))
    await runner.setup()
    passed = socket.create_server(("127.0.0.1", 0))
    try:
        assert await listen_at(runner, "192.0.2.1", 1, passed) == f"http://127.0.0.1:{passed.getsockname()[1]}"
    finally:
        await runner.cleanup()


async def _hello(_: web.BaseRequest) -> web.Response:
    return web.Response(text="hello")
