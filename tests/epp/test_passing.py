"""What passes of an answer, piece by piece, and that nothing of it is lost."""

from __future__ import annotations

import pytest

from tests.epp.envoy_side import AT_A, CAME_TRAILERS, DONE, EVENT, SSE, answered, asked, body_of, came, picking, sent

STREAM = body_of(stream=True)


async def test_half_an_event_waits_for_its_end() -> None:
    """A message that completes no event is answered with the next that does."""
    async with picking() as house:
        side = house.stream(asked(), sent(STREAM))
        await side.until("request_headers")
        side.say(answered(headers=SSE), came(EVENT[:10], last=False), came(EVENT[10:], last=False), came(DONE))
        await side.end()
        pieces = [reply.response.body_mutation.streamed_response.body for reply in side.all("response_body")]
        assert pieces == [EVENT, DONE]
        assert house.house.settled().code == 200


async def test_the_last_piece_of_a_broken_stream_passes_too() -> None:
    """What the engine said before it broke off reaches the client, the error behind it."""
    async with picking() as house:
        side = house.stream(asked(), sent(STREAM))
        await side.until("request_headers")
        side.say(answered(headers=SSE), came(EVENT))
        await side.end()
        assert side.body("response_body").startswith(EVENT + b'data: {"error"')
        assert house.house.settled().code == 502


async def test_a_stream_that_breaks_off_with_trailers() -> None:
    """They are an end like any other."""
    async with picking() as house:
        side = house.stream(asked(), sent(STREAM))
        await side.until("request_headers")
        side.say(answered(headers=SSE), came(EVENT, last=False), CAME_TRAILERS)
        await side.end()
        assert side.all("response_trailers") == []
        assert house.house.settled().code == 502


@pytest.mark.parametrize("status", [400, 500])
async def test_an_answer_without_a_body(status: int) -> None:
    """Its headers are all of it."""
    async with picking() as house:
        side = house.stream(asked(), sent(body_of()))
        await side.until("request_headers")
        side.say(answered(status, last=True))
        await side.end()
        assert len(side.all("response_headers")) == 1
        assert side.all("response_body") == []
        assert house.house.settled().code == status


async def test_large_bodies_pass_in_small_pieces() -> None:
    """Data planes take 64 KB a message."""
    async with picking() as house:
        side = house.stream(asked(), sent(body_of()))
        await side.until("request_headers")
        answer = b'{"choices":[{"text":"%b"}]}' % (b"x" * 200_000)
        side.say(answered(served=AT_A), came(answer))
        await side.end()
        sizes = [len(reply.response.body_mutation.streamed_response.body) for reply in side.all("response_body")]
        assert max(sizes) < 64_000
        assert side.body("response_body") == answer
        assert side.is_ended("response_body")
