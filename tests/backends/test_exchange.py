"""One exchange with an engine that keeps no promise: faults have their kind, bytes are bounded, nothing stays open."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, strategies as st

from gateway.backends.exchange import EARLY_MAX_BYTES, Connection, Exchange
from gateway.backends.upstream import FailureKind, Upstream, UpstreamFailure, UpstreamTimeouts
from tests.faults import (
    FAULTS,
    LAST_CHUNK,
    STREAM_HEAD,
    Answer,
    FaultyEngine,
    Flood,
    Step,
    Trickle,
    chunk,
    event,
    response,
    stream,
)

IMPATIENT = UpstreamTimeouts(head_s=0.05, idle_s=0.05)
ONE_READ_MAX_BYTES = 256 * 1024
"""What asyncio and uvloop read from a socket at once, at most."""


class Tap:
    """A receiver that keeps what it gets, and closes after so many bytes."""

    def __init__(self, *, open_bytes: int = 1 << 40) -> None:
        self.data = bytearray()
        self.pushes = 0
        self.open_bytes = open_bytes
        self.shut = asyncio.Event()

    def on_data(self, data: bytes) -> bool:
        self.data += data
        self.pushes += 1
        if len(self.data) < self.open_bytes:
            return True
        self.shut.set()
        return False


async def ask(answer: Answer, timeouts: UpstreamTimeouts | None = None) -> tuple[int, bytes]:
    """Status and payload of one answer; checks that no connection outlives a failure."""
    async with FaultyEngine(answer) as engine:
        upstream = Upstream(engine.url, timeouts=timeouts)
        tap = Tap()
        try:
            async with upstream.exchange(b"POST", "/v1/completions", body=b"{}") as exchange:
                head = await exchange.head()
                await exchange.pump(tap)
        except UpstreamFailure:
            assert upstream.idle_connections == 0
            assert await engine.hang_ups.get() == 0 if Step.STALL in answer else True
            raise
        finally:
            await upstream.aclose()
        return head.status, bytes(tap.data)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("reset_before_head", FailureKind.RESET),
        ("close_before_head", FailureKind.RESET),
        ("close_in_head", FailureKind.RESET),
        ("reset_in_body", FailureKind.RESET),
        ("close_in_chunk", FailureKind.TRUNCATED),
        ("close_between_chunks", FailureKind.TRUNCATED),
        ("close_before_content_length", FailureKind.TRUNCATED),
        ("bad_chunk_size", FailureKind.PROTOCOL),
        ("bad_chunk_end", FailureKind.PROTOCOL),
        ("both_framings", FailureKind.PROTOCOL),
        ("two_lengths", FailureKind.PROTOCOL),
        ("many_headers", FailureKind.PROTOCOL),
        ("endless_head", FailureKind.PROTOCOL),
        ("garbage", FailureKind.PROTOCOL),
        ("bare_line_feeds", FailureKind.PROTOCOL),
        ("compressed", FailureKind.PROTOCOL),
        ("switching_protocols", FailureKind.PROTOCOL),
        ("interim_flood", FailureKind.PROTOCOL),
    ],
)
async def test_every_fault_has_its_kind(name: str, kind: FailureKind) -> None:
    """And the engine may have started on the request in all of them."""
    with pytest.raises(UpstreamFailure) as failure:
        await ask(FAULTS[name])
    assert failure.value.kind is kind
    assert failure.value.request_sent


@pytest.mark.parametrize("name", ["stall_before_head", "stall_in_body"])
async def test_silence_is_a_timeout(name: str) -> None:
    """Before the head and within the body."""
    with pytest.raises(UpstreamFailure) as failure:
        await ask(FAULTS[name], IMPATIENT)
    assert failure.value.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(
    ("name", "status"),
    [("rate_limited", 429), ("unavailable", 503), ("broken_inside", 500), ("redirect", 307), ("no_content", 204)],
)
async def test_answers_of_an_ill_engine_are_answers(name: str, status: int) -> None:
    """What they mean is not decided here; above all, no redirect is followed."""
    assert (await ask(FAULTS[name]))[0] == status


async def test_bytes_that_trickle_in_are_the_same_bytes() -> None:
    """Head and chunks arrive one byte at a time."""
    assert await ask((Trickle(stream(event("a"), event("b"))),)) == (200, event("a") + event("b"))


async def test_body_until_close_ends_with_the_connection() -> None:
    """Neither length nor chunks: the end of the connection is the end of the body."""
    assert await ask((b"HTTP/1.1 200 OK\r\n\r\nabc", Step.CLOSE)) == (200, b"abc")


@pytest.mark.parametrize("first", [b"", STREAM_HEAD + chunk(event("a"))])
async def test_cancellation_closes_the_engines_socket(first: bytes) -> None:
    """Cancelled while it waits for the head, or for the rest of the body: the engine sees the end of its client."""
    async with FaultyEngine((first, Step.STALL)) as engine:
        upstream = Upstream(engine.url)
        tap = Tap(open_bytes=1)

        async def carry() -> None:
            async with upstream.exchange(b"POST", "/v1/completions", body=b"{}") as exchange:
                await exchange.head()
                await exchange.pump(tap)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(carry())
            await engine.asked.wait()
            if first:
                await tap.shut.wait()
            task.cancel()
            assert await engine.hang_ups.get() == 0
        assert upstream.open_connections == 0


async def test_leaving_early_closes_the_engines_socket() -> None:
    """Whoever has read enough just leaves the block."""
    async with FaultyEngine((STREAM_HEAD + chunk(event("a")), Step.STALL)) as engine:
        upstream = Upstream(engine.url)
        async with upstream.exchange(b"GET", "/") as exchange:
            await exchange.head()
        assert await engine.hang_ups.get() == 0
        assert exchange.ended_at is not None
        exchange.resume()
        exchange.abort()
        assert upstream.open_connections == 0


async def test_abort_ends_whoever_waits() -> None:
    """`abort` may be called from anywhere on the loop; the consumer gets a failure, not silence."""
    async with FaultyEngine((Step.STALL,)) as engine:
        upstream = Upstream(engine.url)
        async with upstream.exchange(b"GET", "/") as exchange:
            asyncio.get_running_loop().call_soon(exchange.abort)
            with pytest.raises(UpstreamFailure, match="aborted"):
                await exchange.head()
        assert await engine.hang_ups.get() == 0


@pytest.fixture
async def flood() -> AsyncIterator[tuple[FaultyEngine, Upstream]]:
    """An engine that sends 50 MB as fast as it can."""
    block = chunk(b"x" * 100_000)
    async with FaultyEngine((STREAM_HEAD, Flood(block, 500), LAST_CHUNK)) as engine:
        upstream = Upstream(engine.url)
        yield engine, upstream
        await upstream.aclose()


async def quiet(engine: FaultyEngine) -> None:
    """Wait until the engine can send no more: all buffers on the way are full."""
    seen = -1
    while seen != engine.sent_bytes:
        seen = engine.sent_bytes
        for _ in range(200):
            await asyncio.sleep(0)


async def test_paused_receiver_stops_the_engine(flood: tuple[FaultyEngine, Upstream]) -> None:
    """One read of the socket beyond the pause and no more, no timeout meanwhile, and all bytes once it goes on."""
    engine, upstream = flood
    tap = Tap(open_bytes=1_000_000)
    async with upstream.exchange(b"GET", "/") as exchange:
        assert not await exchange.pump(tap)
        await quiet(engine)
        assert len(tap.data) <= 1_000_000 + ONE_READ_MAX_BYTES
        assert engine.sent_bytes < 20_000_000
        for late_s in (1, 2):
            exchange.check_quiet(asyncio.get_running_loop().time() + 1000 * late_s, IMPATIENT)
        tap.open_bytes = 1 << 40
        exchange.resume()
        assert await exchange.pump(tap)
    assert len(tap.data) == 50_000_000
    assert upstream.idle_connections == 1


async def test_payload_without_a_consumer_is_bounded(flood: tuple[FaultyEngine, Upstream]) -> None:
    """Between `head` and `pump` little is kept, and nothing is lost."""
    engine, upstream = flood
    async with upstream.exchange(b"GET", "/") as exchange:
        await exchange.head()
        await quiet(engine)
        assert exchange.bytes_received <= EARLY_MAX_BYTES + 2 * ONE_READ_MAX_BYTES
        tap = Tap()
        await exchange.pump(tap)
    assert len(tap.data) == 50_000_000


async def test_a_look_takes_nothing_from_what_follows() -> None:
    """The payload looked at and the payload pumped are the payload, in order; at its end a look finds nothing."""
    broken, whole = (STREAM_HEAD + chunk(event("a")), Step.CLOSE), (stream(event("a"), event("b")),)
    async with FaultyEngine(broken, whole) as engine:
        upstream = Upstream(engine.url)
        async with upstream.exchange(b"GET", "/") as exchange:
            assert await exchange.some() == event("a")
            with pytest.raises(UpstreamFailure):
                await exchange.some()
        async with upstream.exchange(b"GET", "/") as exchange:
            tap, first = Tap(), await exchange.some()
            await exchange.pump(tap)
            assert first + tap.data == event("a") + event("b")
            assert await exchange.some() == b""


class Still(asyncio.Transport):
    """A socket that does nothing but to be read or not."""

    is_read = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


async def test_whole_chunks_can_be_taken_as_they_come() -> None:
    """Only where one begins, after a read of the pump's in the ordinary way, and until it is over."""
    connection, transport = Connection(lambda _: None), Still()
    connection.connection_made(transport)
    exchange = connection.exchange = Exchange(connection, asyncio.get_running_loop())
    events = [event(text) for text in "abcdefgh"]
    a, b, c, d, e, f, g, h = map(chunk, events)
    tap, offered = Tap(), list[bytes]()

    def on_chunk(data: bytes) -> bool | None:
        offered.append(data)
        if data not in (c, g):
            return None
        tap.on_data(data[data.index(b"\r\n") + 2 : -2])
        return data != g  # It asks to pause.

    connection.data_received(STREAM_HEAD + a)
    async with asyncio.TaskGroup() as group:
        pumping = group.create_task(exchange.pump(tap, on_chunk))
        await asyncio.sleep(0)
        for data in (b, c, d[:2], d[2:9], d[9:-1], d[-1:], e + f, g):
            assert transport.is_read
            connection.data_received(data)
        assert not await pumping
        assert not transport.is_read
        exchange.resume()
        pumping = group.create_task(exchange.pump(tap, on_chunk))
        await asyncio.sleep(0)
        connection.data_received(h + LAST_CHUNK)
        assert await pumping
    assert offered == [c, d[:2], e + f, g]
    assert bytes(tap.data) == b"".join(events)
    assert exchange.bytes_received == len(STREAM_HEAD) + sum(map(len, (a, b, c, d, e, f, g, h))) + len(LAST_CHUNK)


async def test_read_keeps_its_limit(flood: tuple[FaultyEngine, Upstream]) -> None:
    """A metrics page of 50 MB is a fault, found after the limit and not after 50 MB."""
    engine, upstream = flood
    async with upstream.exchange(b"GET", "/") as exchange:
        with pytest.raises(UpstreamFailure) as failure:
            await exchange.read(1000)
    assert failure.value.kind is FailureKind.PROTOCOL
    assert await engine.hang_ups.get() == 0
    assert engine.sent_bytes < 20_000_000


async def test_receiver_may_find_the_fault_itself() -> None:
    """A fault in the payload ends the exchange as one in the framing does."""

    class Picky(Tap):
        def on_data(self, data: bytes) -> bool:
            raise UpstreamFailure(FailureKind.PROTOCOL, "no such event", request_sent=True)

    async with FaultyEngine((STREAM_HEAD + chunk(event("a")), Step.STALL)) as engine:
        async with Upstream(engine.url).exchange(b"GET", "/") as exchange:
            with pytest.raises(UpstreamFailure, match="no such event"):
                await exchange.pump(Picky())
        assert await engine.hang_ups.get() == 0


class FakeTransport(asyncio.Transport):
    """Notes whether it was aborted."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


def answered(whole: bytes) -> Exchange:
    """An exchange whose response came before anybody took any of it."""
    connection = Connection(lambda _: None)
    connection.connection_made(FakeTransport())
    connection.exchange = Exchange(connection, asyncio.get_running_loop())
    connection.data_received(whole)
    return connection.exchange


async def test_the_limit_holds_for_what_came_with_the_head() -> None:
    """It is given as it is, once; or it is a fault after which the connection is not used again."""
    exchange = answered(response(b"0123456789"))
    assert await exchange.read(10) == b"0123456789"
    assert await exchange.read(10) == b""
    assert exchange.keepalive_s > 0
    exchange = answered(response(b"0123456789"))
    with pytest.raises(UpstreamFailure, match="longer than allowed"):
        await exchange.read(9)
    assert exchange.keepalive_s == 0


@given(st.lists(st.binary(max_size=30) | st.sampled_from([STREAM_HEAD, b"5\r\nabcde\r\n", LAST_CHUNK]), max_size=8))
async def test_garbage_gives_an_answer_or_a_failure(pieces: list[bytes]) -> None:
    """Any bytes, then the end of the connection: the consumer always gets one of the two, and no other exception."""
    connection = Connection(lambda _: None)
    transport = FakeTransport()
    connection.connection_made(transport)
    connection.exchange = Exchange(connection, asyncio.get_running_loop())
    for piece in pieces:
        connection.data_received(piece)
    connection.eof_received()
    connection.connection_lost(None)
    assert transport.aborted
    assert connection.exchange.ended_at is not None
    with contextlib.suppress(UpstreamFailure):
        await connection.exchange.read(1000)
        assert (await connection.exchange.head()).status == 200
