"""Processes of KVGate that a benchmark starts, and what the operating system tells of them. Linux only."""

from __future__ import annotations

import http.client
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
from urllib.parse import urlsplit

from benchmarks.peer_servers import cpu_us

ROOT = Path(__file__).parents[1]
START_MAX_S = 30.0
STOP_MAX_S = 15.0
MODEL = "m"


@dataclass(slots=True)
class Child:
    """One that runs."""

    process: subprocess.Popen[bytes]
    told: Mapping[str, str]
    """What it said of itself when it began to serve."""
    started_s: float
    """Until then, from its start."""
    log: Path

    @property
    def url(self) -> str:
        """Where it serves requests."""
        return self.told.get("api") or self.told["url"]

    def cpu_us(self) -> float:
        """CPU microseconds so far."""
        return cpu_us(self.process.pid)

    def rss_kb(self) -> int:
        """Resident memory."""
        return int(self._status("VmRSS"))

    def rss_peak_kb(self) -> int:
        """The most it ever was."""
        return int(self._status("VmHWM"))

    def fds(self) -> int:
        """Open file descriptors."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def state(self) -> dict[str, list[dict[str, int]]]:
        """`/api/v1/state` of a gateway."""
        found = json.loads(_page(self.told["admin"], "/api/v1/state"))
        assert isinstance(found, dict)
        return found

    def metric(self, name: str) -> dict[str, float]:
        """One metric's samples by their labels, as its page has them."""
        lines = _page(self.told.get("admin") or self.url, "/metrics").decode().splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith((f"{name}{{", f"{name} ")))
        return {labels.removeprefix(name): float(value) for labels, _, value in found}

    def kill(self) -> None:
        """As if it had crashed."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _status(self, key: str) -> str:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return line.split()[1]
        return "0"


@contextmanager
def engine(folder: Path, *options: str, name: str = "engine") -> Iterator[Child]:
    """A simulated engine of `MODEL`."""
    with child(folder, name, ["engine", "--port", "0", "--model", MODEL, "--json", *options]) as running:
        yield running


@contextmanager
def gateway(
    folder: Path,
    *arguments: str,
    name: str = "kvgate",
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    port: int = 0,
) -> Iterator[Child]:
    """KVGate as `kvgate serve` starts it, with these arguments."""
    ports = ["--port", str(port), "--admin-port", "0"]
    with child(folder, name, ["serve", *arguments, *ports, "--json"], environ, pass_fds) as running:
        yield running


@contextmanager
def child(
    folder: Path,
    name: str,
    command: Sequence[str],
    environ: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    python: Sequence[str] = ("-m", "gateway"),
) -> Iterator[Child]:
    """A command of KVGate while the block runs; it tells one JSON object once it serves.

    Raises:
        RuntimeError: it does not.
    """
    out, log = folder / f"{name}.out", folder / f"{name}.log"
    began = time.monotonic()
    with out.open("wb") as to, log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, *python, *command],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=to,
            stderr=errors,
            pass_fds=pass_fds,
        )
    try:
        while (told := _told(out)) is None:
            if process.poll() is not None or time.monotonic() > began + START_MAX_S:
                raise RuntimeError(f"{name} does not serve: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.005)
        yield Child(process, told, time.monotonic() - began, log)
    finally:
        end(process)


def end(process: subprocess.Popen[bytes], within_s: float = STOP_MAX_S) -> None:
    """Let a process end, and make it end if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def print_figures(figures: Mapping[str, float], *, as_json: bool) -> None:
    """A line each, or one JSON object."""
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:44} {value:12,.3f}")


def _page(base: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _told(out: Path) -> dict[str, str] | None:
    try:
        found = json.loads(out.read_text())
    except ValueError:
        return None
    assert isinstance(found, dict)
    return found
