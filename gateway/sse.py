"""SSE bytes to whole events, incrementally and without touching them.

Bytes are forwarded as they came; what is split here are positions, so that only whole events reach a client.
The grammar is the WHATWG one (HTML standard, section 9.2): lines end in LF, CR or CRLF, an empty line ends an event.
"""

from __future__ import annotations

from collections.abc import Iterator

PENDING_MAX_BYTES = 1 << 20
_SEAMS = (b"\n\n", b"\n\r", b"\r\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseError(Exception):
    """The stream holds an event longer than the limit."""


class EventSplitter:
    """Holds back the unfinished end of a stream; everything before it passes byte by byte as it came.

    LF LF, LF CR and CR CR each hold the end of a line and an empty line, and CR LF does not: that covers all mixes.
    Line ends that follow at once belong to the empty line (the LF of a CRLF cut in two) or are empty lines themselves.
    """

    __slots__ = ("_pending", "_pending_max_bytes")

    def __init__(self, *, pending_max_bytes: int = PENDING_MAX_BYTES) -> None:
        self._pending = bytearray()
        self._pending_max_bytes = pending_max_bytes

    @property
    def pending(self) -> int:
        """Bytes that wait for the end of their event."""
        return len(self._pending)

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what is whole, with the empty lines that end it.

        Raises:
            SseError: an unfinished event grew beyond the limit.
        """
        pending = self._pending
        if data.endswith(b"\n\n"):
            if not pending:
                return data
            whole = bytes(pending) + data
            pending.clear()
            return whole
        cut = max(data.rfind(b"\n\n"), data.rfind(b"\n\r"), data.rfind(b"\r\r")) + 2
        if cut < 2:
            cut = int(bytes(pending[-1:]) + data[:1] in _SEAMS)
        if cut or not pending:
            rest = data[cut:].lstrip(b"\r\n")
            cut = len(data) - len(rest)
        if cut:
            whole = bytes(pending) + data[:cut]
            pending.clear()
        else:
            whole = b""
        pending += data[cut:]
        if len(pending) > self._pending_max_bytes:
            raise SseError("an event of the stream is longer than the limit")
        return whole


def iter_data(events: bytes, *, at_stream_start: bool = False) -> Iterator[bytes]:
    """The data of each event in a run of whole events; events without data give nothing.

    Args:
        at_stream_start: a byte order mark is skipped at the start of a stream, and only there.
    """
    if at_stream_start:
        events = events.removeprefix(_BYTE_ORDER_MARK)
    lines: list[bytes] = []
    for line in events.splitlines():
        if line.startswith(b"data:"):
            lines.append(line[6:] if line.startswith(b" ", 5) else line[5:])
        elif line == b"data":
            lines.append(b"")
        elif not line and lines:
            yield b"\n".join(lines)
            lines.clear()


def count_events(events: bytes) -> int:
    """How many events with data stand in a run of whole events, by a search that parses nothing.

    Exact while an event has one data line, as JSON events have; an event with several counts once for each.
    """
    if not events.startswith(b"data:"):
        return events.count(b"\ndata:") + events.count(b"\rdata:")
    if events.find(b"\n") == len(events) - 2 and events.find(b"\r") < 0:
        return 1  # A line and an empty one: what a stream mostly brings is quickly seen to be no more than that.
    return 1 + events.count(b"\ndata:") + events.count(b"\rdata:")
