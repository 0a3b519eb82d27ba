"""What systemd and the gateway tell each other, once piece by piece and once with a whole process."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from structlog.testing import capture_logs

from gateway import systemd

START_MAX_S = 15.0
STOP_MAX_S = 10.0
TAKE_OVER = """
import os, sys
for target, source in enumerate(sys.argv[1].split(","), 3):
    os.dup2(int(source), target)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "gateway", "serve", *sys.argv[2:]])
"""
"""Does what systemd does before it runs a service: the sockets from descriptor 3 on, and whom they are for."""


@pytest.fixture
def listening() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that listen, as a socket unit holds them."""
    with ExitStack() as stack:
        api, admin = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        yield api, admin


@pytest.fixture
def news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd hears from the service. A relative path, as a socket's name is short."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("news")
        ear.setblocking(False)
        yield ear


async def heard(ear: socket.socket) -> str:
    """The next news."""
    return (await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ear, 4096), START_MAX_S)).decode()


def handed_over(names: str, count: int, *, pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "LISTEN_FDNAMES": names}


def test_no_sockets_are_taken_that_were_not_meant_for_this_process() -> None:
    """Without systemd there are none, and a child does not take its parent's."""
    assert systemd.passed_sockets({}) == {}
    assert systemd.passed_sockets(handed_over("api", 1, pid=1)) == {}


def test_sockets_are_known_by_their_names(listening: tuple[socket.socket, socket.socket]) -> None:
    """Whatever their order, each is the one that listens where its name says, and children do not get it."""
    api, admin = listening
    first = fcntl.fcntl(admin, fcntl.F_DUPFD, 500)
    assert fcntl.fcntl(api, fcntl.F_DUPFD, first + 1) == first + 1
    passed = systemd.passed_sockets(handed_over("admin:api", 2), first)
    with passed["api"], passed["admin"]:
        assert passed["api"].getsockname() == api.getsockname()
        assert passed["admin"].getsockname() == admin.getsockname()
        assert not any(each.get_inheritable() or each.getblocking() for each in passed.values())


@pytest.mark.parametrize(
    ("names", "count"),
    [("api:metrics", 2), ("api:api", 2), ("kvgate.socket", 1), ("", 1), ("api", 2), ("api:admin", 1)],
)
def test_a_socket_of_unknown_use_stops_the_start(names: str, count: int) -> None:
    """A typing error in a unit must not leave a port unserved."""
    with pytest.raises(ValueError, match="known are api, admin"):
        systemd.passed_sockets(handed_over(names, count))


async def test_news_reach_whoever_asked(news: socket.socket) -> None:
    """By path and, where the name begins with @, in the namespace that has no files."""
    systemd.notify(systemd.READY, {})
    systemd.notify(systemd.READY, {"NOTIFY_SOCKET": "news"})
    assert await heard(news) == "READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0kvgate-test-{os.getpid()}")
        ear.setblocking(False)
        systemd.notify(systemd.STOPPING, {"NOTIFY_SOCKET": f"@kvgate-test-{os.getpid()}"})
        assert await heard(ear) == "STOPPING=1"


def test_nobody_there_is_logged(tmp_path: Path) -> None:
    """The gateway serves on."""
    with capture_logs() as logs:
        systemd.notify(systemd.READY, {"NOTIFY_SOCKET": str(tmp_path / "x")})
    assert [(line["event"], line["news"]) for line in logs] == [("systemd_not_told", "READY=1")]


async def test_the_watchdog_hears_again_and_again(news: socket.socket) -> None:
    """Only if it watches this very process."""
    watched = {"NOTIFY_SOCKET": "news", "WATCHDOG_USEC": "20000"}
    await systemd.keep_watchdog_quiet({"NOTIFY_SOCKET": "news"})
    await systemd.keep_watchdog_quiet(watched | {"WATCHDOG_PID": "1"})
    async with asyncio.TaskGroup() as group:
        beat = group.create_task(systemd.keep_watchdog_quiet(watched | {"WATCHDOG_PID": str(os.getpid())}))
        assert [await heard(news) for _ in range(3)] == ["WATCHDOG=1"] * 3
        beat.cancel()


@asynccontextmanager
async def service(api: socket.socket, admin: socket.socket) -> AsyncIterator[asyncio.subprocess.Process]:
    """`kvgate serve` as systemd would start it, killed at the end if it still runs."""
    fds = [api.fileno(), admin.fileno()]
    told = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "api:admin", "NOTIFY_SOCKET": "news"}
    told["PYTHONPATH"] = str(Path(__file__).parent.parent)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", TAKE_OVER, ",".join(map(str, fds)), "http://127.0.0.1:9", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | told,
        pass_fds=fds,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def told_urls(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """Where it says that it serves."""
    assert process.stdout is not None
    text = await asyncio.wait_for(process.stdout.readuntil(b"\n}\n"), START_MAX_S)
    shown = json.loads(text)
    return shown["api"], shown["admin"]


class Visits:
    """Clients that connect again and again, for one answer each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._changed = asyncio.Event()
        self.answered = 0
        self.are_over = False

    async def go_on(self) -> None:
        """Visit until it is over; every visit must be answered."""
        while not self.are_over:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), START_MAX_S)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
            writer.close()
            self.answered += 1
            self._changed.set()

    async def until(self, answered: int) -> None:
        """Wait until so many were answered."""
        while self.answered < answered:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), START_MAX_S)


@pytest.mark.timeout(60)
async def test_a_service_serves_what_it_is_handed(
    listening: tuple[socket.socket, socket.socket], news: socket.socket
) -> None:
    """It tells when it is ready and when it stops; who connects meanwhile is answered by this one or by the next."""
    api, admin = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in listening)
    visits = Visits(listening[0].getsockname()[1])
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        async with service(*listening) as first:
            assert await told_urls(first) == (api, admin)
            assert await heard(news) == "READY=1"
            assert (await http.get(f"{api}/ready")).status == 200
            assert (await http.get(f"{admin}/ready")).status == 200
            visitors = [group.create_task(visits.go_on()) for _ in range(2)]
            await visits.until(20)
            first.send_signal(signal.SIGTERM)
            assert await heard(news) == "STOPPING=1"
            assert await asyncio.wait_for(first.wait(), STOP_MAX_S) == 0
        async with service(*listening) as second:
            await visits.until(visits.answered + 20)
            visits.are_over = True
            await asyncio.wait(visitors)
            second.terminate()
            assert await asyncio.wait_for(second.wait(), STOP_MAX_S) == 0
