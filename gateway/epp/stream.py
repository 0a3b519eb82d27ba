"""One stream between Envoy and the picker: read ahead, so that its end is seen while something else is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from gateway.epp.messages import Body, Message, ProtocolError, Reply, Side, Trailers

READ_AHEAD = 4
"""Messages that may wait to be handled. While a request waits for room, trailers and the end are all that may come."""


class GoneError(Exception):
    """Envoy wants nothing for the request any more: its client left, or Envoy has answered by itself."""


class Stream:
    """See the module.

    Args:
        messages: from Envoy.
        write: to Envoy.
        group: where it reads, and writes on the side, until `close`.
    """

    def __init__(
        self, messages: AsyncIterator[Message], write: Callable[[Reply], Awaitable[None]], group: asyncio.TaskGroup
    ) -> None:
        self._messages = messages
        self._write = write
        self._writing = asyncio.Lock()
        self._read: asyncio.Queue[Message | None] = asyncio.Queue(READ_AHEAD)
        self._is_over = False
        self._on_over: Callable[[], None] | None = None
        self._group = group
        self._tasks = [group.create_task(self._fill())]

    def close(self) -> None:
        """Read and write no more."""
        for task in self._tasks:
            task.cancel()

    async def _fill(self) -> None:
        async for message in self._messages:
            if message.side is Side.RESPONSE:
                self._request_is_over()
            await self._read.put(message)
        self._request_is_over()
        await self._read.put(None)

    async def next(self) -> Message:
        """The next message.

        Raises:
            GoneError: there is none.
        """
        message = await self._read.get()
        if message is None:
            self._read.put_nowait(None)  # for whoever asks again
            raise GoneError
        return message

    async def send(self, reply: Reply) -> None:
        """Send one message; several may be told to at once."""
        async with self._writing:
            await self._write(reply)

    def send_beside(self, replies: Sequence[Reply]) -> None:
        """Send these while something else goes on."""
        self._tasks.append(self._group.create_task(self._send_all(replies)))

    async def _send_all(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            await self.send(reply)

    @asynccontextmanager
    async def attentive(self) -> AsyncIterator[None]:
        """The block runs until it ends, or until Envoy wants nothing for the request any more.

        Raises:
            GoneError: the latter.
        """
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                if self._is_over:
                    raise GoneError
                self._on_over = lambda: scope.reschedule(loop.time())
                yield
        except TimeoutError:
            if scope.expired():
                raise GoneError from None
            raise
        finally:
            self._on_over = None

    async def request_body(self, limit_bytes: int) -> tuple[bytes, bool] | None:
        """The whole body, and whether trailers end it; None where it is larger than the limit.

        Raises:
            GoneError: it does not end.
            ProtocolError: something else came.
        """
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self.next()
            if message.side is Side.RESPONSE:
                raise GoneError
            if isinstance(message, Trailers):
                return b"".join(pieces), True
            if not isinstance(message, Body):
                raise ProtocolError("headers after the headers")
            size += len(message.data)
            if size > limit_bytes:
                return None
            pieces.append(message.data)
            if message.last:
                return b"".join(pieces), False

    def _request_is_over(self) -> None:
        self._is_over = True
        on_over, self._on_over = self._on_over, None
        if on_over is not None:
            on_over()
