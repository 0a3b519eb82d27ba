"""A client of the simulation: asks, takes what comes, leaves as its script says, and judges what it was told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence

from gateway.api.parse import parse_inference
from gateway.domain import Priority
from gateway.errors import ApiError
from gateway.relay import Relay
from gateway.reporting.record import RequestRecord
from gateway.request import CHAT, COMPLETIONS, InferenceRequest, Tenant
from tests.lifecycle.engines import MODEL
from tests.lifecycle.job import NO_ANSWER, WORD_BYTES, Note, prompt_tokens
from tests.lifecycle.plan import Script
from tests.lifecycle.wire import BugError

SLOW_S = 0.05
AFTER_S = 0.01
CLIENT_LEFT = 499
_TOKEN = re.compile(rb'"index":(\d+),"text":"(\d+)"')
_DONE = b"data: [DONE]"


class Visitor:
    """The sink of one request. What it is told is written down; `verdict` says what is wrong with it."""

    def __init__(self, script: Script, note: Note) -> None:
        self.script = script
        self._note = note
        self.task: asyncio.Task[None] | None = None
        self.body = b""
        self.writes = 0
        self.is_begun = False
        """Any part of an answer was given to it."""
        self.completed = 0
        self.failures: list[ApiError] = []
        """Told within the stream."""
        self.error: ApiError | None = None
        """Told instead of an answer."""
        self.has_left = False
        """Its handler ended because it left."""
        self.hit_bug = False
        self.wanted_to_leave = False

    async def visit(self, relay: Relay) -> None:
        """Ask, and take what comes."""
        script = self.script
        if script.leaves == "later":
            asyncio.get_running_loop().call_later(script.leaves_after, self.leave)
        self._note("arrives", script)
        try:
            await relay.carry(request_of(script), self)
        except ApiError as error:
            self.error = error
        except (asyncio.CancelledError, ConnectionError):
            self.has_left = True
        except BugError:
            self.hit_bug = True
        self._note("ends", self)

    def leave(self) -> None:
        """Go away: the server cancels the handler."""
        if self.task is not None and not self.task.done():
            self._note("leaves", self.script.name)
            self.wanted_to_leave = True
            self.task.cancel()

    def reached(self, where: str) -> None:
        """Leave if the script says so here."""
        if self.script.leaves == where:
            self.leave()

    def __repr__(self) -> str:
        told = self.error or (self.failures[0] if self.failures else None)
        ends = {"left": self.has_left, "bug": self.hit_bug, "completed": self.completed}
        ended = told.code if told is not None else next((word for word, is_so in ends.items() if is_so), "?")
        return f"{self.script.name}: {ended}, {len(self.body)} bytes"

    # The sink

    async def answer(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.is_begun = True
        self.body = body
        await self._step("begun")
        await self._step("ending")
        self.completed += 1

    async def start_stream(self, headers: Mapping[str, str], events: bytes) -> None:
        self.is_begun = True
        self.body = events
        await self._step("begun")

    def write(self, events: bytes) -> bool:
        self.writes += 1
        self._note("reads", self.script.name)
        leaves = self.script.leaves == "reading" and self.writes > self.script.leaves_after
        if leaves and self.script.manner == "bug":
            self.wanted_to_leave = True
            raise BugError
        self.body += events
        if leaves and self.script.manner == "cancelled":
            self.leave()
        return not (self.script.slow or leaves)

    def write_chunk(self, chunk: bytes) -> bool:
        return self.write(chunk[chunk.index(b"\r\n") + 2 : -2])

    async def drained(self) -> None:
        await self._step("reading")
        await asyncio.sleep(SLOW_S)

    async def end_stream(self, events: bytes = b"") -> None:
        self.body += events
        await self._step("ending")
        self.completed += 1
        if self.script.leaves == "after":
            asyncio.get_running_loop().call_later(AFTER_S, self.leave)

    def fail(self, error: ApiError) -> None:
        self.failures.append(error)

    async def _step(self, where: str) -> None:
        if self.script.leaves != where:
            return
        self.wanted_to_leave = True
        match self.script.manner:
            case "cancelled":
                self.leave()
                await asyncio.sleep(0)
            case "connection_error":
                raise ConnectionResetError
            case "bug":
                raise BugError
            case "stuck":
                await asyncio.get_running_loop().create_future()

    # What it makes of it

    def verdict(self, records: Sequence[RequestRecord], outputs: Sequence[int], asked: int) -> str:
        """What is wrong, if anything: exactly one answer or one error, and one record that says the same.

        Args:
            records: that the gateway made of it.
            outputs: tokens that each of its sequences was going to get.
            asked: how often it reached an engine.
        """
        if asked > 1:
            return f"sent {asked} times: each of them may have been worked on"
        told = self.completed + len(self.failures) + (self.error is not None)
        gone = (self.has_left or self.hit_bug) and not self.completed
        if told != (0 if gone else 1):
            return f"told {told} times"
        if gone and not self.wanted_to_leave:
            return "cut off without having left"
        if self.error is not None and self.is_begun:
            return "an error instead of an answer, after its first bytes"
        if len(records) != 1:
            return f"{len(records)} records"
        if (code := records[0].code) != self._code():
            return f"recorded as {code}, told {self._code()}"
        return self._misread(outputs)

    def _code(self) -> int:
        if self.hit_bug:
            return 500
        if self.has_left and not self.completed:
            return CLIENT_LEFT
        told = self.error or (self.failures[0] if self.failures else None)
        return 200 if told is None else told.status

    def _misread(self, outputs: Sequence[int]) -> str:
        """Whether its stream is what the engine generated: all of it if it ended well, else a part from the start."""
        if not self.script.stream:
            is_whole = self.body == NO_ANSWER or (self.body.startswith(b"{") and self.body.endswith(b"}}"))
            return "" if is_whole or not self.completed else f"part of an answer: {self.body!r}"
        if self.body.count(_DONE) > 1 or (self.completed and not self.body.rstrip().endswith(_DONE)):
            return "a stream without its end"
        if self.failures and _DONE in self.body:
            return "a broken stream that looks complete"
        for index, tokens in enumerate(outputs):
            got = [int(text) for number, text in _TOKEN.findall(self.body) if int(number) == index]
            if got != list(range(len(got))) or (self.completed and len(got) != tokens):
                return f"tokens {got} of {tokens} of sequence {index}"
        return ""


def request_of(script: Script) -> InferenceRequest:
    """The request as the HTTP surface would hand it over."""
    text = "w" * WORD_BYTES * script.prompt_words
    prompt: dict[str, object] = {"prompt": text}
    if script.chat:
        prompt = {"messages": [{"role": "user", "content": text}]}
    elif script.second_prompt_words:
        prompt = {"prompt": [[1] * prompt_tokens(words) for words in (script.prompt_words, script.second_prompt_words)]}
    body = {"model": MODEL, **prompt, "n": script.sequences, "stream": script.stream}
    if script.max_tokens is not None:
        body["max_tokens"] = script.max_tokens
    request = parse_inference(CHAT if script.chat else COMPLETIONS, json.dumps(body).encode())
    request.request_id = script.name
    request.tenant = Tenant(script.tenant, kv_share=script.kv_share)
    request.priority = Priority(script.priority)
    request.deadline_s = script.patience_s
    return request
