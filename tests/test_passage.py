"""An answer's way from the engine to the client: what is looked at, what is refused, what is bounded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

import pytest

from gateway import passage
from gateway.backends.upstream import FailureKind, Head, Upstream, UpstreamFailure
from gateway.gate import Place
from gateway.passage import Tap, error_body, expect, first_events, taken, whole_answer
from gateway.stream_watch import StreamWatch
from tests.faults import DONE, LAST_CHUNK, STREAM_HEAD, FaultyEngine, Step, chunk, event, response, stream
from tests.relaying import Client


async def first_of(*pieces: bytes | Step) -> bytes:
    """What is looked at of a stream that comes in these pieces."""
    async with FaultyEngine(pieces) as engine:
        upstream = Upstream(engine.url)
        async with upstream.exchange(b"POST", "/") as exchange:
            return await first_events(exchange, StreamWatch(keep_usage=True))


async def test_the_look_ends_with_the_first_data() -> None:
    """Comments before it come along, so that nothing is lost; an event in two pieces is waited for."""
    token = event("a")
    head = STREAM_HEAD + chunk(b": still reading the prompt\n\n") + chunk(token[:9])
    assert await first_of(head, chunk(token[9:]), LAST_CHUNK) == b": still reading the prompt\n\n" + token


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        pytest.param((stream(),), FailureKind.TRUNCATED, id="nothing"),
        pytest.param((STREAM_HEAD + chunk(event("a")[:9]), Step.CLOSE), FailureKind.TRUNCATED, id="half an event"),
        pytest.param(
            (STREAM_HEAD + 700 * chunk(b":" + 99 * b" " + b"\n\n"), Step.STALL), FailureKind.PROTOCOL, id="comments"
        ),
    ],
)
async def test_a_stream_without_data_is_a_failure(pieces: tuple[bytes | Step, ...], kind: FailureKind) -> None:
    """It can still be told by a status, as nothing has gone to the client."""
    with pytest.raises(UpstreamFailure) as failure:
        await first_of(*pieces)
    assert failure.value.kind is kind


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(response(b"full", status=503), b"full", id="whole"),
        pytest.param(response(b"x" * 100_000, status=500), b"", id="too long"),
        pytest.param(response(b"full", status=503)[:-2], b"", id="cut"),
    ],
)
async def test_an_error_answer_needs_no_body(answer: bytes, body: bytes) -> None:
    """Its status says enough where the body is broken or endless."""
    async with FaultyEngine((answer, Step.CLOSE)) as engine:
        sending = Upstream(engine.url).exchange(b"POST", "/")
        async with sending as exchange:
            await exchange.head()
            assert await error_body(exchange) == body


@dataclass
class Progress:
    """A place of which only the progress is there."""

    output_tokens: int = 0


def test_a_chunk_passes_as_it_came_and_the_last_events_wait_for_the_end() -> None:
    """What is like the last event needs no other framing; the end is written once, with what comes last."""
    watch, place, client = StreamWatch(keep_usage=True), Progress(), Client(takes_bytes=3 * len(event("a")) + 1)
    tap = Tap(watch, cast("Place", place), client, 2.5)
    assert tap.on_chunk(chunk(event("a"))) is None
    assert tap.on_data(event("a"))
    assert tap.on_chunk(chunk(event("b"))) is True
    assert (client.body, place.output_tokens) == (event("a") + event("b"), 5)
    assert tap.on_chunk(chunk(DONE)) is None
    assert tap.on_data(event("c"))
    assert tap.on_chunk(chunk(event("d"))) is False
    assert not tap.on_data(event("e") + DONE)
    assert (tap.last, client.steps) == (event("e") + DONE, 4 * ["write"])
    assert (place.output_tokens, watch.done) == (15, True)


async def test_a_client_that_takes_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is treated as one that has closed its connection."""
    monkeypatch.setattr(passage, "UNREAD_MAX_S", 0.01)
    with pytest.raises(ConnectionError):
        await taken(asyncio.sleep(60))


def test_another_type_of_content_is_a_failure() -> None:
    """An HTML page is no answer, whatever its status."""
    expect(Head(200, {b"content-type": b"Text/Event-Stream; charset=utf-8"}), b"text/event-stream")
    for headers in ({b"content-type": b"text/html"}, {}):
        with pytest.raises(UpstreamFailure):
            expect(Head(200, headers), b"text/event-stream")


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"[]",
            b'"x"',
            b'{"choices":[{"text":"ab',
            b'{"choices":[]} x',
            b"\xff",
            b'{"a":' + b"[" * 100_000,
        ),
        *(b'{"error":{"message":"ill"}}', b'{"object":"error","error":"ill"}'),
    ],
)
def test_a_whole_answer_that_is_none_is_a_failure(body: bytes) -> None:
    """Its framing may be good and its status 200: a client would take half an answer, or an error, for all of it."""
    with pytest.raises(UpstreamFailure) as failure:
        whole_answer(body)
    assert failure.value.kind is FailureKind.PROTOCOL


@pytest.mark.parametrize("body", [b"{}", b'{"choices":3}', b'{"choices":[],"error":null}', b'{"data":[1.5]}\n'])
def test_a_whole_answer_may_lack_what_is_looked_for(body: bytes) -> None:
    """Engines differ; what is JSON passes."""
    assert whole_answer(body) == (None, False)
