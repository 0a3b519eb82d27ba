"""The API's HTTP surface: exact paths, bounded bodies, and every error as an OpenAI error object."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web

from gateway.api.asked import Asked, Reply
from gateway.api.auth import PRIORITY_HEADER, KeyRing, requested_priority
from gateway.api.body_limits import body_max_s, too_large, too_slow
from gateway.api.error_body import render_error
from gateway.api.estimate import ESTIMATE, parse_estimate
from gateway.api.models import MODELS, models_page
from gateway.api.parse import ParsePolicy, parse_inference
from gateway.api.request_headers import apply_headers, reject_encoded_body, request_id, trace_context
from gateway.api.respond import HttpSink
from gateway.errors import SERVER_ERROR, ApiError, internal_error
from gateway.passage import Sink
from gateway.relay import Relay
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest


class ApiSink(Sink, Protocol):
    """Where an answer goes that the relay gives."""

    def abort(self) -> None:
        """Cut the connection now: nobody reads."""


Handler = Callable[[Asked, str, ApiSink], Awaitable[Reply | None]]


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What the HTTP surface needs to know."""

    body_bytes_max: int
    policy: ParsePolicy
    started_at_unix_s: int
    """Wall time of the start: the `created` of models."""


class Api:
    """All endpoints. `handle` is the one entry."""

    def __init__(
        self,
        relay: Relay,
        keys: KeyRing,
        settings: ApiSettings,
        is_draining: Callable[[], bool],
        overload: Callable[[], ApiError | None] = lambda: None,
    ) -> None:
        self._relay = relay
        self._keys = keys
        self._settings = settings
        self._is_draining = is_draining
        self._overload = overload
        self._routes: dict[str, tuple[str, Handler]] = {
            CHAT: ("POST", self._infer),
            COMPLETIONS: ("POST", self._infer),
            EMBEDDINGS: ("POST", self._infer),
            ESTIMATE: ("POST", self._estimate),
            MODELS: ("GET", self._models),
            "/health": ("GET", self._health),
            "/ready": ("GET", self._ready),
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request that aiohttp has read."""
        id_ = request_id(request.headers)
        if (error := _refusal(request)) is not None:
            return as_response(error_reply(error, id_))
        sink = HttpSink(request, {"x-request-id": id_})
        try:
            reply = await self.answer(_Read(request, self._settings.body_bytes_max), id_, sink)
        except ApiError as told:
            reply = error_reply(told, id_)
        if reply is not None:
            return as_response(reply)
        assert sink.response is not None
        return sink.response

    def answer(self, asked: Asked, id_: str, sink: ApiSink) -> Awaitable[Reply | None]:
        """Answer one request; None: the sink has the answer.

        Only listed paths exist, compared as they were sent: no decoding, no normalising.

        Raises:
            ApiError: at once or when awaited; it is the answer.
        """
        method, handler = self._routes.get(asked.path) or self._unlisted(asked.path)
        if asked.method != method:
            error = ApiError(405, "method_not_allowed", f"Use {method} here.")
            error.headers = {"allow": method}
            raise error
        return handler(asked, id_, sink)

    def _unlisted(self, path: str) -> tuple[str, Handler]:
        if path.startswith(f"{MODELS}/"):
            return "GET", self._models
        raise ApiError(404, "unknown_url", "This path does not exist here.")

    async def _infer(self, asked: Asked, id_: str, sink: ApiSink) -> None:
        started = None if asked.arrived is not None else asyncio.get_running_loop().time()
        try:
            inference = await self._read(asked, id_)
        except ConnectionError:
            raise
        except Exception as error:
            told = error if isinstance(error, ApiError) else internal_error()
            duration_s = 0.0 if started is None else asyncio.get_running_loop().time() - started
            self._relay.turned_away(asked.path, id_, told, duration_s, trace_context(asked.headers))
            raise
        try:
            await self._relay.carry(inference, sink)
        except ConnectionError:
            sink.abort()

    async def _estimate(self, asked: Asked, id_: str, _sink: ApiSink) -> Reply:
        return _json_reply(await self._relay.estimate(await self._read(asked, id_)), id_)

    async def _read(self, asked: Asked, id_: str) -> InferenceRequest:
        """Everything that can be wrong with a request by itself is found here, before anything is reserved for it."""
        if (overload := self._overload()) is not None:
            raise overload
        headers = asked.headers
        tenant = self._keys.tenant_for(headers.get("authorization"))
        priority = requested_priority(headers.get(PRIORITY_HEADER), tenant)
        reject_encoded_body(headers)
        body = asked.arrived
        if body is None:
            body = await self._body(asked)
        path, policy = asked.path, self._settings.policy
        inference = parse_estimate(body, policy) if path == ESTIMATE else parse_inference(path, body, policy)
        apply_headers(inference, headers)
        inference.request_id = id_
        inference.tenant = tenant
        inference.priority = priority
        return inference

    async def _body(self, asked: Asked) -> bytes:
        limit = self._settings.body_bytes_max
        if (asked.body_bytes or 0) > limit:
            raise too_large(limit)
        try:
            async with asyncio.timeout(body_max_s(asked.body_bytes)):
                return await asked.read()
        except TimeoutError:
            raise too_slow() from None

    async def _models(self, asked: Asked, id_: str, _sink: ApiSink) -> Reply:
        self._keys.tenant_for(asked.headers.get("authorization"))
        return _json_reply(models_page(asked.path, self._relay.models(), self._settings.started_at_unix_s), id_)

    async def _health(self, _asked: Asked, id_: str, _sink: ApiSink) -> Reply:
        return _json_reply({"status": "ok"}, id_)

    async def _ready(self, _asked: Asked, id_: str, _sink: ApiSink) -> Reply:
        if self._is_draining():
            raise ApiError(503, "draining", "This gateway is shutting down.", type_=SERVER_ERROR, should_retry=True)
        return _json_reply({"status": "ready"}, id_)


class _Read:
    """A request that aiohttp reads. Implements `Asked`."""

    __slots__ = ("_body_bytes_max", "_request", "arrived", "headers", "method", "path")

    def __init__(self, request: web.BaseRequest, body_bytes_max: int) -> None:
        self._request = request
        self._body_bytes_max = body_bytes_max
        self.method = request.method
        self.path = request.raw_path.partition("?")[0]
        self.headers = request.headers
        self.arrived: bytes | None = None

    @property
    def body_bytes(self) -> int | None:
        return self._request.content_length

    async def read(self) -> bytes:
        await _meet_expectation(self._request)
        try:
            return await self._request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(self._body_bytes_max) from None
        except web.RequestPayloadError:
            raise ApiError(400, "invalid_http", "The request body is not framed as it claims.", close=True) from None


def _json_reply(value: object, id_: str) -> Reply:
    return Reply(200, {"content-type": "application/json", "x-request-id": id_}, msgspec.json.encode(value))


def _refusal(request: web.BaseRequest) -> ApiError | None:
    """What aiohttp takes and we do not; where it ends is in doubt, so nothing behind it may count as a request."""
    if request.version not in (HttpVersion10, HttpVersion11):
        return ApiError(400, "invalid_http", "Only HTTP/1.0 and HTTP/1.1 are spoken here.", close=True)
    if request.method == "CONNECT":  # The parser sees no body behind it, whatever its head says.
        return ApiError(405, "method_not_allowed", "There is no tunnel here.", close=True)
    return None


async def _meet_expectation(request: web.BaseRequest) -> None:
    """Ask for the body that a client holds back until it is wanted.

    Raises:
        ApiError: 417 for an expectation of another kind.
    """
    expected = request.headers.get("expect")
    if expected is None or request.version < HttpVersion11:
        return
    if expected.lower() != "100-continue":
        raise ApiError(417, "expectation_failed", "Only 'Expect: 100-continue' can be met.", close=True)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # No part of the answer yet.


def error_reply(error: ApiError, id_: str) -> Reply:
    """An error as an answer to the request of this id."""
    status, headers, body = render_error(error)
    headers["x-request-id"] = id_
    return Reply(status, headers, body, error.close)


def as_response(reply: Reply) -> web.Response:
    """In aiohttp's words."""
    response = web.Response(status=reply.status, body=reply.body, headers=reply.headers)
    if reply.close:
        response.force_close()
    return response
