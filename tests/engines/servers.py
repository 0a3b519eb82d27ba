"""Starts real servers as processes of their own, on loopback, and takes them down whole: each is a context manager."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
VLLM_PYTHON = REPOSITORY / ".venv-engines" / "bin" / "python"
MODEL_NAME = "tiny"
STOP_WAIT_MAX_S = 10.0
POLL_INTERVAL_S = 0.1
PAGE_WAIT_MAX_S = 5.0
LOG_TAIL_BYTES = 6000
ANYTHING = re.compile(b"")

PATIENT: Mapping[str, object] = {"admission": {"queue": {"requests_max": 512, "wait_max_s": 600}}}
"""Settings for a load that is meant to wait and not to be refused."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Pool and limits of a vLLM server. One block is the engine's own: 33 blocks of 32 are 1,024 usable tokens."""

    blocks: int = 33
    block_tokens: int = 32
    """On a CPU vLLM takes multiples of 32 only."""
    context_tokens: int = 512
    sequences_max: int = 32
    core: int = 0
    """The core that computes. vLLM's own choice is the first core for every server."""
    queued_max: int | None = None
    """Requests that may wait in the engine before it turns others away; None: any number."""
    logits_processor: str | None = None
    """`module:class` of what steers its answers, importable from the repository; None: nothing does."""


@dataclass(frozen=True, slots=True)
class LlamacppOptions:
    """Pool of a llama.cpp server: shared by all slots if unified, else split among them."""

    context_tokens: int = 1024
    slots: int = 8
    unified: bool = True


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def vllm_server(model: Path, log: Path, options: VllmOptions = VllmOptions()) -> Iterator[str]:
    """Real vLLM on the CPU with made-up weights; yields its URL. Takes 16 to 35 s to start.

    Raises:
        RuntimeError: it did not come up; the message ends with its last log lines.
    """
    port = free_port()
    flags = {
        "--model": model,
        "--host": "127.0.0.1",
        "--port": port,
        "--served-model-name": MODEL_NAME,
        "--load-format": "dummy",
        "--dtype": "bfloat16",
        "--max-model-len": options.context_tokens,
        "--block-size": options.block_tokens,
        "--num-gpu-blocks-override": options.blocks,
        "--max-num-seqs": options.sequences_max,
    }
    # The `vllm` command fails under the name that this build is distributed by; the module does not.
    command = [str(VLLM_PYTHON), "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += ["--disable-uvicorn-access-log", *(str(word) for flag in flags.items() for word in flag)]
    if options.queued_max is not None:
        command += ["--max-num-queued-reqs", str(options.queued_max)]
    if options.logits_processor is not None:
        command += ["--logits-processors", options.logits_processor]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(options.core),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    url = f"http://127.0.0.1:{port}"
    with _running(command, log, environment, ready=_page_has(f"{url}/health", ANYTHING), start_wait_max_s=180):
        yield url


@contextmanager
def llamacpp_server(model: Path, log: Path, options: LlamacppOptions = LlamacppOptions()) -> Iterator[str]:
    """The real llama.cpp server out of the xllamacpp wheel; yields its URL. Takes well under a second to start.

    Raises:
        RuntimeError: it did not come up; the message ends with its last log lines.
    """
    port = free_port()
    command = [sys.executable, "-m", "tests.engines.serve_llamacpp", "--model", str(model), "--alias", MODEL_NAME]
    command += ["--port", str(port), "--context-tokens", str(options.context_tokens), "--slots", str(options.slots)]
    command += ["--unified"] * options.unified
    url = f"http://127.0.0.1:{port}"
    with _running(command, log, {}, ready=_page_has(f"{url}/health", ANYTHING), start_wait_max_s=30):
        yield url


@dataclass(frozen=True, slots=True)
class GatewayUrls:
    """Where a running gateway takes requests, and where it tells of itself."""

    api: str
    admin: str


@contextmanager
def kvgate_server(engine_url: str, folder: Path, settings: Mapping[str, object] | None = None) -> Iterator[GatewayUrls]:
    """`kvgate serve ENGINE_URL`, with these settings in a file; comes back when the engine has been detected.

    Raises:
        RuntimeError: it did not come up, or saw no engine; the message ends with its last log lines.
    """
    port, admin_port = free_port(), free_port()
    urls = GatewayUrls(api=f"http://127.0.0.1:{port}", admin=f"http://127.0.0.1:{admin_port}")
    command = [sys.executable, "-m", "gateway", "serve", engine_url]
    command += ["--port", str(port), "--admin-port", str(admin_port)]
    if settings:
        path = folder / "kvgate.yaml"
        path.write_text(yaml.safe_dump(dict(settings)))
        command += ["-c", str(path)]
    sees_engine = _page_has(f"{urls.admin}/metrics", re.compile(rb"^kvgate_backend_up\{[^}]*\} 1(\.0)?$", re.MULTILINE))
    with _running(command, folder / "kvgate.log", {}, ready=sees_engine, start_wait_max_s=20):
        yield urls


@contextmanager
def _running(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    ready: Callable[[], bool],
    start_wait_max_s: float,
) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until(ready, process, log, start_wait_max_s)
        yield
    finally:
        _stop_group(process)


def _wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, wait_max_s: float) -> None:
    deadline = time.monotonic() + wait_max_s
    while not ready():
        try:
            trouble = f"ended with status {process.wait(timeout=POLL_INTERVAL_S)}"
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            trouble = f"was not ready after {wait_max_s:.0f} s"
        tail = log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        raise RuntimeError(f"{' '.join(map(str, process.args))} {trouble}; its log ends with:\n{tail}")  # type: ignore[arg-type]


def _page_has(url: str, wanted: re.Pattern[bytes]) -> Callable[[], bool]:
    """A check whether the page is there (a 200) and has the pattern somewhere."""

    def has() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=PAGE_WAIT_MAX_S) as page:
                return wanted.search(page.read()) is not None
        except (http.client.HTTPException, OSError):
            return False

    return has


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and all it started: an engine's workers outlive their parent if only that is killed."""
    group = process.pid
    _signal_group(group, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_WAIT_MAX_S)
    _signal_group(group, signal.SIGKILL)
    process.wait(timeout=STOP_WAIT_MAX_S)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
