"""What systemd and a service tell each other: the sockets it hands over, the news it waits for. Elsewhere nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping

import structlog

FIRST_FD = 3
"""Sockets are handed over from this file descriptor on (sd_listen_fds(3))."""
NAMES = ("api", "admin")
"""Names that a socket unit gives with FileDescriptorName=."""
READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
"""The service serves; it lets what runs come to its end; its event loop turns (sd_notify(3))."""

log = structlog.get_logger()


def passed_sockets(environ: Mapping[str, str] = os.environ, first_fd: int = FIRST_FD) -> dict[str, socket.socket]:
    """The listening sockets handed to this process, by name. They are the caller's to close.

    Raises:
        ValueError: a socket has a name that is none of `NAMES`, or one that another has too.
        OSError: what was handed over is not a socket.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}  # Nothing was handed over, or it was to the process that started this one.
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    count = int(environ.get("LISTEN_FDS", "0"))
    if not (len(names) == len(set(names)) == count and set(names) <= set(NAMES)):
        raise ValueError(f"systemd hands over {count} sockets named {', '.join(names)}; known are {', '.join(NAMES)}")
    passed = {name: socket.socket(fileno=fd) for fd, name in enumerate(names, first_fd)}
    for listening in passed.values():
        listening.set_inheritable(False)
        listening.settimeout(0)
    return passed


def notify(news: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell systemd, if it asked to be told. That it cannot be told is logged: it stops nothing here."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
        messenger.settimeout(0)
        try:
            messenger.sendto(news.encode(), "\0" + path[1:] if path[0] == "@" else path)
        except OSError as error:
            log.warning("systemd_not_told", news=news, trouble=error.strerror)


async def keep_watchdog_quiet(environ: Mapping[str, str] = os.environ) -> None:
    """Say that the event loop turns, twice in the time after which systemd would restart the service (WatchdogSec=)."""
    period_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6
    if period_s and environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
        while True:
            notify(ALIVE, environ)
            await asyncio.sleep(period_s / 2)
