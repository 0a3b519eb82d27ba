"""What a stream of answers tells as it passes: how far it has come, its usage, how it ends. Pure.

Bytes pass as they came, in whole events, so that a stream which breaks never leaves half an event behind. The cost of
an ordinary chunk is a handful of searches; JSON is parsed only where usage stands in it.

No text of an answer can pass for one of these marks: a quote or a line end inside a JSON string is escaped, each mark
holds a bare quote or counts at the start of a line only, and usage counts only where it is a field of the whole event.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from gateway.backends.http1 import CHUNK_SIZES
from gateway.domain import Usage
from gateway.sse import EventSplitter, count_events, iter_data

_USAGE = b'"usage"'
_USAGE_FIELD = re.compile(rb'"usage"[ \t]*:[ \t]*\{')
_LENGTH = b'"length"'
_LENGTH_FIELD = re.compile(rb'"finish_reason"[ \t]*:[ \t]*"length"')
_DONE = b"[DONE]"
_DONE_AFTER = len(b"\ndata: ")
"""So far before it its line begins, at most; a search from the start of the events takes long."""
_DONE_LINE = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\](?>\r\n|\r|\n){2}")
_ERROR = b'"error"'
_ERROR_EVENT = re.compile(rb'(?:\A|[\r\n])data: ?\{[ \t]*"error"[ \t]*:[ \t]*[{"]')
_EVENT = re.compile(rb".*?(?>\r\n|\r|\n){2}|.+", re.DOTALL)

_TEXT_BEGINS = (b'content":"', b'"text":"')
"""In chats, reasoning included, and in completions."""
_NEVER_BYTES = 1 << 62
LESSONS_MAX = 4
"""Events in a row whose next was not like them; then no more are noted: those of this stream differ elsewhere too."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count = 0
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None
    choices: list[_Choice] = []


_ANSWER = msgspec.json.Decoder(_Answer)


class StreamWatch:
    """Watches one stream.

    Args:
        keep_usage: the client asked for usage; otherwise the event that holds nothing else is left out.
    """

    __slots__ = (
        "_after",
        "_after_in_chunk",
        "_alike_bytes",
        "_before",
        "_keep_usage",
        "_lessons_left",
        "_noted_at",
        "_splitter",
        "done",
        "events",
        "failed",
        "hit_length",
        "usage",
    )

    def __init__(self, *, keep_usage: bool) -> None:
        self._keep_usage = keep_usage
        self._splitter = EventSplitter()
        self._before = self._after = self._after_in_chunk = b""
        self._alike_bytes = _NEVER_BYTES
        """Fewest bytes of an event like the last one; see `_note_likeness`."""
        self._lessons_left = LESSONS_MAX
        self._noted_at = 0
        self.events = 0
        """Events with data so far: a measure of progress, not a count of tokens."""
        self.usage: Usage | None = None
        self.hit_length = False
        """A sequence was cut off by its limit."""
        self.done = False
        """The stream said that it is complete."""
        self.failed = False
        """The engine reported an error in the stream."""

    def take(self, data: bytes) -> bytes:
        """Bytes from the engine in; bytes for the client out.

        Raises:
            SseError: an event has no end.
        """
        if len(data) >= self._alike_bytes and data.startswith(self._before) and data.endswith(self._after):
            text = data[len(self._before) : -len(self._after)]
            if text.translate(None, b'"\r\n') == text:
                self.events += 1
                return data
        self._alike_bytes = _NEVER_BYTES
        if self.done:
            return b""  # Engines have nothing to add after the end, and clients no longer listen.
        events = self._splitter.feed(data)
        if not events:
            return b""
        # Each plain search is quick, and mostly the last. (`in` takes three times as long for bytes.)
        find = events.find
        if find(_DONE) >= 0 or find(_LENGTH) >= 0 or find(_ERROR) >= 0 or find(_USAGE) >= 0:
            return self._read_marks(events)
        self.events += count_events(events)
        if events is data and self._lessons_left:
            self._note_likeness(data)
        return events

    def take_chunk(self, data: bytes) -> bool:
        """Whether this is one chunk of HTTP/1.1's coding that holds an event like the last one; then it was counted."""
        line = data.find(b"\r\n", 0, 8)
        size = len(data) - line - 4
        if size < self._alike_bytes or CHUNK_SIZES.get(data[:line]) != size:
            return False
        if not (data.startswith(self._before, line + 2) and data.endswith(self._after_in_chunk)):
            return False
        text = data[line + 2 + len(self._before) : -len(self._after_in_chunk)]
        if text.translate(None, b'"\r\n') != text:
            return False
        self.events += 1
        return True

    def _note_likeness(self, event: bytes) -> None:
        """Remember what stands around the text of an event without marks: the next one mostly differs in that alone.

        If it does, and its text holds no quote and no line end, it is one event without marks too. A mark that is in
        neither part would be the text itself between its quotes, or stand in a line of its own: and the text is a value
        here, neither that of a `finish_reason` nor the name of a field.
        """
        has_helped = self.events > self._noted_at + 1
        self._lessons_left = LESSONS_MAX if has_helped else self._lessons_left - 1
        self._noted_at = self.events
        for begins in _TEXT_BEGINS:
            before, key, rest = event.partition(begins)
            if key:
                _, quote, after = rest.partition(b'"')
                is_one = event.startswith(b"data:") and event.find(b"\n") == len(event) - 2 and event.find(b"\r") < 0
                if quote and is_one:
                    self._before, self._after = before + key, quote + after
                    self._after_in_chunk = self._after + b"\r\n"
                    self._alike_bytes = len(self._before) + len(self._after)
                return

    def _read_marks(self, events: bytes) -> bytes:
        """What events tell that may hold a mark; bytes for the client out."""
        find = events.find
        if (at := find(_DONE)) >= 0 and (done := _DONE_LINE.search(events, max(at - _DONE_AFTER, 0))) is not None:
            self.done = True
            events = events[: done.end()]
        self.events += count_events(events)
        if find(_LENGTH) >= 0 and _LENGTH_FIELD.search(events) is not None:
            self.hit_length = True
        if find(_ERROR) >= 0 and _ERROR_EVENT.search(events) is not None:
            self.failed = True
        if find(_USAGE) >= 0 and _USAGE_FIELD.search(events) is not None:
            events = self._without_usage(events)
        return events

    def _without_usage(self, events: bytes) -> bytes:
        kept = []
        for event in _split(events):
            answer = _usage_event(event) if event.find(_USAGE) >= 0 else None
            if answer is not None and answer.usage is not None:
                self.usage = _as_usage(answer.usage)
                if not answer.choices and not self._keep_usage:
                    self.events -= 1
                    # Empty lines before it are not its own: cut off from it, they would have passed.
                    kept.append(event[: len(event) - len(event.lstrip(b"\r\n"))])
                    continue
            kept.append(event)
        return b"".join(kept)


def read_answer(body: bytes) -> tuple[Usage | None, bool]:
    """Usage of an answer that came in one piece, and whether a sequence of it was cut off by its limit."""
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None, False
    usage = None if answer.usage is None else _as_usage(answer.usage)
    return usage, "length" in [choice.finish_reason for choice in answer.choices]


def _split(events: bytes) -> list[bytes]:
    """Single events, each with the two line ends that end it; further ones stand before the next, or alone."""
    if b"\r" in events:
        return _EVENT.findall(events)
    rest = events.rstrip(b"\n")
    return [*(event + b"\n\n" for event in rest.split(b"\n\n")), events[len(rest) + 2 :]]


def _usage_event(event: bytes) -> _Answer | None:
    for data in iter_data(event):
        try:
            return _ANSWER.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
    return None


def _as_usage(usage: _Usage) -> Usage:
    details = usage.prompt_tokens_details
    cached = 0 if details is None else details.cached_tokens or 0
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, cached)
