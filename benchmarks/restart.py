"""KVGate killed, stopped and replaced under load: how soon it serves right again, and who is lost.

Run it as `python -m benchmarks.restart`; `--quick` for a look. Three things are done to `kvgate serve` in front of a
simulated engine: kill -9 while somebody else's work and its own fill most of the engine, again and again; SIGTERM with
streams under way; a listening socket that goes from one process to the next while clients connect without a pause.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import children
from benchmarks.children import Child
from benchmarks.timed_requests import Pool, completion_request

POOL_TOKENS = 49_152
ENGINE = ("--kv-tokens", str(POOL_TOKENS), "--max-num-seqs", "256", "--speed", "1")
OTHERS = 6
OTHERS_PROMPT_TOKENS = 4_000
OTHERS_TOKENS = 4_000
"""Half of the pool and more is in use by somebody else, who asks the engine itself: for a minute, and again."""
OWN_REQUESTS = 96
OWN_PROMPT_TOKENS = 256
OUTPUT_TOKENS = 64
WATCH_S = 5.0
STREAMS = 200
STREAM_TOKENS = 120
STREAM_BYTES_MAX = 1 << 22
VISITORS = 4
EXIT_MAX_S = 60.0
TAKE_OVER = """
import os, sys
for target, source in enumerate(sys.argv[1].split(","), 3):
    os.dup2(int(source), target)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "gateway", *sys.argv[2:]])
"""
"""Does what systemd does before it runs a service."""


def figures(*, quick: bool = False) -> dict[str, float]:
    """All figures by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = asyncio.run(_killed(folder, 3 if quick else 20, 2.0 if quick else WATCH_S))
        found |= asyncio.run(_stopped(folder, STREAMS // (4 if quick else 1)))
        return found | asyncio.run(_handed_over(folder))


# ------------------------------------------------------------------------------------------ kill -9


@dataclass(slots=True)
class Lives:
    """What was seen of the processes that followed one another."""

    cpu_s: list[float] = field(default_factory=list)
    """Used until it served, which tells more on a busy machine."""
    served_s: list[float] = field(default_factory=list)
    excess_tokens: list[int] = field(default_factory=list)
    foreign_tokens: list[int] = field(default_factory=list)


async def _killed(folder: Path, kills: int, watch_s: float) -> dict[str, float]:
    port = _free_port()
    # What was learned of lengths outlives the process, as in production.
    kept = {"KVGATE_STATE__PATH": os.fspath(folder / "learned.json"), "KVGATE_STATE__SAVE_EVERY_S": "1"}
    lives = Lives()
    preempted = 0.0
    with children.engine(folder, *ENGINE) as engine:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(_other(engine.url)) for _ in range(OTHERS)]
            for number in range(kills + 1):
                began = time.monotonic()
                first = group.create_task(_first_answer(f"http://127.0.0.1:{port}"))
                starting = children.gateway(folder, engine.url, port=port, name=f"life-{number}", environ=kept)
                gateway = await asyncio.to_thread(starting.__enter__)
                try:
                    lives.served_s.append(await first - began)
                    lives.cpu_s.append(gateway.cpu_us() / 1e6)
                    await _life(gateway, lives, watch_s)
                finally:
                    starting.__exit__(None, None, None)
                if number == 0:
                    preempted = _preemptions(engine)
            for other in others:
                other.cancel()
        preempted = _preemptions(engine) - preempted
    # The first one followed nobody, and the others came together with it.
    return {
        "kill -9: until it serves, s, median": sorted(lives.served_s[1:])[kills // 2],
        "kill -9: until it serves, s, max": max(lives.served_s[1:]),
        "kill -9: CPU until it serves, s, median": sorted(lives.cpu_s[1:])[kills // 2],
        "kill -9: over-admitted tokens, max": float(max(lives.excess_tokens[1:])),
        "kill -9: preemptions in the engine": preempted,
        "kill -9: foreign tokens found, min": float(min(lives.foreign_tokens[1:])),
    }


def _preemptions(engine: Child) -> float:
    return sum(engine.metric("vllm:num_preemptions_total").values())


async def _life(gateway: Child, lives: Lives, watch_s: float) -> None:
    """One process: a crowd comes at once; it is killed with the crowd inside."""
    loop = asyncio.get_running_loop()
    # Each prompt is another: what would be shared between them is not what this is about.
    owns = (
        completion_request(gateway.url, output_tokens=OUTPUT_TOKENS, prompt_tokens=OWN_PROMPT_TOKENS, token=token)
        for token in itertools.count(1000)
    )
    async with Pool(gateway.url) as pool, asyncio.TaskGroup() as group:
        crowd = [group.create_task(pool.ask(next(owns), 120.0)) for _ in range(OWN_REQUESTS)]
        excess = foreign_tokens = 0
        until = loop.time() + watch_s
        while loop.time() < until:
            crowd.append(group.create_task(pool.ask(next(owns), 120.0)))
            for backend in (await asyncio.to_thread(gateway.state))["backends"]:
                held = backend["reserved_tokens"] + backend["draining_tokens"] + backend["foreign_tokens"]
                excess = max(excess, held - backend["capacity_tokens"])
                foreign_tokens = max(foreign_tokens, backend["foreign_tokens"])
            await asyncio.sleep(0.02)
        lives.excess_tokens.append(excess)
        lives.foreign_tokens.append(foreign_tokens)
        gateway.kill()
        for task in crowd:
            task.cancel()


async def _first_answer(url: str) -> float:
    """When a client was served that connects again and again."""
    request = completion_request(url, output_tokens=1)
    async with Pool(url) as pool, asyncio.timeout(EXIT_MAX_S):
        while (await pool.ask(request, EXIT_MAX_S)).status != 200:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)
    return time.monotonic()


async def _other(url: str) -> None:
    """Somebody who uses the engine past the gateway, one stream after the other."""
    while True:
        await _whole(url, lambda: None, tokens=OTHERS_TOKENS, prompt_tokens=OTHERS_PROMPT_TOKENS)


# ------------------------------------------------------------------------------------------ SIGTERM


async def _stopped(folder: Path, streams: int) -> dict[str, float]:
    options = ("--kv-tokens", "400000", "--max-num-seqs", "512")
    with children.engine(folder, *options, name="wide") as engine, children.gateway(folder, engine.url) as gateway:
        began = asyncio.Event()
        opened = 0

        def count() -> None:
            nonlocal opened
            opened += 1
            if opened == streams:
                began.set()

        async with asyncio.TaskGroup() as group:
            running = [group.create_task(_whole(gateway.url, count)) for _ in range(streams)]
            await began.wait()
            gateway.process.send_signal(signal.SIGTERM)
        ended_at = time.monotonic()
        status = await asyncio.to_thread(gateway.process.wait, EXIT_MAX_S)
        return {
            "SIGTERM: streams": float(streams),
            "SIGTERM: streams cut": float(sum(not task.result() for task in running)),
            "SIGTERM: exit status": float(status),
            "SIGTERM: exit after the last stream, s": time.monotonic() - ended_at,
        }


async def _whole(
    url: str, on_begin: Callable[[], None], *, tokens: int = STREAM_TOKENS, prompt_tokens: int = 32
) -> bool:
    """Whether a stream came to its proper end."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=STREAM_BYTES_MAX)
    try:
        writer.write(completion_request(url, output_tokens=tokens, stream=True, prompt_tokens=prompt_tokens))
        first = await reader.readuntil(b"\n\n")
        on_begin()
        rest = await reader.readuntil(b"data: [DONE]\n\n") if b"200 OK" in first else b""
        return rest.endswith(b"[DONE]\n\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    finally:
        writer.close()


# ------------------------------------------------------------------------------------------ a socket passed on


@dataclass(slots=True)
class Visits:
    """Clients that connect anew for each request."""

    url: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    are_over: bool = False

    async def go_on(self) -> None:
        request = completion_request(self.url, output_tokens=2)
        while not self.are_over:
            async with Pool(self.url) as pool:
                asked = await pool.ask(request, EXIT_MAX_S)
            self.answered += asked.status == 200
            if asked.status != 200:
                self.failed.append(str(asked.status))


async def _handed_over(folder: Path) -> dict[str, float]:
    """Two restarts while clients connect, each with a stream under way that the old process has to end first."""
    with (
        children.engine(folder, *ENGINE, name="beside") as engine,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as api,
        socket.create_server(("127.0.0.1", 0)) as admin,
    ):
        visits = Visits(f"http://127.0.0.1:{api.getsockname()[1]}")
        cut = 0
        visitors: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                with _service(folder, engine.url, (api, admin), f"service-{number}") as service:
                    if number == 0:
                        visitors = [group.create_task(visits.go_on()) for _ in range(VISITORS)]
                    await _answers(visits, 50)
                    begun = asyncio.Event()
                    stream = group.create_task(_whole(service.url, begun.set))
                    await begun.wait()
                    if number == 2:
                        visits.are_over = True
                        await asyncio.wait(visitors)
                    service.process.send_signal(signal.SIGTERM)
                    cut += not await stream
                    await asyncio.to_thread(service.process.wait, EXIT_MAX_S)
        return {
            "hand-over: requests answered": float(visits.answered),
            "hand-over: requests failed": float(len(visits.failed)),
            "hand-over: streams cut": float(cut),
        }


async def _answers(visits: Visits, more: int) -> None:
    enough = visits.answered + more
    async with asyncio.timeout(EXIT_MAX_S):
        while visits.answered < enough:  # noqa: ASYNC110  # a benchmark has time
            await asyncio.sleep(0.02)


@contextmanager
def _service(folder: Path, url: str, sockets: tuple[socket.socket, socket.socket], name: str) -> Iterator[Child]:
    fds = [each.fileno() for each in sockets]
    told = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "api:admin", "PYTHONPATH": os.fspath(children.ROOT)}
    python = ("-c", TAKE_OVER, ",".join(map(str, fds)))
    with children.child(folder, name, ["serve", url, "--json"], told, fds, python) as service:
        yield service


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def main() -> None:
    """Measures and prints."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="few rounds, to see that it works")
    arguments.add_argument("--json", action="store_true", help="one JSON object")
    given = arguments.parse_args()
    found = figures(quick=given.quick)
    children.print_figures(found, as_json=given.json)


if __name__ == "__main__":
    main()
