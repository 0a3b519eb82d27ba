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

from gateway.domain import Usage
from gateway.sse import EventSplitter, count_events, iter_data

_USAGE = b'"usage"'
_USAGE_FIELD = re.compile(rb'"usage"[ \t]*:[ \t]*\{')
_LENGTH = b'"length"'
_LENGTH_FIELD = re.compile(rb'"finish_reason"[ \t]*:[ \t]*"length"')
_DONE = b"[DONE]"
_DONE_LINE = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\](?>\r\n|\r|\n){2}")
_ERROR = b'"error"'
_ERROR_EVENT = re.compile(rb'(?:\A|[\r\n])data: ?\{[ \t]*"error"[ \t]*:[ \t]*[{"]')
_EVENT = re.compile(rb".*?(?>\r\n|\r|\n){2}|.+", re.DOTALL)

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

    __slots__ = ("_keep_usage", "_splitter", "done", "events", "failed", "hit_length", "usage")

    def __init__(self, *, keep_usage: bool) -> None:
        self._keep_usage = keep_usage
        self._splitter = EventSplitter()
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
        if self.done:
            return b""  # Engines have nothing to add after the end, and clients no longer listen.
        events = self._splitter.feed(data)
        if not events:
            return b""
        # Each plain search comes first: it is quick, and mostly the last. (`in` takes three times as long for bytes.)
        find = events.find
        if find(_DONE) >= 0 and (done := _DONE_LINE.search(events)) is not None:
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
            answer = _usage_event(event) if _USAGE in event else None
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
    return usage, any(choice.finish_reason == "length" for choice in answer.choices)


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
