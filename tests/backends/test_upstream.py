"""The pool: what is reused, what is not, what is sent, and what a request that was not sent looks like."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.backends.exchange import Connection
from gateway.backends.upstream import Exchange, FailureKind, Upstream, UpstreamFailure, UpstreamTimeouts
from tests.faults import (
    STREAM_HEAD,
    Answer,
    FaultyEngine,
    Step,
    chunk,
    event,
    refusing_url,
    response,
    stream,
)

CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
FIVE_SECONDS = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 0\r\n\r\n"
ONE_SECOND = FIVE_SECONDS.replace(b"5", b"1")


async def lost(connection: Connection) -> None:
    """Wait until the loop has seen the end of an idle connection."""
    while not connection.transport.is_closing():  # noqa: ASYNC110 - nothing else tells of an idle connection
        await asyncio.sleep(0)


@pytest.fixture
async def engine() -> AsyncIterator[FaultyEngine]:
    """Answers every request well."""
    async with FaultyEngine((response(b"{}"),)) as engine:
        yield engine


async def test_connection_is_used_again(engine: FaultyEngine) -> None:
    """After plain answers as after streams; two requests at once need two."""
    upstream = Upstream(engine.url)
    for _ in range(3):
        assert await upstream.fetch("/metrics") == (200, b"{}")
    assert (engine.connections, upstream.open_connections, upstream.idle_connections) == (1, 1, 1)
    async with upstream.exchange(b"GET", "/") as one, upstream.exchange(b"GET", "/") as other:
        assert (upstream.open_connections, upstream.idle_connections) == (2, 0)
        assert (await one.read(10), await other.read(10)) == (b"{}", b"{}")
    assert (engine.connections, upstream.idle_connections) == (2, 2)
    await upstream.aclose()
    assert upstream.open_connections == 0


async def test_connection_used_last_is_used_first(engine: FaultyEngine) -> None:
    """So that the others age and go."""
    upstream = Upstream(engine.url)
    async with upstream.exchange(b"GET", "/") as one:
        await upstream.fetch("/")
        await one.read(10)
    await upstream.fetch("/")
    assert [request.connection for request in engine.requests] == [0, 1, 0]
    await upstream.aclose()


@pytest.mark.parametrize(
    ("answer", "idle"),
    [
        ((FIVE_SECONDS,), 1),
        ((ONE_SECOND,), 0),
        ((CLOSING,), 0),
        ((FIVE_SECONDS.replace(b"1.1", b"1.0"),), 0),
        ((FIVE_SECONDS + b"HTTP/1.1 200 OK\r\n\r\n",), 0),
        ((b"HTTP/1.1 200 OK\r\n\r\n", Step.CLOSE), 0),
    ],
)
async def test_only_a_clean_end_that_allows_it_leads_to_reuse(answer: Answer, idle: int) -> None:
    """The server's time less a second, no `close`, no HTTP/1.0, no bytes after the end."""
    async with FaultyEngine(answer) as engine:
        upstream = Upstream(engine.url)
        await upstream.fetch("/")
        assert upstream.idle_connections == idle
        await upstream.aclose()


async def test_idle_connections_are_limited(engine: FaultyEngine) -> None:
    """What comes back to a full pool is closed."""
    upstream = Upstream(engine.url, idle_connections_max=1)
    async with upstream.exchange(b"GET", "/") as one:
        await upstream.fetch("/")
        await one.read(10)
    assert upstream.idle_connections == 1
    assert await engine.hang_ups.get() == 0
    await upstream.aclose()


async def test_connection_that_ends_while_idle_leaves_the_pool() -> None:
    """At once, and the next request gets a fresh one without noticing."""
    leave = asyncio.Event()
    async with FaultyEngine((response(), leave, Step.CLOSE), (response(b"2"),)) as engine:
        upstream = Upstream(engine.url)
        await upstream.fetch("/")
        (connection,) = upstream._idle
        leave.set()
        await lost(connection)
        assert await upstream.fetch("/") == (200, b"2")
        assert (engine.connections, upstream.open_connections) == (2, 1)
        await upstream.aclose()


async def test_end_that_the_loop_has_not_seen_yet_is_seen_before_a_request_is_written() -> None:
    """The engine's FIN lies in the socket, and nothing has read it: no request is lost to it."""
    async with FaultyEngine((response(), Step.CLOSE), (response(b"2"),)) as engine:
        upstream = Upstream(engine.url)
        await upstream.fetch("/")
        (connection,) = upstream._idle
        connection.transport.pause_reading()
        await engine.left.wait()
        assert upstream.idle_connections == 1
        assert await upstream.fetch("/") == (200, b"2")
        assert len(engine.requests) == 2
        await upstream.aclose()


async def test_request_whose_first_write_fails_goes_to_a_fresh_connection(engine: FaultyEngine) -> None:
    """Nothing of it can have left; it is sent once."""

    class Broken(Connection):
        __slots__ = ()

        def send(self, head: bytes, body: bytes) -> bool:
            self.transport.abort()
            return False

    upstream = Upstream(engine.url)
    loop = asyncio.get_running_loop()
    host, port = engine.url.removeprefix("http://").split(":")
    _, broken = await loop.create_connection(lambda: Broken(upstream._forget), host, int(port))
    broken.idle_since, broken.keepalive_s = loop.time(), 15.0
    upstream._idle[broken] = None
    assert await upstream.fetch("/") == (200, b"{}")
    assert len(engine.requests) == 1
    await upstream.aclose()


async def test_request_on_a_reused_connection_that_dies_is_not_repeated() -> None:
    """The engine may be at work on it."""
    async with FaultyEngine((response(),), (Step.CLOSE,), (response(),)) as engine:
        upstream = Upstream(engine.url)
        await upstream.fetch("/")
        with pytest.raises(UpstreamFailure) as failure:
            await upstream.fetch("/", method=b"POST", body=b"{}")
        assert (failure.value.kind, failure.value.request_sent) == (FailureKind.RESET, True)
        assert [request.connection for request in engine.requests] == [0, 0]
        await upstream.aclose()


async def test_bytes_on_an_idle_connection_end_it() -> None:
    """An answer without a question would be taken for the answer to the next one."""
    speak = asyncio.Event()
    async with FaultyEngine((response(), speak, response(b"evil")), (response(b"2"),)) as engine:
        upstream = Upstream(engine.url)
        await upstream.fetch("/")
        (connection,) = upstream._idle
        speak.set()
        await lost(connection)
        assert await upstream.fetch("/") == (200, b"2")
        await upstream.aclose()


async def test_old_idle_connections_are_closed(engine: FaultyEngine) -> None:
    """Without any request that would look at them."""
    upstream = Upstream(engine.url, keepalive_s=0.01)
    await upstream.fetch("/")
    assert await engine.hang_ups.get() == 0
    assert upstream.open_connections == 0


async def test_idle_connection_past_its_time_is_not_used(engine: FaultyEngine) -> None:
    """The sweep is coarse; the look before each use is not."""
    upstream = Upstream(engine.url)
    await upstream.fetch("/")
    assert upstream.take_idle(asyncio.get_running_loop().time() + 4.1) is None
    assert await engine.hang_ups.get() == 0


@pytest.mark.parametrize("url", [refusing_url(), "http://" + "x" * 64 + ".invalid"], ids=["refused", "unknown"])
async def test_no_connection_is_a_failure_before_sending(url: str) -> None:
    """Refused, and a host that no resolver takes; the message names no host."""
    with pytest.raises(UpstreamFailure) as failure:
        await Upstream(url).fetch("/")
    assert (failure.value.kind, failure.value.request_sent) == (FailureKind.CONNECT, False)
    assert url.removeprefix("http://") not in str(failure.value)


async def test_slow_connection_is_a_failure_before_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake never ends."""

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    with pytest.raises(UpstreamFailure) as failure:
        await Upstream("http://localhost", timeouts=UpstreamTimeouts(connect_s=0.01)).fetch("/")
    assert (failure.value.kind, failure.value.request_sent) == (FailureKind.CONNECT, False)


async def test_connections_are_limited(engine: FaultyEngine) -> None:
    """One too many is refused at once: waiting is for the queue in front."""
    upstream = Upstream(engine.url, connections_max=1)
    async with upstream.exchange(b"GET", "/") as exchange:
        with pytest.raises(UpstreamFailure, match="no place") as failure:
            await upstream.fetch("/")
        assert (failure.value.kind, failure.value.request_sent) == (FailureKind.LOCAL, False)
        await exchange.read(10)
    assert await upstream.fetch("/") == (200, b"{}")
    await upstream.aclose()


async def test_closing_ends_what_runs_and_takes_nothing_more() -> None:
    """Whoever waits gets a failure."""
    async with FaultyEngine((STREAM_HEAD + chunk(event("a")), Step.STALL)) as engine:
        upstream = Upstream(engine.url)
        async with upstream.exchange(b"GET", "/") as exchange:
            await exchange.head()
            await upstream.aclose()
            with pytest.raises(UpstreamFailure):
                await exchange.read(1000)
        assert upstream.open_connections == 0
        with pytest.raises(UpstreamFailure) as failure:
            await upstream.fetch("/")
        assert failure.value.kind is FailureKind.CONNECT


async def test_retiring_waits_for_what_runs_and_keeps_nothing(engine: FaultyEngine) -> None:
    """Idle connections go at once, the others when their exchange is over."""
    upstream = Upstream(engine.url)
    async with asyncio.TaskGroup() as group, upstream.exchange(b"GET", "/") as running:
        await upstream.fetch("/")
        assert (upstream.open_connections, upstream.idle_connections) == (2, 1)
        retiring = group.create_task(upstream.retire())
        while upstream.open_connections > 1:  # noqa: ASYNC110  # the loop closes it in a turn or two
            await asyncio.sleep(0)
        assert not retiring.done()
        assert (await running.head()).status == 200
        await running.read(1000)
    assert upstream.open_connections == 0
    await upstream.retire()


async def test_closing_reaches_connections_that_are_being_made(engine: FaultyEngine) -> None:
    """They are not known yet when everything else is closed."""
    upstream = Upstream(engine.url)

    async def ask() -> None:
        with pytest.raises(UpstreamFailure) as failure:
            await upstream.fetch("/")
        assert (failure.value.kind, failure.value.request_sent) == (FailureKind.CONNECT, False)

    async with asyncio.TaskGroup() as group:
        group.create_task(ask())
        await asyncio.sleep(0)
        await upstream.aclose()
    assert (upstream.open_connections, engine.requests) == (0, [])


async def test_fetch_has_a_time() -> None:
    """A page that never comes must not stop the poller."""
    async with FaultyEngine((Step.STALL,)) as engine:
        upstream = Upstream(engine.url)
        with pytest.raises(UpstreamFailure) as failure:
            await upstream.fetch("/metrics", timeout_s=0.02)
        assert failure.value.kind is FailureKind.TIMEOUT
        await upstream.aclose()


async def test_fetch_has_a_size() -> None:
    """Too long is too long, also if all of it was there before anyone read; the connection is not used again."""
    async with FaultyEngine((response(b"x" * 100),)) as engine:
        upstream = Upstream(engine.url)
        with pytest.raises(UpstreamFailure) as failure:
            await upstream.fetch("/metrics", limit_bytes=99)
        assert failure.value.kind is FailureKind.PROTOCOL
        assert upstream.idle_connections == 0
        await upstream.aclose()


@pytest.mark.parametrize(
    ("prefix", "path", "target"),
    [
        ("", "/v1/models", b"/v1/models"),
        ("/", "/metrics?a=b", b"/metrics?a=b"),
        ("/v1", "/v1/models", b"/v1/models"),
        ("/v1/", "/metrics", b"/metrics"),
        ("/openai", "/v1/models", b"/openai/v1/models"),
        ("/openai/v1", "/v1/models", b"/openai/v1/models"),
        ("/rev1", "/v1/models", b"/rev1/v1/models"),
    ],
)
async def test_prefix_of_the_base_url_comes_first(engine: FaultyEngine, prefix: str, path: str, target: bytes) -> None:
    """Whether it ends in the version or not."""
    upstream = Upstream(engine.url + prefix)
    await upstream.fetch(path)
    assert engine.requests[0].line == b"GET " + target + b" HTTP/1.1"
    await upstream.aclose()


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 300_000])
async def test_request_is_sent_as_given(engine: FaultyEngine, body: bytes) -> None:
    """Headers and body byte by byte, with host and length."""
    upstream = Upstream(engine.url)
    await upstream.fetch("/v1/completions", method=b"POST", headers=b"A: b\r\nC: d\r\n", body=body)
    (request,) = engine.requests
    assert request.body == body
    host = engine.url.removeprefix("http://").encode()
    assert request.headers == {b"host": host, b"a": b"b", b"c": b"d", b"content-length": b"%d" % len(body)}
    await upstream.aclose()


@pytest.mark.parametrize("path", ["v1/models", "/a b", "/a\r\nX: y", "/ä", ""])
def test_paths_that_break_the_request_line_are_mistakes(path: str) -> None:
    """Ours, so they are no failures of an engine."""
    with pytest.raises(ValueError, match="path"):
        Upstream("http://localhost").exchange(b"GET", path)


@pytest.mark.parametrize("headers", [b"A: b", b"A: b\r\n\r\nGET / HTTP/1.1\r\n", b"\r\n", b"A: b\nC: d\r\n", b"A\r\n"])
def test_headers_that_break_the_head_are_mistakes(headers: bytes) -> None:
    """Ours, so they are no failures of an engine."""
    with pytest.raises(ValueError, match="header"):
        Upstream("http://localhost").exchange(b"GET", "/", headers)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://localhost",
        "http://",
        "http://user:key@localhost",
        "http://localhost?x=y",
        "http://localhost/#x",
        "http://localhost:99999",
        "http://local host",
        "http://localhost/a b",
    ],
)
def test_base_urls_are_plain(url: str) -> None:
    """Anything else is a mistake in the configuration, and stops the start."""
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        Upstream(url)


async def test_both_loops_carry_a_stream() -> None:
    """Production runs on uvloop, whose transports differ in small ways."""
    uvloop = pytest.importorskip("uvloop")

    async def carry() -> tuple[bytes, int, bool]:
        async with FaultyEngine((stream(event("a")),)) as engine:
            upstream, payload = Upstream(engine.url), b""
            for _ in range(2):
                async with upstream.exchange(b"POST", "/", body=b"{}") as exchange:
                    assert isinstance(exchange, Exchange)
                    payload += await exchange.read(1000)
            connections = engine.connections
            await upstream.aclose()
            return payload, connections, upstream.open_connections == 0

    def run() -> tuple[bytes, int, bool]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(carry())

    assert await asyncio.to_thread(run) == await carry() == (event("a") * 2, 1, True)
