"""The owner's part in having workers, with processes that a test plays: who is hired, replaced, retired, and ended."""

from __future__ import annotations

import asyncio
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar, cast

import msgspec
import pytest

from gateway.config.listen import Listen
from gateway.front import Parts
from gateway.workers import crew as crew_module
from gateway.workers.channel import Channel
from gateway.workers.crew import Crew, worker_front
from gateway.workers.messages import (
    Built,
    Died,
    Finish,
    Lag,
    Learned,
    Message,
    Opened,
    Retire,
    Setup,
    State,
    ToWorker,
)
from tests.shell import MODEL
from tests.workers.pair import Owner

M = TypeVar("M", bound=Message)


class Played:
    """A worker that does what the test says."""

    def __init__(self, theirs: socket.socket, pid: int) -> None:
        self.pid = pid
        self._end = theirs.dup()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.heard: asyncio.Queue[ToWorker] = asyncio.Queue()
        self.channel = Channel(msgspec.msgpack.Decoder(ToWorker), lambda: None)

    async def start(self) -> None:
        await self.channel.open(self._end, self.heard.put_nowait)

    async def wait(self) -> int:
        """Of its process."""
        return await asyncio.shield(self.ended)

    def kill(self) -> None:
        """Of its process."""
        self.end(-9)

    def end(self, code: int = 0) -> None:
        self.channel.close()
        if not self.ended.done():
            self.ended.set_result(code)

    async def hears(self, kind: type[M]) -> M:
        async with asyncio.timeout(8):
            while not isinstance(message := await self.heard.get(), kind):
                pass
        return message

    async def open(self) -> None:
        """It takes connections from now on."""
        self.channel.send(Built())
        await self.hears(State)
        self.channel.send(Opened())


class Office:
    """Where workers are hired."""

    def __init__(self) -> None:
        self.hired: asyncio.Queue[Played] = asyncio.Queue()
        self.refusals = 0
        self._count = 0

    async def start(self, theirs: socket.socket, _listening: socket.socket) -> Process:
        if self.refusals:
            self.refusals -= 1
            raise OSError("there is no memory for it")
        self._count += 1
        played = Played(theirs, self._count)
        await played.start()
        self.hired.put_nowait(played)
        return cast("Process", played)

    async def next(self) -> Played:
        return await asyncio.wait_for(self.hired.get(), 8)


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    """Workers are replaced without a pause, and nobody is waited for."""
    office = Office()
    monkeypatch.setattr(crew_module, "_start", office.start)
    for name, value in (
        ("PAUSE_S", 0.0),
        ("END_MAX_S", 0.05),
        ("TELL_EVERY_S", 0.01),
        ("HAND_OVER_S", 0.0),
        ("LEARNED_EVERY_S", 0.05),
    ):
        monkeypatch.setattr(crew_module, name, value)
    return office


@asynccontextmanager
async def keeping(crew: Crew) -> AsyncIterator[None]:
    """It has a worker, and tells it what there is to know."""
    with socket.socket() as listening:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(crew.keep(listening)), group.create_task(crew.tell())]
                yield
                for task in tasks:
                    task.cancel()
        finally:
            await crew.end()


async def test_a_worker_gets_what_it_needs(office: Office) -> None:
    """The configuration at once, all that is known when it has built itself, and then what changes."""
    owner = Owner()
    crew = Crew(owner.parts)
    async with keeping(crew):
        worker = await office.next()
        assert (await worker.hears(Setup)).config == owner.config.referring()
        worker.channel.send(Built())
        state = await worker.hears(State)
        assert (set(state.models), state.is_draining) == ({MODEL}, False)
        worker.channel.send(Opened())
        owner.pricing.of(MODEL)
        assert MODEL.encode() in (await worker.hears(Learned)).content
        owner.backends["a"].adopt("vllm")
        assert (await worker.hears(State)).kinds == {"a": "vllm"}
    assert worker.ended.result() == -9, "it did not go by itself"


async def test_a_worker_that_ends_is_replaced(office: Office) -> None:
    """Also when it never opened, and when the system lets nobody start for a while."""
    async with keeping(Crew(Owner().parts)):
        first = await office.next()
        first.end(1)
        second = await office.next()
        await second.open()
        office.refusals = 3
        second.end(-9)
        third = await office.next()
        await third.open()
        assert office.refusals == 0


async def test_nobody_retires_before_the_successor_is_open(office: Office) -> None:
    """A configuration that workers cannot use leaves those alone that have another."""
    owner = Owner()
    crew = Crew(owner.parts)
    async with keeping(crew):
        old = await office.next()
        await old.open()
        await _until(lambda: all(member.opened.is_set() for member in crew._members))
        crew.renew(replace(owner.parts, config=owner.config.model_copy(update={"drain_max_s": 7.0})))
        failed = await office.next()
        failed.channel.send(Built())
        failed.end(1)
        new = await office.next()
        assert b'"drain_max_s":7.0' in (await new.hears(Setup)).config
        assert not any(isinstance(message, Retire) for message in _all(old))
        await new.open()
        await old.hears(Retire)
        old.end()
        await _until(lambda: len(crew._members) == 1)


def _all(worker: Played) -> list[ToWorker]:
    return [worker.heard.get_nowait() for _ in range(worker.heard.qsize())]


async def test_one_that_was_hired_while_the_configuration_changed(office: Office) -> None:
    """It has the old one: so it is replaced as soon as it is open."""
    owner = Owner()
    crew = Crew(owner.parts)
    async with keeping(crew):
        early = await office.next()
        crew.renew(owner.parts)
        await early.open()
        late = await office.next()
        await late.open()
        await early.hears(Retire)


async def test_what_one_learns_of_poison_the_others_are_told(office: Office) -> None:
    crew = Crew(Owner().parts)
    async with keeping(crew), keeping(crew):
        one, other = await office.next(), await office.next()
        await one.open()
        await other.open()
        one.channel.send(Died(b"name", 9))
        assert (await other.hears(Died)).name == b"name"
        assert not any(isinstance(message, Died) for message in _all(one))


async def test_a_worker_that_hangs_is_killed(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its event loop says nothing for long, while the owner's turns. Others say something, and live."""
    monkeypatch.setattr(crew_module, "SILENT_MAX_S", 0.2)
    crew = Crew(Owner().parts)
    async with keeping(crew), keeping(crew):
        silent, talks = await office.next(), await office.next()
        await silent.open()
        await talks.open()
        while not silent.ended.done():
            talks.channel.send(Lag(0.0))
            await asyncio.sleep(0)
        assert not talks.ended.done()


async def test_the_end(office: Office) -> None:
    """Each is told to go, and what it has still to say is heard. Who does not go is made to."""
    owner = Owner()
    crew = Crew(owner.parts)
    with socket.socket() as listening:
        goes, stays = await crew._hire(listening), await crew._hire(listening)
        assert goes is not None
        assert stays is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(crew.end())
            polite, deaf = await office.next(), await office.next()
            await polite.hears(Finish)
            polite.channel.send(Lag(0.5))
            polite.end()
    assert (polite.ended.result(), deaf.ended.result()) == (0, -9)
    assert goes.guest.silent_turns == 0
    assert crew._members == set()


async def test_one_that_is_gone_before_it_is_told_anything(office: Office) -> None:
    """Nothing waits for it."""
    async with keeping(Crew(Owner().parts)):
        (await office.next()).end(0)
        await office.next()


async def test_the_front(office: Office) -> None:
    """All listen on one port that nobody else has; port 0 is a free one."""
    parts = _listening("127.0.0.1", 0)
    async with worker_front(3)(parts) as url:
        port = int(url.removeprefix("http://127.0.0.1:"))
        assert port > 0
        workers = [await office.next() for _ in range(3)]
        with pytest.raises(OSError, match="in use"):
            async with worker_front(2)(_listening("127.0.0.1", port)):
                pass
        assert parts.leavers == []
    assert {worker.ended.result() for worker in workers} == {-9}


def _listening(host: str, port: int) -> Parts:
    owner = Owner()
    listen = Listen(host=host, port=port)
    return replace(owner.parts, config=owner.config.model_copy(update={"listen": listen}))


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
async def test_an_ipv6_address(office: Office) -> None:
    try:
        async with worker_front(2)(_listening("::1", 0)) as url:
            assert url.startswith("http://[::1]:")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_a_socket_that_was_passed(office: Office) -> None:
    """All share it. At the end they leave it to whoever comes next, and have no successors."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        parts = replace(Owner().parts, passed=passed)
        async with worker_front(2)(parts) as url:
            assert url == f"http://127.0.0.1:{passed.getsockname()[1]}"
            workers = [await office.next() for _ in range(2)]
            (leave,) = parts.leavers
            await leave()
            for worker in workers:
                await worker.hears(Retire)
                worker.end()
            await asyncio.sleep(0)
            assert office.hired.empty()
        passed.getsockname()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not holds():  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0)
