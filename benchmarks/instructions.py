"""Counts the instructions of processes by the hardware's counter, where the machine has one and lets us read it.

Nearly free of the noise of other work, unlike CPU time. Virtual machines often have none. x86-64 and arm64 Linux.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

HARDWARE, SOFTWARE = 0, 1
INSTRUCTIONS, TASK_CLOCK = 1, 1
"""Events of the two types; the clock's are nanoseconds, and there on every machine."""
_CALL = {"x86_64": 298, "aarch64": 241}
_ATTRIBUTES_BYTES = 128
_INHERIT = 1 << 1
"""Threads and processes that are begun later count too."""


class Counter:
    """Counts an event of some processes, from its making on.

    Raises:
        OSError: the machine has no such counter, or does not let us read it.
    """

    def __init__(self, pids: Iterable[int], kind: int = HARDWARE, event: int = INSTRUCTIONS) -> None:
        self._files: list[int] = []
        try:
            for pid in pids:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    # A thread may have ended since it was listed.
                    with suppress(ProcessLookupError):
                        self._files.append(_open(int(task.name), kind, event))
        except OSError:
            self.close()
            raise

    def read(self) -> int:
        """How many so far."""
        return sum(struct.unpack("=Q", os.read(file, 8))[0] for file in self._files)

    def close(self) -> None:
        """Give the counters back."""
        for file in self._files:
            os.close(file)
        self._files.clear()


def _open(thread: int, kind: int, event: int) -> int:
    number = _CALL.get(platform.machine())
    if number is None:
        raise OSError(f"not known how to count on {platform.machine()}")
    attributes = bytearray(_ATTRIBUTES_BYTES)
    # struct perf_event_attr: type, size, config; its flags begin at byte 40.
    struct.pack_into("=IIQ", attributes, 0, kind, _ATTRIBUTES_BYTES, event)
    struct.pack_into("=Q", attributes, 40, _INHERIT)
    pointer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    library = ctypes.CDLL(None, use_errno=True)
    file: int = library.syscall(number, pointer, thread, -1, -1, 0)
    if file < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return file
