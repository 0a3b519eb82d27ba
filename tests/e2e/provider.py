"""A hosted provider that behaves as Novita documents: base path, key, prices, limits per minute, bare 429s."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

BASE_PATH = "/openai"
WORDS = "one two three four five six seven eight nine ten".split()  # noqa: SIM905  # prose reads better


@dataclass(slots=True)
class Provider:
    """What it was asked, and how it is set."""

    key: str
    model: str = "m"
    requests_max: int = 1_000_000
    """Inference requests from which on it answers 429, without any Retry-After."""
    url: str = ""
    authorizations: list[str] = field(default_factory=list)
    """Of every request, looks included."""
    served: int = 0
    limited: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Streams end once this is set."""

    def app(self) -> web.Application:
        """Its routes; there is nothing outside the base path."""
        app = web.Application()
        app.router.add_get(f"{BASE_PATH}/v1/models", self._models)
        app.router.add_post(f"{BASE_PATH}/v1/chat/completions", self._chat)
        return app

    def _refuses(self, request: web.Request) -> web.Response | None:
        self.authorizations.append(request.headers.get("Authorization", ""))
        if self.authorizations[-1] != f"Bearer {self.key}":
            return _error(401, "invalid_api_key", "Failed to authenticate API Key")
        return None

    async def _models(self, request: web.Request) -> web.Response:
        entry = {
            "id": self.model,
            "object": "model",
            "created": 1,
            "title": self.model,
            "description": "",
            "context_size": 131_072,
            "input_token_price_per_m": 3900,
            "output_token_price_per_m": 3900,
        }
        return self._refuses(request) or web.json_response({"data": [entry]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refuses(request)
        if refusal is not None:
            return refusal
        if self.served >= self.requests_max:
            self.limited += 1
            return _error(429, "RATE_LIMIT_EXCEEDED", "rate limit exceeded")
        self.served += 1
        body = await request.json()
        usage = {"prompt_tokens": 5, "completion_tokens": len(WORDS), "total_tokens": 5 + len(WORDS)}
        if body.get("stream"):
            return await self._stream(request, usage if body.get("stream_options") else None)
        choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(WORDS)}, "finish_reason": "stop"}
        return web.json_response({"id": "x", "object": "chat.completion", "created": 1, "model": self.model,
                                  "choices": [choice], "usage": usage})  # fmt: skip

    async def _stream(self, request: web.Request, usage: dict[str, int] | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for at, word in enumerate(WORDS):
            delta = {"role": "assistant", "content": word} if at == 0 else {"content": f" {word}"}
            await response.write(self._chunk([{"index": 0, "delta": delta, "finish_reason": None}], None))
            if at == 0:
                await self.release.wait()
        await response.write(self._chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}], None))
        if usage is not None:
            await response.write(self._chunk([], usage))
        await response.write(b"data: [DONE]\n\n")
        return response

    def _chunk(self, choices: list[dict[str, object]], usage: dict[str, int] | None) -> bytes:
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": self.model, "choices": choices}
        return b"data: %b\n\n" % json.dumps(chunk | ({"usage": usage} if usage else {})).encode()


def _error(status: int, reason: str, message: str) -> web.Response:
    return web.json_response({"code": status, "reason": reason, "message": message}, status=status)


@asynccontextmanager
async def hosting(provider: Provider) -> AsyncIterator[Provider]:
    """Serve it for as long as the block lasts."""
    runner = web.AppRunner(provider.app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0]
        provider.url = f"http://{host}:{port}{BASE_PATH}"
        yield provider
    finally:
        await runner.cleanup()
