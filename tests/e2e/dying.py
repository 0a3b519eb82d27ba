"""An engine whose streams of chat die, each in the way that its prompt names, and a gateway in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.e2e.stand import Stand, gateway
from tests.faults import (
    DONE,
    ERROR_EVENT,
    LAST_CHUNK,
    STREAM_HEAD,
    Answer,
    FaultyEngine,
    Request,
    Step,
    chunk,
    response,
)

IDLE_S = 0.5
"""Silence within a stream after which the gateway gives up."""
WELL = "well"
KILLED = "killed"
STALLED = "stalled"
CLEAN_END = "clean end"
"""What is plainly an end for HTTP, but not for the stream in it: no client notices that by itself."""


def said(text: str, finish_reason: str | None = None) -> bytes:
    """One event of a chat."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    common = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**common, "choices": [choice]}).encode() + b"\n\n"


FIRST, SECOND, LAST = said("one "), said("two "), said("three", "stop")
TEXT = "one two three"
_BEGUN = STREAM_HEAD + chunk(FIRST) + chunk(SECOND)

WAYS: dict[str, Answer] = {
    WELL: (_BEGUN + chunk(LAST) + chunk(DONE) + LAST_CHUNK,),
    CLEAN_END: (_BEGUN + LAST_CHUNK,),
    "closed": (_BEGUN, Step.CLOSE),
    "reset": (_BEGUN, Step.RESET),
    "closed in a chunk": (_BEGUN + chunk(LAST)[:-9], Step.CLOSE),
    "reset in a chunk": (_BEGUN + chunk(LAST)[:-9], Step.RESET),
    "malformed chunk": (_BEGUN + b"zz\r\n" + LAST, Step.CLOSE),
    "half an event": (_BEGUN + chunk(LAST[:40]) + LAST_CHUNK,),
    "no [DONE]": (_BEGUN + chunk(LAST) + LAST_CHUNK,),
    "error event": (_BEGUN + chunk(ERROR_EVENT) + LAST_CHUNK,),
    "error event and [DONE]": (_BEGUN + chunk(ERROR_EVENT) + chunk(DONE) + LAST_CHUNK,),
    "error event first": (STREAM_HEAD + chunk(ERROR_EVENT) + chunk(DONE) + LAST_CHUNK,),
    "500": (response(b'{"error":{"message":"ill"}}', status=500),),
    "nothing": (STREAM_HEAD + LAST_CHUNK,),
    "closed at once": (Step.CLOSE,),
    STALLED: (_BEGUN, Step.STALL),
    KILLED: (Step.STALL,),
}
"""Every way, by name."""
DEATHS = tuple(name for name in WAYS if name != WELL)


class DyingEngine(FaultyEngine):
    """Plays the way that stands in the prompt."""

    _rebirth: asyncio.Task[None] | None = None

    def pick(self, request: Request) -> Answer:
        """The list of its models; what is asked for in chats is known later."""
        del request
        return (response(b'{"data":[{"id":"m","object":"model","owned_by":"x"}]}'),)

    async def play(
        self, request: Request, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """As its prompt says."""
        if not request.line.startswith(b"POST"):
            return await super().play(request, answer, reader, writer)
        way = json.loads(request.body)["messages"][-1]["content"]
        if way == KILLED:
            await super().play(request, (_BEGUN,), reader, writer)
            self._rebirth = asyncio.get_running_loop().create_task(self._die_and_return())
        return await super().play(request, WAYS[way], reader, writer)

    async def aclose(self) -> None:
        """After a death it lives again before it ends."""
        if self._rebirth is not None:
            await self._rebirth

    async def _die_and_return(self) -> None:
        """As a process that is killed and started again."""
        await self.die()
        await self.listen()


@asynccontextmanager
async def dying() -> AsyncIterator[tuple[Stand, DyingEngine]]:
    """Such an engine behind a gateway, while the block lasts."""
    async with DyingEngine() as engine:
        backend = {"name": "b0", "url": engine.url, "kind": "openai", "timeouts": {"head_s": 60, "idle_s": IDLE_S}}
        async with gateway(backend, telemetry={"interval_s": 60}) as stand:
            yield stand, engine
            await engine.aclose()
