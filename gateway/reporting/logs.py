"""Structured logs: one JSON object a line, or readable lines on a terminal; written by a thread that nobody waits for.

One canonical line per request. Prompts, answers, keys and headers are never given to a logger.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import queue
import sys
import threading
import time
import zlib
from typing import Literal, TextIO

import msgspec
import structlog
from structlog.typing import Processor

from gateway.domain import Priority
from gateway.reporting.record import RequestRecord

LINES_MAX = 10_000
"""Lines that wait for a slow reader of the log; what comes on top is dropped and counted."""
LINES_AT_ONCE = 1_000
CLOSE_MAX_S = 2.0
GATHER_S = 0.05
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_ENCODE = msgspec.json.Encoder().encode
_PRIORITIES = {priority: priority.name.lower() for priority in Priority}
_OK = 200
_SERVER_ERROR = 500


class LineWriter:
    """Writes lines in a thread of its own, so that a blocked pipe never blocks the event loop.

    It is woken by the first line after a while, and then looks for more every `GATHER_S`: so much a crash can lose.
    """

    def __init__(self, stream: TextIO, lines_max: int = LINES_MAX) -> None:
        self._stream = stream
        self._lines_max = lines_max
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        self.dropped = 0
        """Lines lost because the reader of the log was too slow, or is gone."""

    def write(self, line: str) -> None:
        """Hand over one line without its end; never blocks."""
        if self._lines.qsize() < self._lines_max:
            self._lines.put(line)
        else:
            self.dropped += 1

    def close(self, timeout_s: float = CLOSE_MAX_S) -> None:
        """Write what is left, for so long at most."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            while not self._lines.empty() and len(lines) < LINES_AT_ONCE and (line := self._lines.get()) is not None:
                lines.append(line)
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: the stream was closed
                self.dropped += len(lines)
            if line is None:
                return
            if self._lines.empty():
                # Waking a thread costs the event loop more than the line did: let some lines come together.
                time.sleep(GATHER_S)


class _Handler(logging.Handler):
    """Takes the lines of libraries, which log through the standard library, the same way as ours."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record))


class Logs:
    """The logging of one process."""

    def __init__(self, writer: LineWriter, *, level: int, is_json: bool, admitted_share: float = 1.0) -> None:
        self._writer = writer
        self._admitted_share = admitted_share
        self._level = level
        self.is_json = is_json
        """Else lines are for people to read, and cost a few times as much."""
        self._logger: structlog.stdlib.BoundLogger = structlog.get_logger()

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._writer.dropped

    def tune(self, level: Literal["debug", "info", "warning", "error"], admitted_share: float) -> None:
        """Least severe level that is written from now on, and the share of lines that tell of nothing special."""
        self._level, self._admitted_share = LEVELS[level], admitted_share
        logging.getLogger().setLevel(self._level)

    def request(self, record: RequestRecord, unix_s: float | None = None) -> None:
        """Write a request's canonical line: a warning where the gateway or an engine failed, else information.

        JSON goes past the processors: a line per request costs a few microseconds so, and a few dozen with them.

        Args:
            record: of the request.
            unix_s: when it ended, for JSON; None: now.
        """
        level = "warning" if record.code >= _SERVER_ERROR else "info"
        if LEVELS[level] < self._level or (self._admitted_share < 1 and not is_kept(record, self._admitted_share)):
            return
        if not self.is_json:
            self._logger.log(LEVELS[level], "request", **request_line(record))
            return
        if unix_s is None:
            unix_s = time.time()  # noqa: TID251  # a log knows the wall clock
        ts = dt.datetime.fromtimestamp(unix_s, dt.UTC)
        self._writer.write(_ENCODE(_line(record, "request", level, ts)).decode())

    def close(self, timeout_s: float = CLOSE_MAX_S) -> None:
        """Write what is left, for so long at most."""
        self._writer.close(timeout_s)


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["auto", "json", "console"] = "auto",
    stream: TextIO | None = None,
    admitted_share: float = 1.0,
) -> Logs:
    """Set up logging for the process; the caller closes what it returns at the end.

    Args:
        level: least severe level that is written.
        style: `auto` is console on a terminal, else JSON.
        stream: default: standard error, as standard output belongs to what commands print.
        admitted_share: see `is_kept`.
    """
    stream = sys.stderr if stream is None else stream
    is_json = style == "json" or (style == "auto" and not stream.isatty())
    colours = stream.isatty() and "NO_COLOR" not in os.environ
    renderer: Processor = (
        structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer(colors=colours)
    )
    writer = LineWriter(stream)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    handler = _Handler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return Logs(writer, level=LEVELS[level], is_json=is_json, admitted_share=admitted_share)


def is_kept(record: RequestRecord, admitted_share: float) -> bool:
    """Whether a request has its line: every one that did not go well, and this share of the others, 0..1.

    Its id decides, so that all who log a request by this rule keep the same ones.
    """
    if admitted_share >= 1 or record.code != _OK or record.attempts:
        return True
    return zlib.crc32(record.request_id.encode()) < admitted_share * 2**32


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """The canonical line of one request; what is not known is its default, and so left out.

    Made by position: that takes a third of the time. The first three fields are for JSON alone.
    """

    event: str = ""
    level: str = ""
    ts: dt.datetime | None = None
    request_id: str = ""
    trace_id: str = ""
    endpoint: str = ""
    model: str = ""
    backend: str = ""
    tenant: str = ""
    priority: str = ""
    outcome: str = ""
    reason: str = ""
    code: int | None = None
    error: str = ""
    stream: bool | None = None
    need_tokens: int | None = None
    headroom_before: int | None = None
    retry_after_s: float | None = None
    queue_wait_s: float | None = None
    ttft_s: float | None = None
    duration_s: float | None = None
    prompt_tokens: int | None = None
    cached_prompt_tokens: int | None = None
    output_tokens: int | None = None
    predicted_prompt: int | None = None
    predicted_output: int | None = None
    output_bound: int | None = None
    kv_tokens: int | None = None
    disconnect: str | None = None
    upstream_failures: list[str] = []


def request_line(record: RequestRecord) -> dict[str, object]:
    """The canonical line of one request; fields of which nothing is known are left out."""
    fields: dict[str, object] = msgspec.to_builtins(_line(record))
    return fields


def _line(record: RequestRecord, event: str = "", level: str = "", ts: dt.datetime | None = None) -> _Line:
    """Its fields in their order."""
    return _Line(
        event,
        level,
        ts,
        record.request_id,
        record.trace_id,
        record.endpoint,
        record.model[:256],
        record.backend,
        record.tenant,
        _PRIORITIES[record.priority],
        record.outcome,
        record.reason,
        record.code,
        record.error,
        record.stream,
        None if record.backend else record.need_tokens,
        record.headroom_tokens,
        None if record.retry_after_s is None else round(record.retry_after_s, 3),
        round(record.queue_wait_s, 4),
        None if record.ttft_s is None else round(record.ttft_s, 4),
        round(record.duration_s, 4),
        record.prompt_tokens,
        record.cached_prompt_tokens,
        record.output_tokens,
        record.predicted_prompt_tokens,
        record.predicted_output_p50,
        record.predicted_output_bound,
        record.kv_tokens,
        record.disconnect,
        [f"{attempt.backend}:{attempt.reason}" for attempt in record.attempts] if record.attempts else [],
    )
