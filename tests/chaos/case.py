"""One request of a chaos run: what is asked, what the engine would say if it were well, and what its client saw."""

from __future__ import annotations

import asyncio
import enum
import json
from dataclasses import dataclass, field

from tests.faults import DONE, event

EVENTS = 4


class Leave(enum.Enum):
    """When a client goes away. All but the last two are told by what happens, not by a clock."""

    NEVER = "never"
    UPLOADING = "its body half sent"
    AT_ONCE = "its request just sent"
    QUEUED = "in the queue"
    GRANTED = "in the moment in which its turn comes"
    ASKED = "the engine has its request"
    HEAD = "the engine has sent its head"
    MIDSTREAM = "it has its first event"
    UNREAD = "it never read what comes"


class How(enum.Enum):
    """In which way it goes."""

    CLOSE = "close"
    RESET = "reset"
    HALF = "half-close"


@dataclass(slots=True)
class Case:
    """A request, and the moments at which its two ends wait for each other."""

    number: int
    fault: str
    stream: bool
    model: str = "m"
    leave: Leave = Leave.NEVER
    how: How = How.CLOSE
    max_tokens: int = 16
    reads_slowly: bool = False
    blank_bytes: int = 0
    """White space in its body: bytes that are no tokens."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """The engine has got it."""
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """The engine has sent what comes before it goes on only with the client."""
    taken: asyncio.Event = field(default_factory=asyncio.Event)
    """The client has its first event, or will never have one."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """The engine may end an answer that it held."""

    @property
    def id(self) -> str:
        """Goes with it to the engine and back."""
        return f"chaos-{self.number}"

    @property
    def request(self) -> bytes:
        """All of it."""
        # No two have the same body: one that kills engines again and again is kept from them.
        fields = {"model": self.model, "prompt": self.id, "max_tokens": self.max_tokens, "ignore_eos": True}
        body = json.dumps({**fields, "stream": self.stream}).encode() + b" " * self.blank_bytes
        head = f"POST /v1/completions HTTP/1.1\r\nHost: gateway\r\nX-Request-Id: {self.id}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    @property
    def events(self) -> tuple[bytes, ...]:
        """What a stream holds before its end."""
        return (*(event(f"{self.id}.{i}") for i in range(EVENTS)), _FINISH)

    @property
    def answer(self) -> bytes:
        """A whole answer: the whole stream as the client should see it, or the body."""
        if self.stream:
            return b"".join(self.events) + DONE
        choice = {"index": 0, "text": self.id, "finish_reason": "stop"}
        return json.dumps({"object": "text_completion", "choices": [choice], "usage": _USAGE}).encode()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a client saw."""

    word: str
    """`ok`, `cut`, `left`, ... or a status; see `tests.chaos.client`."""
    detail: str = ""
    retryable: bool = False


_USAGE = {"prompt_tokens": 2, "completion_tokens": EVENTS}
_FINISH = b'data: {"object":"text_completion","choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
USAGE_EVENT = b"data: " + json.dumps({"object": "text_completion", "choices": [], "usage": _USAGE}).encode() + b"\n\n"
"""The gateway asks for it, whatever the client does, and keeps it to itself."""
