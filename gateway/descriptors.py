"""File descriptors: as many as the system allows, and how many of them clients may take."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from dataclasses import dataclass

RESERVED = 64
"""For listeners, logs, the journal, telemetry, libraries that are loaded late, and what the admin port serves."""
BACKLOG_MAX = 1024
TABLE_FILES = 16_384
"""Open files that the system has room for from the start: eight bytes each."""
_FEW = 128
"""With fewer descriptors in all, half of them is kept instead of `RESERVED`."""
_UNLIMITED = 2**20


@dataclass(frozen=True, slots=True)
class Places:
    """What clients may take of a process's descriptors."""

    connections_max: int
    """Each may need a second one, towards an engine."""
    backlog: int
    """Connections that wait to be accepted: all of them are accepted at once, before the first can be refused."""


def places(files_max: int) -> Places:
    """How a number of descriptors is divided.

    Both ends of every request, the reserve and one backlog that is accepted in a single turn of the event loop fit
    together, so that no descriptor is missing where an engine is dialled.
    """
    reserved = RESERVED if files_max >= _FEW else files_max // 2
    backlog = max(1, min(BACKLOG_MAX, files_max // 8))
    return Places(max(1, (files_max - reserved - backlog) // 2), backlog)


def files_max() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else _UNLIMITED


def raise_files_max() -> None:
    """Let this process open as many files as it may.

    The low default is for programs that use select(2), which knows no descriptor above 1,023; nothing here does.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS refuses "unlimited"; then what there is must do.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _widen_table()


def _widen_table() -> None:
    """Open a file far up the system's table of them, and close it again: the table never gets smaller.

    Linux doubles it when it is full, and a process with threads waits for that: up to 20 ms, three times while the
    first thousand clients come.
    """
    with contextlib.suppress(OSError, ValueError):
        os.close(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, min(files_max(), TABLE_FILES) - 1))
