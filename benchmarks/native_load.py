"""The mock engine and the load generator of `benchmarks/native`: builds them, runs them, reads what they say."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any

SOURCES = Path(__file__).parent / "native"
BUILD = SOURCES.parents[1] / "build/native"
LOAD_MAX_S = 120.0
MODEL = "bench"
HOUR_MS = 3_600_000
"""Between two events of a stream that is to be idle."""


class LoadFailedError(Exception):
    """The load could not be put on, or what came back was wrong."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the load generator saw. Times of those that went well, from when each was due."""

    requests: int
    errors: int
    first_error: str
    tokens: int
    seconds: float
    cpu_us: int
    """Of the generator itself."""
    p50_us: int
    p99_us: int
    first_p50_us: int
    """To the first byte of the body; of a stream: to the first token."""
    first_p99_us: int

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Engine:
    """A mock engine that runs."""

    port: int
    pid: int

    def set_interval_ms(self, interval_ms: int) -> None:
        """Change the time between two events of a stream, for those that begin from now on."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", f"/interval/{interval_ms}")
        connection.getresponse().read()
        connection.close()


def build() -> None:
    """Compile what is not there yet, or is older than its source.

    Raises:
        LoadFailedError: there is no C compiler, or it failed.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    for source in SOURCES.glob("*.c"):
        binary = BUILD / source.stem
        if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
            continue
        compiler = shutil.which("cc")
        if compiler is None:
            raise LoadFailedError("a C compiler is needed: cc")
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise LoadFailedError(done.stderr)


@contextmanager
def mock_engine(*, cpu: int | None = None, blocks: int = 1_000_001, interval_ms: int = 20) -> Iterator[Engine]:
    """One that serves while the block lasts; of 16 tokens a block, by default so many that nothing ever waits."""
    command = [str(BUILD / "mock_engine"), "--blocks", str(blocks), "--interval-ms", str(interval_ms)]
    with Popen([*_pinned(cpu), *command], stdout=PIPE, text=True) as process:
        try:
            yield Engine(int(_said(process.stdout)["port"]), process.pid)
        finally:
            process.kill()


def put_load(port: int, request: Path, *, cpu: int | None = None, **options: float) -> Outcome:
    """Run it to its end. `options` are those of `load.c`.

    Raises:
        LoadFailedError: nobody listens on the port, or answers go on without end.
    """
    command = [*_pinned(cpu), *_command(port, request, options)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LOAD_MAX_S)
    except subprocess.TimeoutExpired as error:
        raise LoadFailedError("it does not end") from error
    if done.returncode:
        raise LoadFailedError(done.stderr)
    return Outcome(**json.loads(done.stdout))


@contextmanager
def held_streams(port: int, request: Path, streams: int, *, cpu: int | None = None) -> Iterator[int]:
    """So many streams that have their first token and stay; gives how many there are.

    Raises:
        LoadFailedError: not all began.
    """
    options = {"connections": streams, "requests": streams, "tokens": 1_000_000, "hold": 1}
    command = [*_pinned(cpu), *_command(port, request, options)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            said = _said(process.stdout)
            if said.get("held") != streams:
                raise LoadFailedError(
                    f"{said.get('held', 0)} of {streams} streams began: {said.get('first_error', '')}"
                )
            yield streams
        finally:
            process.kill()


def write_request(
    path: Path, headers: Mapping[str, str], prompt_bytes: int, *, output_tokens: int, stream: bool
) -> Path:
    """A chat completion as the load generator sends it: a whole HTTP request."""
    message = {"role": "user", "content": "word " * (prompt_bytes // 5)}
    asked = {"model": MODEL, "messages": [message], "max_tokens": output_tokens, "stream": stream}
    body = json.dumps(asked, separators=(",", ":")).encode()
    fields = {
        "host": "127.0.0.1",
        "user-agent": "benchmark",
        "accept": "*/*",
        "content-type": "application/json",
        **headers,
        "content-length": str(len(body)),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    path.write_bytes(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + body)
    return path


def _command(port: int, request: Path, options: Mapping[str, float]) -> list[str]:
    given = {"port": port, "request": request, **options}
    return [str(BUILD / "load"), *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def _pinned(cpu: int | None) -> list[str]:
    return ["taskset", "-c", str(cpu)] if cpu is not None else []


def _said(out: IO[str] | None) -> dict[str, Any]:
    assert out is not None
    said = json.loads(out.readline() or "{}")
    assert isinstance(said, dict)
    return said
