"""A file of JSON lines that grows to a bound and is then put aside; written by a thread that nobody waits for.

A disk that is full, slow or gone costs lines and never an answer: what is lost is counted, and said once a minute.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from gateway.reporting.journal import Journal

ENTRIES_MAX = 10_000
"""Entries that wait for a slow disk."""
BATCH_MAX = 256
"""Entries in one write."""
SAY_EVERY_S = 60.0
CLOSE_MAX_S = 2.0
MODE = 0o640

log = structlog.get_logger()


@asynccontextmanager
async def open_journal(path: str | None, *, bytes_max: int, keep: int) -> AsyncIterator[Journal]:
    """A journal on the running loop's clock while the block runs, with this file if there is one."""
    unix_at_zero_s = time.time() - asyncio.get_running_loop().time()  # noqa: TID251  # people ask when
    if path is None:
        yield Journal(unix_at_zero_s)
        return
    file = JournalFile(Path(path), bytes_max=bytes_max, keep=keep)
    try:
        yield Journal(unix_at_zero_s, file)
    finally:
        await asyncio.to_thread(file.close)


class JournalFile:
    """Appends entries to a file, one JSON object a line. Only one process may write the same file.

    Args:
        path: the file; `path.1` is the newest of those put aside.
        bytes_max: it is put aside before it would grow beyond this.
        keep: how many files that were put aside are kept.
        entries_max: how many entries may wait for the disk.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        bytes_max: int,
        keep: int,
        entries_max: int = ENTRIES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._keep = keep
        self._clock = clock
        self._entries: queue.Queue[Mapping[str, object] | None] = queue.Queue(entries_max)
        self._fd: int | None = None
        self._size = 0
        self._said_at = float("-inf")
        self.lost = 0
        """Entries that are in no file."""
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, entry: Mapping[str, object]) -> None:
        """Hand over one entry; never blocks."""
        try:
            self._entries.put_nowait(entry)
        except queue.Full:
            self._lose(1, "the disk is too slow")

    def close(self, timeout_s: float = CLOSE_MAX_S) -> None:
        """Write what is left, for so long at most."""
        with suppress(queue.Full):
            self._entries.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _run(self) -> None:
        ended = False
        self._append([])  # says at the start if there will be no journal
        while not ended:
            batch = [self._entries.get()]
            with suppress(queue.Empty):
                while len(batch) < BATCH_MAX:
                    batch.append(self._entries.get_nowait())
            entries = [entry for entry in batch if entry is not None]
            ended = len(entries) < len(batch)
            if entries:
                self._append(entries)
        self._close_file()

    def _append(self, entries: list[Mapping[str, object]]) -> None:
        data = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        try:
            fd = self._ready(len(data))
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            self._size += len(data)
        except OSError as error:
            self._lose(len(entries), error.strerror or type(error).__name__)
            self._undo()

    def _ready(self, more_bytes: int) -> int:
        """The file, with room for so much more."""
        fd = self._open() if self._fd is None else self._fd
        if self._size and self._size + more_bytes > self._bytes_max:
            self._close_file()
            self._put_aside()
            fd = self._open()
        return fd

    def _open(self) -> int:
        fd = self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, MODE)
        self._size = os.fstat(fd).st_size
        if self._size and os.pread(fd, 1, self._size - 1) != b"\n":
            self._size += os.write(fd, b"\n")  # a process that died left half a line
        return fd

    def _put_aside(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._keep + 1))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)
        self._path.unlink(missing_ok=True)

    def _undo(self) -> None:
        """Take back half a line, and begin anew with the next."""
        if self._fd is not None:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            self._close_file()

    def _close_file(self) -> None:
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None

    def _lose(self, entries: int, reason: str) -> None:
        self.lost += entries
        now = self._clock()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            log.warning("journal_entries_lost", path=str(self._path), lost=self.lost, reason=reason)
