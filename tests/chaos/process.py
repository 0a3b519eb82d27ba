"""A gateway process: started, looked at from outside, and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.children import end

ROOT = Path(__file__).parents[2]
START_MAX_S = 20.0
STOP_MAX_S = 5.0
TROUBLE = ("internal_error", "Traceback", "was never retrieved", "was destroyed but it is pending")
"""What a log that tells of a bug holds."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a process holds."""

    tasks: int
    files: int
    rss_mb: float

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.files} files, {self.rss_mb:.1f} MB"


class Gateway:
    """A gateway process."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, log: Path) -> None:
        self._process = process
        self._out = out
        self._log = log

    def urls(self) -> tuple[str, str]:
        """Of the API and the admin port, once it serves."""
        first = self._wait_for("{\n", "\n}\n")
        return str(first["api"]), str(first["admin"])

    def look(self) -> Look:
        """Count."""
        self._out.write_bytes(b"")
        self._process.send_signal(signal.SIGUSR1)
        proc = Path(f"/proc/{self._process.pid}")
        resident_pages = int((proc / "statm").read_text().split()[1])
        return Look(
            int(str(self._wait_for("{", "}\n")["tasks"])),
            len(list((proc / "fd").iterdir())),
            resident_pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        )

    def trouble(self) -> list[str]:
        """Lines of its log that there must not be."""
        return [line for line in self._log.read_text().splitlines() if any(word in line for word in TROUBLE)]

    def _wait_for(self, start: str, end: str) -> dict[str, object]:
        """The object that it prints next."""
        until = time.monotonic() + START_MAX_S
        while not ((text := self._out.read_text()).startswith(start) and text.endswith(end)):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the gateway does not serve: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)
        found: dict[str, object] = json.loads(text)
        return found


@contextmanager
def started(folder: Path, backends: Sequence[Mapping[str, object]]) -> Iterator[Gateway]:
    """A gateway before these backends while the block lasts."""
    config, out, log = folder / "kvgate.yaml", folder / "out", folder / "log"
    listen = {"port": 0, "admin_port": 0}
    config.write_text(yaml.safe_dump({"listen": listen, "backends": backends, "telemetry": {"interval_s": 0.05}}))
    command = [sys.executable, "-m", "tests.chaos.gateway_watched", str(config)]
    with out.open("ab") as to, log.open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=to, stderr=errors)
    try:
        yield Gateway(process, out, log)
    finally:
        end(process, STOP_MAX_S)
