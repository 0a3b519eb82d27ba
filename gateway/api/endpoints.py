"""The API's HTTP surface: exact paths, bounded bodies, and every error as an OpenAI error object."""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog
from aiohttp import HttpVersion11, web

from gateway.api.auth import PRIORITY_HEADER, KeyRing, requested_priority
from gateway.api.body_limits import BODY_MAX_S, too_large, too_slow
from gateway.api.error_body import render_error
from gateway.api.estimate import ESTIMATE, parse_estimate
from gateway.api.models import MODELS, models_page
from gateway.api.parse import ParsePolicy, parse_inference
from gateway.api.request_headers import apply_headers, reject_encoded_body, request_id, trace_context
from gateway.api.respond import HttpSink
from gateway.errors import SERVER_ERROR, ApiError, internal_error
from gateway.relay import Relay
from gateway.request import CHAT, COMPLETIONS, EMBEDDINGS, InferenceRequest

log = structlog.get_logger()

Handler = Callable[[web.BaseRequest, str], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What the HTTP surface needs to know."""

    body_bytes_max: int
    policy: ParsePolicy
    started_at_unix_s: int
    """Wall time of the start: the `created` of models."""


class Api:
    """All endpoints. `handle` is the one entry."""

    def __init__(self, relay: Relay, keys: KeyRing, settings: ApiSettings, is_draining: Callable[[], bool]) -> None:
        self._relay = relay
        self._keys = keys
        self._settings = settings
        self._is_draining = is_draining
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
        """Answer one request. Only listed paths exist, compared as they were sent: no decoding, no normalising."""
        id_ = request_id(request.headers)
        path = request.raw_path.partition("?")[0]
        try:
            method, handler = self._route(path)
            if request.method != method:
                return _error_response(ApiError(405, "method_not_allowed", f"Use {method} here."), id_, allow=method)
            return await handler(request, id_)
        except ApiError as error:
            return _error_response(error, id_)

    def _route(self, path: str) -> tuple[str, Handler]:
        known = self._routes.get(path)
        if known is not None:
            return known
        if path.startswith(f"{MODELS}/"):
            return "GET", self._models
        raise ApiError(404, "unknown_url", "This path does not exist here.")

    async def _infer(self, request: web.BaseRequest, id_: str) -> web.StreamResponse:
        started = asyncio.get_running_loop().time()
        try:
            inference = await self._read(request, id_)
        except ConnectionError:
            raise
        except Exception as error:
            told = error if isinstance(error, ApiError) else internal_error()
            path = request.raw_path.partition("?")[0]
            duration_s = asyncio.get_running_loop().time() - started
            self._relay.turned_away(path, id_, told, duration_s, trace_context(request.headers))
            raise
        sink = HttpSink(request, {"x-request-id": id_})
        try:
            await self._relay.carry(inference, sink)
        except ConnectionError:
            sink.abort()
        assert sink.response is not None
        return sink.response

    async def _estimate(self, request: web.BaseRequest, id_: str) -> web.StreamResponse:
        return _json_response(await self._relay.estimate(await self._read(request, id_)), id_)

    async def _read(self, request: web.BaseRequest, id_: str) -> InferenceRequest:
        """Everything that can be wrong with a request by itself is found here, before anything is reserved for it."""
        headers = request.headers
        tenant = self._keys.tenant_for(headers.get("authorization"))
        priority = requested_priority(headers.get(PRIORITY_HEADER), tenant)
        reject_encoded_body(headers)
        body = await self._body(request)
        path, policy = request.raw_path.partition("?")[0], self._settings.policy
        inference = parse_estimate(body, policy) if path == ESTIMATE else parse_inference(path, body, policy)
        apply_headers(inference, headers)
        inference.request_id = id_
        inference.tenant = tenant
        inference.priority = priority
        return inference

    async def _body(self, request: web.BaseRequest) -> bytes:
        limit = self._settings.body_bytes_max
        if (request.content_length or 0) > limit:
            raise too_large(limit)
        await _meet_expectation(request)
        try:
            async with asyncio.timeout(BODY_MAX_S):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large(limit) from None
        except web.RequestPayloadError:
            raise ApiError(400, "invalid_http", "The request body is not framed as it claims.", close=True) from None
        except TimeoutError:
            raise too_slow() from None

    async def _models(self, request: web.BaseRequest, id_: str) -> web.StreamResponse:
        self._keys.tenant_for(request.headers.get("authorization"))
        path = request.raw_path.partition("?")[0]
        return _json_response(models_page(path, self._relay.models(), self._settings.started_at_unix_s), id_)

    async def _health(self, _request: web.BaseRequest, id_: str) -> web.StreamResponse:
        return _json_response({"status": "ok"}, id_)

    async def _ready(self, _request: web.BaseRequest, id_: str) -> web.StreamResponse:
        if self._is_draining():
            raise ApiError(503, "draining", "This gateway is shutting down.", type_=SERVER_ERROR, should_retry=True)
        return _json_response({"status": "ready"}, id_)


class ApiServer(web.Server):
    """aiohttp's server, but what it finds out by itself is answered like every other error: as an OpenAI object."""

    def __call__(self) -> web.RequestHandler:
        """The protocol of one connection."""
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Protocol(web.RequestHandler):
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
            log.error("internal_error", path=request.raw_path[:256], error=type(exc).__name__, at=_trace(exc))
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun; all that is left is a cut")
        bad_http = ApiError(status, "invalid_http", "The request is not good HTTP/1.1.", close=True)
        return _error_response(internal_error() if is_ours else bad_http, uuid.uuid4().hex)


def _trace(exc: BaseException | None) -> list[str]:
    """Where it happened. Not what it says: messages quote values, and values are prompts."""
    frames = traceback.walk_tb(exc.__traceback__ if exc is not None else None)
    return [f"{frame.f_globals.get('__name__')}:{line}" for frame, line in frames]


def _json_response(value: object, id_: str) -> web.Response:
    headers = {"content-type": "application/json", "x-request-id": id_}
    return web.Response(body=msgspec.json.encode(value), headers=headers)


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


def _error_response(error: ApiError, id_: str, **more_headers: str) -> web.Response:
    status, headers, body = render_error(error)
    response = web.Response(status=status, body=body, headers={**headers, **more_headers, "x-request-id": id_})
    if error.close:
        response.force_close()
    return response
