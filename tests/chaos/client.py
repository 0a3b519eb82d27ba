"""The client's side of one case, on a bare socket: asks, leaves when it is meant to, and says in a word what it saw."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass

from tests.chaos.case import Case, How, Leave, Outcome
from tests.chaos.table import expected
from tests.faults import DONE, ERROR_EVENT

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PATIENCE_S = 45.0
"""Whoever has no end by then hangs."""
UNREAD_S = 0.05
"""For so long at least a client that reads nothing stays."""
READ_BYTES = 65_536
ERROR_FIELDS = {"message", "type", "param", "code"}


@dataclass(slots=True)
class Caller:
    """Asks, one case after another, over one connection as long as that may be kept; or over one of its own each."""

    host: str
    port: int
    keeps: bool = False
    _line: Line | None = None

    async def ask(self, case: Case) -> Outcome:
        """Carry a case out."""
        line, self._line = self._line, None
        try:
            async with asyncio.timeout(PATIENCE_S):
                if line is None:
                    line = await asyncio.open_connection(self.host, self.port, limit=READ_BYTES * 4)
                client = _Client(case, *line)
                outcome = await client.run()
                if self.keeps and client.may_stay:
                    self._line, line = line, None
                return outcome
        except TimeoutError:
            return Outcome("hangs")
        finally:
            case.taken.set()
            case.release.set()
            if line is not None:
                line[1].transport.abort()

    def close(self) -> None:
        """Ask no more."""
        if self._line is not None:
            self._line[1].transport.abort()


class _Client:
    def __init__(self, case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._case = case
        self._reader = reader
        self._writer = writer
        self._body = bytearray()
        self.may_stay = False
        """The answer has ended so that another may follow it."""

    async def run(self) -> Outcome:
        case = self._case
        request = case.request
        self._writer.write(request[: len(request) // 2] if case.leave is Leave.UPLOADING else request)
        if case.leave is Leave.NEVER:
            return await self._seen()
        return await self._answered_before(self._moment()) or await self._leave()

    async def _moment(self) -> None:
        """Wait until it is time to go."""
        case = self._case
        match case.leave:
            case Leave.UPLOADING | Leave.AT_ONCE | Leave.NEVER:
                pass
            case Leave.QUEUED | Leave.GRANTED:
                await case.release.wait()
            case Leave.ASKED:
                await case.asked.wait()
            case Leave.HEAD:
                await case.told.wait()
            case Leave.MIDSTREAM:
                await case.taken.wait()
            case Leave.UNREAD:
                await case.told.wait()
                self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket
                await asyncio.sleep(UNREAD_S)

    async def _answered_before(self, moment: Coroutine[None, None, None]) -> Outcome | None:
        """Its answer, if that comes first: a refusal."""
        async with asyncio.TaskGroup() as group:
            due = group.create_task(moment)
            seen = group.create_task(self._seen())
            await asyncio.wait((due, seen), return_when=asyncio.FIRST_COMPLETED)
            outcome = seen.result() if seen.done() else None
            for task in (due, seen):
                task.cancel()
        return outcome

    async def _leave(self) -> Outcome:
        match self._case.how:
            case How.CLOSE:
                self._writer.close()
            case How.RESET:
                peer = self._writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._writer.transport.abort()
            case How.HALF:
                self._writer.write_eof()
                self._writer.transport.resume_reading()  # type: ignore[attr-defined]  # of a socket
                try:
                    while await self._reader.read(READ_BYTES):
                        pass
                except ConnectionError:
                    pass
        return Outcome("left")

    async def _seen(self) -> Outcome:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return Outcome("cut", "before the head")
        line, *fields = head[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        status = int(line.split(" ")[1])
        if headers.get("x-request-id") != self._case.id:
            return Outcome("wrong", f"another request's head: {headers}")
        is_whole = await self._read_body(headers)
        self.may_stay = is_whole and headers.get("connection", "") != "close"
        if status != 200:
            return _error(status, headers, bytes(self._body)) if is_whole else Outcome("cut", f"in a {status}")
        return self._answered(is_whole)

    async def _read_body(self, headers: dict[str, str]) -> bool:
        """Whether it has come to its end."""
        try:
            if "content-length" in headers:
                self._body += await self._reader.readexactly(int(headers["content-length"]))
                return True
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                self._body += (await self._reader.readexactly(size + 2))[:-2]
                self._case.taken.set()
                if self._case.reads_slowly:
                    await asyncio.sleep(0.01)
            await self._reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return True

    def _answered(self, is_whole: bool) -> Outcome:
        case, body = self._case, bytes(self._body)
        if case.stream:
            body = b"".join(part + b"\n\n" for part in body.split(b"\n\n")[:-1] if not part.startswith(b":"))
        whole = expected(case)
        if is_whole and body == whole:
            return Outcome("ok")
        if ERROR_EVENT in body and whole.startswith(body.partition(ERROR_EVENT)[0]):
            return Outcome("told")
        *before, last = body.removesuffix(DONE).removesuffix(b"\n\n").split(b"\n\n")
        is_true = bool(before) and whole.startswith(b"\n\n".join(before) + b"\n\n")
        if case.stream and is_true and b'"error"' in last and not is_whole and DONE not in body:
            return Outcome("broken")
        return Outcome("cut" if not is_whole else "wrong", f"{len(body)} bytes, ends with {body[-200:]!r}")


def _error(status: int, headers: dict[str, str], body: bytes) -> Outcome:
    """A well-formed error, or `wrong`."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return Outcome("wrong", f"{status} {body[:200]!r}")
    retryable = headers.get("x-should-retry") == "true"
    if set(error) != ERROR_FIELDS or "x-should-retry" not in headers:
        return Outcome("wrong", f"{status} {body[:200]!r} {headers}")
    if (status in (429, 503)) != ("retry-after" in headers and "retry-after-ms" in headers):
        return Outcome("wrong", f"{status} and its Retry-After: {headers}")
    return Outcome(str(status), str(error["code"]), retryable)
