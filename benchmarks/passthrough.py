"""The least that an aiohttp gateway can be: one server, one client session, bytes from the one to the other.

It checks nothing, counts nothing and decides nothing. What KVGate costs beyond it is the price of KVGate.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web


class Passthrough:
    """Forwards every request to one engine."""

    def __init__(self, engine_url: str, session: ClientSession) -> None:
        self._engine_url = engine_url
        self._session = session

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        body = await request.read()
        headers = {"content-type": "application/json"}
        url = self._engine_url + request.raw_path
        async with self._session.request(request.method, url, data=body, headers=headers) as answer:
            kept = {"content-type": answer.headers["content-type"]}
            if answer.content_length is not None:
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
            response = web.StreamResponse(status=answer.status, headers=kept)
            response.enable_chunked_encoding()
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response


async def _serve(engine_url: str, port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, timeout=ClientTimeout(), auto_decompress=False) as session:
        server = web.Server(Passthrough(engine_url, session).handle, access_log=None)
        runner = web.ServerRunner(server)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024, shutdown_timeout=1.0).start()
        await stop.wait()
        await runner.cleanup()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("engine_url")
    arguments.add_argument("--port", type=int, required=True)
    given = arguments.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner_:
        runner_.run(_serve(given.engine_url, given.port))
