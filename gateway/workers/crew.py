"""The owner's front with several workers: starts them, keeps them going, tells them what they need, and ends them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from gateway.descriptors import BACKLOG_MAX
from gateway.front import Front, Parts
from gateway.http_front import HAND_OVER_S
from gateway.learned_file import encoded, remembered
from gateway.workers.channel import Channel
from gateway.workers.guest import Guest
from gateway.workers.messages import (
    Built,
    Cleared,
    Died,
    Finish,
    Learned,
    Opened,
    Retire,
    Setup,
    State,
    ToOwner,
    ToWorker,
)

TELL_EVERY_S = 0.1
"""How old what workers know of the backends may get."""
LEARNED_EVERY_S = 1.0
PAUSE_S, PAUSE_MAX_S = 0.5, 10.0
"""Before a worker that ended young is replaced; doubled as long as they do."""
YOUNG_S = 10.0
SILENT_MAX_S = 20.0
"""A worker whose event loop does not turn for so long, while the owner's does, hangs."""
END_MAX_S = 3.0

log = structlog.get_logger()
_decoder = msgspec.msgpack.Decoder(ToOwner)


@dataclass(slots=True, eq=False)
class _Member:
    """A worker that runs."""

    process: Process
    gone: asyncio.Task[int]
    """Done when its process has ended."""
    outdated: asyncio.Event
    """Set once its configuration is not in force any more."""
    guest: Guest = field(init=False)
    channel: Channel[ToOwner] = field(init=False)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it takes connections."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once all it said was heard."""
    is_built: bool = False
    is_retired: bool = False

    async def comes(self, event: asyncio.Event) -> bool:
        """Wait for this event, or its end: whether it was the former."""
        waiter = asyncio.get_running_loop().create_task(event.wait())
        try:
            await asyncio.wait((waiter, self.gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        return not self.gone.done()

    def kill(self) -> None:
        """End its process, if it has not ended."""
        if not self.gone.done():
            with suppress(ProcessLookupError):
                self.process.kill()


def worker_front(count: int) -> Front:
    """The front for so many workers."""

    @asynccontextmanager
    async def front(parts: Parts) -> AsyncIterator[str]:
        sockets = _sockets(parts, count)
        crew = Crew(parts)
        parts.successors.append(crew.renew)
        try:
            async with asyncio.TaskGroup() as group:
                keeping = [group.create_task(crew.keep(listening)) for listening in sockets]
                telling = group.create_task(crew.tell())

                async def leave() -> None:
                    for task in keeping:
                        task.cancel()
                    crew.retire()
                    await asyncio.sleep(HAND_OVER_S)

                if parts.passed is not None:
                    parts.leavers.append(leave)
                yield _url(parts, sockets[0])
                for task in (*keeping, telling):
                    task.cancel()
        finally:
            await crew.end()
            for listening in sockets:
                listening.close()

    return front


class Crew:
    """All workers of one gateway."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._members: set[_Member] = set()
        self._renewed = asyncio.Event()
        self._state: State | None = None
        self._learned = b""

    def renew(self, parts: Parts) -> None:
        """The configuration has changed: workers that have it take the place of those that do not."""
        self._parts = parts
        renewed, self._renewed = self._renewed, asyncio.Event()
        renewed.set()

    async def keep(self, listening: socket.socket) -> None:
        """Have one worker at this socket, always: none retires before its successor takes connections."""
        now = asyncio.get_running_loop().time
        serving: _Member | None = None
        pause_s = 0.0
        while True:
            started_at = now()
            hired = await self._hire(listening)
            if hired is not None and await hired.comes(hired.opened):
                if serving is not None:
                    _retire(serving)
                serving = hired
                if await serving.comes(serving.outdated):
                    continue
            pause_s = 0.0 if now() - started_at > YOUNG_S else min(PAUSE_MAX_S, max(PAUSE_S, 2 * pause_s))
            await asyncio.sleep(pause_s)

    async def tell(self) -> None:
        """Tell the workers what they need to know, as it changes, and look after those that say nothing."""
        turns = 0
        while True:
            self._tell_state()
            if turns % round(LEARNED_EVERY_S / TELL_EVERY_S) == 0:
                self._tell_learned()
            turns += 1
            await asyncio.sleep(TELL_EVERY_S)
            self._end_silence()

    def retire(self) -> None:
        """Let them all leave, without successors."""
        for member in self._members:
            _retire(member)

    async def end(self) -> None:
        """End them all. What their clients are still to get, they get; what they still have to say is heard."""
        members = tuple(self._members)
        for member in members:
            member.is_retired = True
            member.channel.send(Finish())
            asyncio.get_running_loop().call_later(END_MAX_S, member.kill)
        await asyncio.gather(*(member.gone for member in members))
        with suppress(TimeoutError):
            async with asyncio.timeout(END_MAX_S):
                await asyncio.gather(*(member.lost.wait() for member in members))

    async def _hire(self, listening: socket.socket) -> _Member | None:
        """Start a worker; None where the system does not let us."""
        parts, outdated = self._parts, self._renewed
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await _start(theirs, listening)
        except OSError as error:
            ours.close()
            log.error("worker_not_started", trouble=str(error))  # noqa: TRY400  # the system's reason says all
            return None
        except asyncio.CancelledError:
            ours.close()  # Which ends it, where it has begun.
            raise
        member = _Member(process, asyncio.get_running_loop().create_task(process.wait()), outdated)
        member.channel = Channel(_decoder, lambda: self._on_lost(member))
        member.guest = Guest(parts, member.channel.send, lambda message: self._take(member, message))
        member.gone.add_done_callback(lambda _: self._on_gone(member))
        self._members.add(member)
        await member.channel.open(ours, member.guest.take)
        member.channel.send(Setup(parts.config.referring()))
        return member

    def _take(self, member: _Member, message: ToOwner) -> None:
        """What is not about requests."""
        match message:
            case Built():
                member.is_built = True
                if self._learned:
                    member.channel.send(Learned(self._learned))
                if self._state is not None:
                    member.channel.send(self._state)
            case Opened():
                member.opened.set()
            case Died() | Cleared():
                self._send(message, besides=member)
            case _:
                pass

    def _on_lost(self, member: _Member) -> None:
        member.guest.lost()
        member.lost.set()
        asyncio.get_running_loop().call_later(END_MAX_S, member.kill)

    def _on_gone(self, member: _Member) -> None:
        self._members.discard(member)
        if not member.is_retired:
            log.error("worker_lost", pid=member.process.pid, code=member.gone.result())

    def _end_silence(self) -> None:
        for member in self._members:
            member.guest.silent_turns += 1
            if member.opened.is_set() and member.guest.silent_turns * TELL_EVERY_S > SILENT_MAX_S:
                log.error("worker_hangs", pid=member.process.pid)
                member.kill()

    def _send(self, message: ToWorker, besides: _Member | None = None) -> None:
        for member in self._members:
            if member.is_built and member is not besides:
                member.channel.send(message)

    def _tell_state(self) -> None:
        state = self._now()
        if state is not None and state != self._state:
            self._state = state
            self._send(state)

    def _now(self) -> State | None:
        """What there is to know; None until the first look at every backend, a moment after the start."""
        gate = self._parts.gate
        if not gate.is_surveyed:
            return None
        found = {name: backend.found for name, backend in self._parts.backends.items()}
        kinds = {name: kind for name, kind in found.items() if kind is not None}
        is_strained = self._parts.shedding.strain is not None
        return State(gate.models(), gate.is_known, self._parts.is_draining(), is_strained, kinds)

    def _tell_learned(self) -> None:
        pricing = self._parts.pricing
        if not pricing.models():
            return
        content = encoded(remembered(pricing))
        if content != self._learned:
            self._learned = content
            self._send(Learned(content))


def _retire(member: _Member) -> None:
    member.is_retired = True
    member.channel.send(Retire())


async def _start(theirs: socket.socket, listening: socket.socket) -> Process:
    """A worker's process.

    It imports from where we do, not from where we stand, and is in a session of its own: what a terminal sends to all
    of its processes is for the owner alone.
    """
    numbers = (theirs.fileno(), listening.fileno())
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gateway.workers", *map(str, numbers)),
        pass_fds=numbers,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _sockets(parts: Parts, count: int) -> list[socket.socket]:
    """What the workers listen at: a socket each, among which the kernel spreads connections, or all the one passed.

    They are held here, so that connections that wait in one outlive its worker.

    Raises:
        OSError: the address cannot be listened on.
    """
    if parts.passed is not None:
        return [parts.passed.dup() for _ in range(count)]
    host, port = parts.config.listen.host, parts.config.listen.port
    families = [found[0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)]
    family = socket.AF_INET if socket.AF_INET in families else families[0]
    with socket.create_server((host, port), family=family) as probe:
        port = probe.getsockname()[1]  # Nobody else listens there: sharing a port would hide that.
    sockets = []
    for _ in range(count):
        listening = socket.create_server((host, port), family=family, reuse_port=True, backlog=BACKLOG_MAX)
        listening.settimeout(0)
        sockets.append(listening)
    return sockets


def _url(parts: Parts, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    if parts.passed is None:
        host = parts.config.listen.host
    return f"{'https' if parts.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
