"""Keeps the shared ledger: one conversation with the store at a time, about all backends at once.

Between admission's decision and the sending of a request stands one round trip; requests that are admitted during one
go together with the next. All else that is said (renewals, room that came free) takes the same way, so no two words of
one gateway can pass each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import structlog

from gateway.admission.commands import Admit, Command
from gateway.admission.events import BackendAdded, BackendRemoved, Event, Left, LimitsChanged
from gateway.gate import Gate
from gateway.reporting.ledger import LedgerMetrics, Mode, Op
from gateway.shared_ledger.book import HEARTBEAT_S, Book, Heard
from gateway.shared_ledger.claims import Claim, LedgerSettings, Reply, Store, StoreError

NAME_BYTES = 8

log = structlog.get_logger()


class StoreLibraryError(ValueError):
    """The client library of the store is not installed."""


@dataclass(frozen=True, slots=True)
class LedgerState:
    """For people."""

    mode: Mode
    store: str
    """Its address, without any password."""
    store_up: bool
    gateway: str
    """Our name in the store."""
    replicas: int
    """Gateways that share, as seen last; 0: never seen."""
    share: float
    """Part of each pool that this gateway may fill at most."""


class SharedLedger:
    """See the module.

    Args:
        store: where the gateways meet.
        gate: of this gateway.
        settings: of the ledger.
        metrics: of the ledger.
        name: of this gateway in the store; no other has it.
        observe: nothing is asked for, all is told.
    """

    def __init__(
        self,
        store: Store,
        gate: Gate,
        settings: LedgerSettings,
        metrics: LedgerMetrics,
        *,
        name: str,
        observe: bool = False,
    ) -> None:
        self._store = store
        self._gate = gate
        self._settings = settings
        self._metrics = metrics
        self._name = name
        self._observe = observe
        self._books: dict[str, Book] = {}
        self._gone: list[Book] = []
        self._number = 0
        self._mode: Mode = "degraded"
        self._trouble: str | None = None
        self._work = asyncio.Event()

    def screen(self, event: Event | None, commands: Sequence[Command], now: float) -> Sequence[Command]:
        """See `gateway.gate.Sharing`."""
        if isinstance(event, Left):
            for book in self._books.values():
                book.pending.pop(event.ticket_id, None)
                book.freed()
            self._work.set()
        elif isinstance(event, BackendAdded):
            self._forget(event.spec.name)
            if not event.spec.hosted:
                self._books[event.spec.name] = Book(event.spec.name, self._settings)
                self._metrics.on_expired(event.spec.name)
        elif isinstance(event, LimitsChanged):
            self._observe = event.limits.observe
        elif isinstance(event, BackendRemoved):
            self._forget(event.backend)
        held_back = [command for command in commands if self._is_held_back(command, now)]
        if not held_back:
            return commands
        self._work.set()
        return [command for command in commands if command not in held_back]

    async def run(self) -> None:
        """Talk with the store until cancelled; then say goodbye."""
        try:
            while True:
                self._work.clear()
                self._tell_changes()
                due = min((book.due() for book in self._books.values()), default=float("inf"))
                if due > (now := self._gate.now()):
                    await self._wait(due - now)
                await self._talk()
        finally:
            await self._leave()

    def state(self) -> LedgerState:
        """As of now."""
        books = self._books.values()
        return LedgerState(
            mode=self._mode,
            store=self._settings.url.rpartition("@")[2] if "@" in self._settings.url else self._settings.url,
            store_up=self._trouble is None,
            gateway=self._name,
            replicas=max((book.replicas for book in books), default=0),
            share=min((book.share for book in books), default=1.0),
        )

    # Parts

    def _is_held_back(self, command: Command, now: float) -> bool:
        if self._observe or not isinstance(command, Admit):
            return False
        book = self._books.get(command.backend)
        if book is None or not book.is_reachable:
            return False
        holding = self._gate.holding(command.backend)
        over = max(0, holding.blocks - holding.allowed_blocks) if holding is not None else 0
        book.hold_back(command, now, over_blocks=over)
        return True

    def _forget(self, backend: str) -> None:
        """It goes; who was to be sent there may go elsewhere."""
        if (book := self._books.pop(backend, None)) is not None:
            self._gone.append(book)
        self._work.set()

    def _tell_changes(self) -> None:
        """Before the first answer nobody knows who else is there; on a backend that has gone nobody waits."""
        gone, self._gone = self._gone, []
        events = [event for book in gone for event in book.closing()]
        events += [event for book in self._books.values() for event in book.opening()]
        for event in events:
            self._gate.hear(event)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if seconds < float("inf") else None):
                await self._work.wait()

    async def _talk(self) -> None:
        now = self._gate.now()
        books = [book for book in self._books.values() if book.due() <= now]
        if not books:
            return
        claims = [self._claim(book, now) for book in books]
        op: Op = "renew"
        if any(claim.is_request for claim in claims):
            op = "acquire"
        elif any(book.next_at > now for book in books):
            op = "release"
        started = perf_counter()
        try:
            replies = await self._store.hold(claims)
        except StoreError as error:
            self._called(op, started, str(error))
            self._failed(books, claims)
            return
        self._called(op, started, None)
        for book, claim, reply in zip(books, claims, replies, strict=True):
            self._answered(book, claim, reply)
        self._note_mode()

    def _claim(self, book: Book, now: float) -> Claim:
        self._number += 1
        closely = now >= book.close_at
        if closely:
            book.close_at = now + HEARTBEAT_S
        return book.claim(self._gate.holding(book.backend, closely=closely), self._number, now)

    def _answered(self, book: Book, claim: Claim, reply: Reply) -> None:
        if reply.lapsed_now:
            self._metrics.on_expired(book.backend, reply.lapsed_now)
            log.warning("ledger_lease_expired", backend=book.backend, leases=reply.lapsed_now)
        self._act(book.answered(claim, reply, self._gate.now()))

    def _failed(self, books: Sequence[Book], claims: Sequence[Claim]) -> None:
        # First all of them, then what follows: what one sets free must not go out to another unasked.
        heard = [book.failed(claim, self._gate.now()) for book, claim in zip(books, claims, strict=True)]
        self._note_mode()
        for each in heard:
            self._act(each)

    def _act(self, heard: Heard) -> None:
        self._gate.told(heard.granted)
        for event in heard.events:
            self._gate.hear(event)

    def _called(self, op: Op, started: float, trouble: str | None) -> None:
        self._metrics.on_call(op, perf_counter() - started, answered=trouble is None)
        if (trouble is None) != (self._trouble is None):
            if trouble is not None:
                log.warning("ledger_store_lost", trouble=trouble)
            else:
                log.info("ledger_store_answers")
        self._trouble = trouble

    def _note_mode(self) -> None:
        settled = all(book.is_settled and book.is_reachable for book in self._books.values())
        mode: Mode = "shared" if settled else "degraded"
        if mode == self._mode:
            return
        self._mode = mode
        self._metrics.on_mode(mode)
        state = self.state()
        level = log.info if mode == "shared" else log.warning
        level("ledger_mode", mode=mode, replicas=state.replicas, share=round(state.share, 4))

    async def _leave(self) -> None:
        held = [(name, holding.blocks) for name in self._books if (holding := self._gate.holding(name)) is not None]
        try:
            await self._store.leave(held)
        except StoreError as error:
            log.warning("ledger_not_left", trouble=str(error))
        finally:
            await self._store.aclose()


def open_ledger(settings: LedgerSettings, gate: Gate, metrics: LedgerMetrics, *, observe: bool = False) -> SharedLedger:
    """The ledger on its store, of which the gate knows from now on; nothing is sent before it runs.

    Raises:
        StoreLibraryError: the client library is not installed.
        ValueError: the URL makes no sense to it.
    """
    try:
        from gateway.shared_ledger.redis_store import open_store  # noqa: PLC0415  # the library is an extra
    except ImportError:
        raise StoreLibraryError("needs a library that is missing: pip install 'kvgate[redis]'") from None
    name = secrets.token_hex(NAME_BYTES)
    store = open_store(settings, name)
    ledger = gate.sharing = SharedLedger(store, gate, settings, metrics, name=name, observe=observe)
    return ledger
