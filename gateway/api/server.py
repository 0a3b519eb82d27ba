"""The API's server: plain requests by a way of its own, all others by aiohttp's, and errors alike on both."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any, cast

import structlog
from aiohttp import web

from gateway.api.asked import Reply
from gateway.api.body_limits import HEAD_MAX_S, too_slow
from gateway.api.crowd import Crowd
from gateway.api.endpoints import as_response, error_reply
from gateway.api.error_body import whole_response
from gateway.api.plain_connection import PlainApi, PlainConnection
from gateway.api.plain_head import PlainHeads
from gateway.api.request_headers import new_id
from gateway.errors import ApiError, internal_error

SWEEP_S = 1.0
"""Connections that are idle for too long are closed so much later at most."""

log = structlog.get_logger()


class ApiServer(web.Server):
    """aiohttp's server, but what it finds out by itself is answered like every other error: as an OpenAI object."""

    crowd: Crowd | None = None
    """Who counts its clients and turns away one too many; None: nobody."""
    plain: PlainApi | None = None
    """What answers plain requests past aiohttp; None: aiohttp gets those too."""
    keepalive_s = 75.0
    """For how long a connection may be idle."""
    silent_s = HEAD_MAX_S
    """For how long one may be that has never asked for anything."""
    head_s = HEAD_MAX_S
    """For how long a head may take."""
    linger_s = 2.0
    """For how long the rest of a body is taken that nobody wants any more."""
    is_closing = False
    """Connections end with the answer that they wait for."""
    _sweeping: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heads = PlainHeads()
        """With what clients have shown for a moment, their keys too: every sweep ends that."""
        self._open: dict[PlainConnection, None] = {}

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]  # that it is a handler is of no matter to a site
        """The protocol of a new connection."""
        return self.full_parser() if self.plain is None else PlainConnection(self, self.plain, self._loop)

    def full_parser(self) -> web.RequestHandler:
        """A connection that reads all of HTTP/1."""
        return _Protocol(self, loop=self._loop, **self._kwargs)

    def error(self, error: Exception, path: str, id_: str) -> Reply:
        """What a client is told instead of an answer. A mistake of our own is worth a log, and tells it nothing."""
        if isinstance(error, ApiError):
            return error_reply(error, id_)
        _log_mistake(path, error)
        return error_reply(internal_error(), id_)

    def came(self, connection: PlainConnection) -> None:
        """A plain connection was made."""
        self._open[connection] = None
        connection.idle_since -= self.keepalive_s - self.silent_s
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)

    def left(self, connection: PlainConnection) -> None:
        """A plain connection is lost, or aiohttp's now."""
        del self._open[connection]

    def pre_shutdown(self) -> None:
        """Nobody connects any more: let go of those who wait for nothing."""
        super().pre_shutdown()
        self.is_closing = True
        for connection in tuple(self._open):
            connection.end()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # as in its base
        """Close all connections; what is at work may go on for so many seconds."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if tasks := [connection.task for connection in self._open if connection.task is not None]:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=timeout)
        for connection in tuple(self._open):
            connection.transport.close()
        await super().shutdown(timeout)

    def _sweep(self) -> None:
        """One timer for all costs less than one for each, moved by each request."""
        self.heads.forget()
        idle_before = self._loop.time() - self.keepalive_s
        for connection in tuple(self._open):
            if connection.task is None and connection.idle_since <= idle_before:
                connection.transport.close()
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep) if self._open else None


class _Protocol(web.RequestHandler):
    """aiohttp's connection, with a limit on how long a head takes: by itself it has none."""

    __slots__ = ("_crowd", "_head_timer", "_is_silent")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come; if there is no place for it, that was all."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_silent = True
        self._crowd = self._manager.crowd if isinstance(self._manager, ApiServer) else None
        if self._crowd is None or self._crowd.enter(cast("asyncio.Transport", transport)):
            super().connection_made(transport)
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Part of a head, a body, or more than that."""
        heads = self._request_count
        super().data_received(data)
        self._is_silent = False
        if self._request_count > heads:
            self._wait_no_more()
        elif self._head_timer is None and not self._is_at_work:
            self._wait_for_head()

    @property
    def _is_at_work(self) -> bool:
        return self._request_in_progress or bool(self._messages)

    def _wait_for_head(self) -> None:
        head_s = self._manager.head_s if isinstance(self._manager, ApiServer) else HEAD_MAX_S
        self._head_timer = self._loop.call_later(head_s, self._head_is_late)

    def _wait_no_more(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport is None or self._is_at_work:
            return
        if not self._is_silent:
            self.transport.write(whole_response(too_slow("head"), new_id()))
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """A client has gone."""
        self._wait_no_more()
        if self._crowd is not None:
            self._crowd.leave()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # quotes what was sent, which is not repeated
    ) -> web.StreamResponse:
        """Answer what is no HTTP with a 4xx, and a mistake of our own with 500, which alone is worth a log."""
        is_ours = status >= 500
        if isinstance(exc, ConnectionError):
            raise exc  # The client left.
        if is_ours:
            _log_mistake(request.raw_path, exc)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; all that is left is a cut")
        bad_http = ApiError(status, "invalid_http", "The request is not good HTTP/1.1.", close=True)
        return as_response(error_reply(internal_error() if is_ours else bad_http, new_id()))


def _log_mistake(path: str, error: BaseException | None) -> None:
    # Some put their key into the query.
    log.error("internal_error", path=path.partition("?")[0][:256], error=type(error).__name__, at=_trace(error))


def _trace(exc: BaseException | None) -> list[str]:
    """Where it happened. Not what it says: messages quote values, and values are prompts."""
    frames = traceback.walk_tb(exc.__traceback__ if exc is not None else None)
    return [f"{frame.f_globals.get('__name__')}:{line}" for frame, line in frames]
