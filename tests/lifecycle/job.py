"""One request in an engine of the simulation: it generates, or does what its fate says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.simulation.engine import Engine, Sequence, State
from tests.faults import DONE, ERROR_EVENT, LAST_CHUNK, STREAM_HEAD, chunk, response
from tests.lifecycle.plan import Fate, Script
from tests.lifecycle.wire import LATENCY_S, End, Wire

WORD_BYTES = 5
BYTES_PER_TOKEN = 4
Note = Callable[[str, object], None]


@dataclass(slots=True)
class Fates:
    """What all engines know of the requests to come, and what they tell of those that came."""

    scripts: Mapping[str, Script]
    note: Note
    on_asked: Callable[[str], None]
    """Told the name of a request that has reached an engine."""
    attempts: dict[str, int] = field(default_factory=dict)
    """By name, failed connections among them."""
    asked: dict[str, list[Job]] = field(default_factory=dict)
    """By name: what has reached an engine."""
    outputs: dict[str, list[int]] = field(default_factory=dict)
    """By name: how many tokens each sequence of its last attempt was going to get."""

    def fate(self, name: str) -> Fate:
        """What strikes a request at its present attempt."""
        script = self.scripts.get(name)
        if script is None or (self.attempts.get(name, 0) > 1 and not script.every_attempt):
            return ""
        return script.fate


class Host(Protocol):
    """The server that a request runs in."""

    engine: Engine
    fates: Fates
    owners: dict[Sequence, Job]

    def after(self, seconds: float, what: Callable[[], object]) -> None: ...
    def submit(self, job: Job, prompt_tokens: int, output_tokens: int) -> Sequence: ...
    def ended(self, job: Job) -> None: ...


def prompt_tokens(words: int) -> int:
    """What the engine's tokenizer makes of so many words."""
    return max(1, words * WORD_BYTES // BYTES_PER_TOKEN)


class Job:
    """One request in an engine."""

    def __init__(self, server: Host, wire: Wire, script: Script, fate: Fate, body: Mapping[str, object]) -> None:
        self.server, self.wire, self.script, self.fate = server, wire, script, fate
        self.stream = bool(body.get("stream"))
        self.engine = server.engine
        self.sequences: list[Sequence] = []
        self.sent = 0
        """Tokens over all sequences."""
        self.unfinished = 0
        self.is_mute = False
        """Nothing is sent any more."""
        self.hears_nobody = False
        """Its client has left, or its connection has failed."""
        self._limit = body.get("max_tokens") or body.get("max_completion_tokens")
        self._n = int(str(body.get("n", 1)))
        self._wants_usage = bool(body.get("stream_options"))
        words = [script.prompt_words]
        if isinstance(body.get("prompt"), list):
            words.append(script.second_prompt_words)
        self._prompts = [prompt_tokens(count) for count in words]

    @property
    def is_alive(self) -> bool:
        """Whether its engine still works on it."""
        runs = self.engine is self.server.engine
        return runs and any(sequence.state in (State.RUNNING, State.WAITING) for sequence in self.sequences)

    def start(self) -> None:
        """Take it in, unless its fate strikes before that."""
        room = self.server.engine.config.sequence_tokens_max - max(self._prompts)
        if self.fate in _ANSWERS or room < 1:
            self._refuse(_ANSWERS.get(self.fate, response(ERROR_BODY, status=400)))
            return
        limit = room if self._limit is None else min(room, int(str(self._limit)))
        output = max(1, min(self.script.output_tokens, limit))
        prompts = [prompt for prompt in self._prompts for _ in range(self._n)]
        self.server.fates.outputs[self.script.name] = [output] * len(prompts)
        self.unfinished = len(prompts)
        for prompt in prompts:
            self.sequences.append(self.server.submit(self, prompt, output))
        if self.fate in _BEFORE_HEAD:
            self._strike(_BEFORE_HEAD[self.fate])
        elif self.stream:
            self.wire.answer(STREAM_HEAD)
            if self.fate in _AFTER_HEAD:
                self._strike(_AFTER_HEAD[self.fate])

    def emitted(self, sequence: Sequence) -> None:
        """The engine has generated one more token of a sequence."""
        self.unfinished -= sequence.state is State.FINISHED
        if self.is_mute:
            return
        self.sent += 1
        if self.sent > self.script.fate_tokens and self.fate in _IN_STREAM:
            self._strike(_IN_STREAM[self.fate] if self.stream else _IN_ANSWER[self.fate])
            return
        if self.stream:
            index, at = self.sequences.index(sequence), sequence.generated - 1
            ending = ',"finish_reason":"length"' if sequence.state is State.FINISHED else ""
            event = b'data: {"choices":[{"index":%d,"text":"%d"%b}]}\n\n' % (index, at, ending.encode())
            self.wire.answer(chunk(event))
        if not self.unfinished:
            self._finish()

    def leave(self) -> None:
        """Its client has left: the engine notices at once, or later."""
        if not self.hears_nobody:
            self.hears_nobody = self.is_mute = True
            self.server.after(self.script.haunts_s, self._abort)

    def _abort(self) -> None:
        for sequence in self.sequences:
            self.engine.abort(sequence)
            self.server.owners.pop(sequence, None)
        self.server.ended(self)

    def _refuse(self, answer: bytes) -> None:
        self.is_mute = self.hears_nobody = True
        self.wire.answer(answer)
        self.server.ended(self)

    def _strike(self, steps: tuple[bytes | End, ...]) -> None:
        self.server.fates.note("struck", (self.script.name, self.fate))
        self.is_mute = True
        for step in steps:
            if isinstance(step, End):
                self.wire.end(step)
            else:
                self.wire.answer(step)
        if self.fate in ("error_first", "error_event") or (self.fate == "no_event" and not self.stream):
            self.hears_nobody = True
            self._abort()  # An engine that says so has given up.
        elif steps and (isinstance(steps[-1], End) or self.fate in ("no_event", "early_end")):
            self.leave()

    def _finish(self) -> None:
        self.is_mute = self.hears_nobody = True
        output = sum(sequence.generated for sequence in self.sequences)
        usage = b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}' % (sum(self._prompts), output)
        if self.stream:
            if self._wants_usage:
                self.wire.answer(chunk(b'data: {"choices":[],%b}\n\n' % usage))
            self.wire.answer(chunk(DONE))
            self._end_stream()
        else:
            self.wire.answer(response(ANSWER % usage))
        self.server.ended(self)
        if self.fate == "connection_dies_later":
            self.server.after(LATENCY_S * 3, lambda: self.wire.end(End.RESET))

    def _end_stream(self) -> None:
        """All was said; now the connection may still fail."""
        if self.fate in ("reset_after_done", "silent_after_done", "talks_on"):
            self.server.fates.note("struck", (self.script.name, self.fate))
        match self.fate:
            case "reset_after_done":
                self.wire.end(End.RESET)
            case "silent_after_done":
                pass
            case "talks_on":
                self.wire.answer(chunk(b"data: more\n\n") + LAST_CHUNK)
            case _:
                self.wire.answer(LAST_CHUNK)


ANSWER = b'{"choices":[{"index":0,"text":"0"}],%b}'
NO_ANSWER = b"no json at all"
ERROR_BODY = b'{"error":{"message":"no","type":"server_error","param":null,"code":null}}'
_HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
_ANSWERS: dict[str, bytes] = {
    "status_400": response(ERROR_BODY, status=400),
    "status_429": response(ERROR_BODY, status=429, headers=b"Retry-After: 1\r\n"),
    "status_500": response(ERROR_BODY, status=500),
    "status_503": response(ERROR_BODY, status=503),
    "redirected": response(b"", status=307, headers=b"Location: /elsewhere\r\n"),
    "wrong_type": response(b"<html>", headers=b"Content-Type: text/html\r\n"),
}
_BEFORE_HEAD: dict[str, tuple[bytes | End, ...]] = {
    "reset_before_head": (End.RESET,),
    "closed_before_head": (End.CLOSE,),
    "silent_before_head": (),
    "cut_in_head": (STREAM_HEAD[:40], End.CLOSE),
    "garbage": (b"\x16\x03\x01 not a response\r\n\r\n",),
}
_AFTER_HEAD: dict[str, tuple[bytes | End, ...]] = {
    "reset_after_head": (End.RESET,),
    "closed_after_head": (End.CLOSE,),
    "silent_after_head": (),
    "error_first": (chunk(ERROR_EVENT) + chunk(DONE) + LAST_CHUNK,),
}
_IN_STREAM: dict[str, tuple[bytes | End, ...]] = {
    "reset": (End.RESET,),
    "closed": (End.CLOSE,),
    "silent": (),
    "bad_chunk": (b"zz\r\nabc\r\n",),
    "no_event": (chunk(b"data: and then"), LAST_CHUNK),
    "error_event": (chunk(ERROR_EVENT), LAST_CHUNK),
    "early_end": (LAST_CHUNK,),
}
_IN_ANSWER: dict[str, tuple[bytes | End, ...]] = {
    "reset": (_HALF, End.RESET),
    "closed": (_HALF, End.CLOSE),
    "silent": (_HALF,),
    "bad_chunk": (STREAM_HEAD.replace(b"text/event-stream", b"application/json") + b"zz\r\nabc\r\n",),
    "no_event": (response(NO_ANSWER),),
    "error_event": (response(ERROR_BODY, status=500),),
    "early_end": (_HALF + b"}", End.CLOSE),
}
