"""What each kind of answer does to its place, to what is learned, and to the record."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.admission.snapshot import BackendState
from gateway.epp.answers import BrokenAnswerError, Deal, Elsewhere, Rejection, Streamed, Unreached, Whole, watcher
from gateway.epp.messages import Head, Side
from gateway.gate import Place
from gateway.relay import ANSWER_MAX_BYTES
from gateway.sse import PENDING_MAX_BYTES
from gateway.trip import Trip
from tests.epp.envoy_side import ANSWER, AT_A, AT_B, DONE, EVENT, USAGE_EVENT
from tests.relaying import House, relaying, request
from tests.shell import ticket

MISSES = 5
"""Enough of them in a row to call an engine dead."""
VLLM_BUSY = b'{"error":{"message":"full","type":"x","param":null,"code":429}}'


def head(status: int = 200, *, served: str = "", details: str = "", **headers: str) -> Head:
    given = {":status": str(status), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Head(Side.RESPONSE, given, served=served, details=details)


async def deal(house: House, *, stream: bool = False) -> Deal:
    """A request that an engine works on."""
    inference = request(stream=stream)
    command = await house.gate.admit(ticket(house.gate, blocks=2))
    place = house.gate.occupy(command)  # type: ignore[arg-type]
    place.sent = True
    answer = house.pricing.follow(inference.model, inference.shape, place, runs_to_max=False)
    trip = Trip(inference, house.gate.now())
    trip.entered(place.admit)
    return Deal(house.gate, house.pricing, place, answer, trip)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (head(content_type="application/json"), Whole),
        (head(content_type="Text/Event-Stream"), Streamed),
        (head(429, content_type="text/event-stream"), Rejection),
        (head(details="via_upstream"), Whole),
        (head(503, details="upstream_reset_before_response_started{connection_failure}"), Unreached),
        (head(served=AT_A), Whole),
        (head(served=AT_B), Elsewhere),
    ],
)
async def test_who_watches(given: Head, kind: type) -> None:
    """By the head of an answer."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        made = await deal(house)
        assert isinstance(watcher(made, given, AT_A), kind)


async def test_a_whole_answer_that_is_too_long_to_read() -> None:
    """It passes; nothing is learned from it; the place is left."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        made = await deal(house)
        watch = Whole(made)
        piece = bytes(1 << 20)
        for _ in range(ANSWER_MAX_BYTES // len(piece) + 2):
            assert watch.take(piece) is piece
        watch.end()
        assert made.place.ended
        assert (made.trip.code, made.trip.usage) == (200, None)


async def test_a_stream_ends_once() -> None:
    """At `[DONE]`: what comes after it is dropped, and its end says nothing new."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        made = await deal(house, stream=True)
        watch = Streamed(made)
        assert watch.take(EVENT + USAGE_EVENT + DONE) == EVENT + DONE
        assert made.place.ended
        assert made.trip.code == 200
        assert watch.take(EVENT) == b""
        watch.end()
        assert house.pricing.snapshot()[0].learnt == 1
        assert house.gate.snapshot().double_releases == 0


@pytest.mark.parametrize("ending", [DONE, b""])
async def test_an_error_within_a_stream(ending: bytes) -> None:
    """It has passed on; nothing is learned."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        made = await deal(house, stream=True)
        watch = Streamed(made)
        watch.take(EVENT + b'data: {"error":{"message":"x"}}\n\n' + ending)
        watch.end()
        assert made.trip.code == 502
        assert [attempt.reason for attempt in made.trip.attempts] == ["http_5xx"]
        assert made.place.ended
        assert not made.trip.finished


async def test_an_event_without_end() -> None:
    """It is no stream of events."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        made = await deal(house, stream=True)
        watch = Streamed(made)
        with pytest.raises(BrokenAnswerError) as caught:
            watch.take(b"x" * (PENDING_MAX_BYTES + 1))
        assert caught.value.error.status == 502
        assert made.place.ended


@pytest.mark.parametrize(
    ("status", "headers", "busy", "attempts"),
    [
        (400, {}, False, []),
        (429, {"retry_after": "7"}, True, ["http_429"]),
        (503, {}, True, ["http_5xx"]),
        (500, {}, False, ["http_5xx"]),
        (401, {}, False, ["protocol"]),
    ],
)
async def test_a_rejection(status: int, headers: Mapping[str, str], busy: bool, attempts: list[str]) -> None:
    """The engine's words pass; a full engine is left alone; its status is what the client saw."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        made = await deal(house)
        watch = watcher(made, head(status, **headers), AT_A)
        assert watch.take(VLLM_BUSY) == VLLM_BUSY
        watch.end()
        assert made.trip.code == status
        assert [attempt.reason for attempt in made.trip.attempts] == attempts
        assert made.place.ended
        next_one = await house.gate.consider(ticket(house.gate, blocks=2))
        assert (next_one.decision != "admit") == busy


@pytest.mark.parametrize(
    ("details", "reason", "reachable"),
    [
        ("upstream_reset_before_response_started{connection_failure|x}", "connect", False),
        ("upstream_reset_before_response_started{remote_connection_failure}", "connect", False),
        ("upstream_reset_before_response_started{connection_termination}", "reset", True),
        ("upstream_response_timeout", "timeout", True),
    ],
)
async def test_an_answer_of_envoys_own(details: str, reason: str, reachable: bool) -> None:
    """Why there was no other; an engine that cannot be reached time and again counts as down."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        for _ in range(MISSES):
            if house.backend().state is BackendState.DOWN:
                break
            made = await deal(house)
            watch = watcher(made, head(503, details=details), AT_A)
            assert watch.take(b"no healthy upstream") == b"no healthy upstream"
            watch.end()
            assert [attempt.reason for attempt in made.trip.attempts] == [reason]
            assert (made.trip.code, made.place.ended) == (503, True)
        assert (house.backend().state is BackendState.DOWN) != reachable


async def test_another_engine_served_it() -> None:
    """Its memory was not what was reserved: the place is left, and nothing is learned."""
    async with relaying(a="http://127.0.0.1:8001") as house:
        made = await deal(house)
        watch = watcher(made, head(served=AT_B), AT_A)
        place: Place = made.place
        assert place.ended
        assert watch.take(ANSWER) == ANSWER
        watch.end()
        assert (made.trip.code, made.trip.usage) == (200, None)


@pytest.mark.parametrize(
    ("given", "body", "counts"),
    [
        (head(500), b"{}", True),
        (head(400), b"{}", False),
        (head(429), VLLM_BUSY, False),
        (head(503, details="upstream_reset_before_response_started{connection_termination}"), b"", True),
    ],
)
async def test_what_counts_against_a_backend(given: Head, body: bytes, counts: bool) -> None:
    """Its own failures, and nobody else's: after as many distinct ones as its breaker bears it is left alone."""
    async with relaying(a=f"http://{AT_A}") as house:
        for number in range(25):
            one = await deal(house)
            one.trip.request.body = b"%d" % number
            watch = watcher(one, given, AT_A)
            watch.take(body)
            watch.end()
            if house.gate.snapshot().backends[0].state is BackendState.EJECTED:
                break
            if given.headers[":status"] == "429":
                break  # A busy backend is left alone for another reason.
        assert (house.gate.snapshot().backends[0].state is BackendState.EJECTED) == counts
