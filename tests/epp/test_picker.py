"""One request on its way through the picker: where it goes, what passes, and that its place is left exactly once."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import grpc
import pytest
from hypothesis import given, strategies as st

from gateway.admission.limits import AdmissionLimits
from gateway.api.auth import KeyRing, TenantKeys, key_hash
from gateway.epp import wire
from gateway.epp.messages import DESTINATION, LB_NAMESPACE
from gateway.request import Tenant
from tests.epp.envoy_side import (
    ANSWER,
    AT_A,
    AT_B,
    CAME_TRAILERS,
    DONE,
    EVENT,
    SENT_TRAILERS,
    SSE,
    URL_A,
    URL_B,
    USAGE_EVENT,
    EnvoySide,
    PickerHouse,
    answered,
    asked,
    body_of,
    came,
    free,
    picking,
    sent,
    set_headers,
)

KEYS = KeyRing([TenantKeys(Tenant("team"), (key_hash("secret"),))])
STREAM = body_of(stream=True)
BIG = body_of(max_tokens=900, ignore_eos=True)
TOLD = (EVENT, EVENT, EVENT, USAGE_EVENT, DONE)


def refusal(side: EnvoySide) -> tuple[int, str]:
    """Status and code of the one answer that the picker gave itself."""
    (reply,) = side.replies
    immediate = reply.immediate_response
    return immediate.status.code, json.loads(immediate.body)["error"]["code"]


async def test_an_answer_in_one_piece() -> None:
    """Headers name the backend twice; both bodies pass; usage is learned; the place is left."""
    async with picking() as house:
        side = house.stream(asked(x_request_id="r-1"), sent(body_of()))
        head = (await side.until("request_headers")).response.header_mutation
        assert set_headers(head)[DESTINATION] == AT_A
        assert side.replies[0].dynamic_metadata[LB_NAMESPACE][DESTINATION] == AT_A
        assert house.in_flight() == 1
        assert house.house.backend().requests == 1
        side.say(answered(), came(ANSWER))
        await side.end()
        assert (side.body("request_body"), side.is_ended("request_body")) == (body_of(), True)
        assert (side.body("response_body"), side.is_ended("response_body")) == (ANSWER, True)
        told = set_headers(side.all("response_headers")[0].response.header_mutation)
        assert (told["x-kvgate-backend"], told["x-request-id"]) == ("a", "r-1")
        record = house.house.settled()
        assert (record.code, record.prompt_tokens, record.output_tokens) == (200, 5, 3)
        assert (record.outcome, record.finished, record.request_id) == ("admitted", True, "r-1")
        assert house.admitted == ["r-1"]
        assert (house.in_flight(), house.streams("OK")) == (0, 1)
        assert house.house.pricing.snapshot()[0].learnt == 1


async def test_a_stream_loses_the_usage_that_nobody_asked_for() -> None:
    """The engine is asked for usage; its client sees it only if it asked too. The place is left at `[DONE]`."""
    async with picking() as house:
        side = house.stream(asked(), sent(STREAM))
        await side.until("request_headers")
        side.say(answered(headers=SSE))
        await side.until("response_headers")
        assert json.loads(side.body("request_body"))["stream_options"] == {"include_usage": True}
        side.say(came(b"".join(TOLD), last=False))
        await side.until("response_body")
        assert house.house.backend().requests == 0
        side.say(came(b""))
        await side.end()
        assert side.body("response_body") == EVENT * 3 + DONE
        assert side.is_ended("response_body")
        record = house.house.settled()
        assert (record.code, record.output_tokens, record.ttft_s is None) == (200, 3, False)


async def test_progress_is_counted() -> None:
    """What has streamed is known while it streams."""
    async with picking() as house:
        side = house.stream(asked(), sent(STREAM))
        await side.until("request_headers")
        side.say(answered(headers=SSE), came(EVENT * 4, last=False))
        await side.until("response_body")
        (place,) = house.house.gate._places.values()
        assert place.output_tokens == 4
        side.hang_up()
        await side.end()
        record = house.house.settled()
        assert (record.code, record.disconnect) == (499, "decode")


@pytest.mark.parametrize(
    ("head", "body", "status", "code"),
    [
        (asked(), b"{", 400, "invalid_json"),
        (asked(), b'{"model":"m","model":"m"}', 400, "duplicate_key"),
        (asked(), body_of(model="other"), 404, "model_not_found"),
        (asked(), body_of(max_tokens=5000), 400, "context_length_exceeded"),
        (asked(), b" " * 10_001, 413, "request_too_large"),
        (asked(content_length="10001"), b"", 413, "request_too_large"),
        (asked(content_encoding="gzip"), b"", 415, "unsupported_media_type"),
        (asked(last=True), b"", 400, "invalid_json"),
        (asked("/metrics"), b"", 404, "unknown_url"),
        (asked(method="GET"), b"", 405, "method_not_allowed"),
        (asked(x_kvgate_priority="urgent"), b"", 400, "invalid_value"),
        (asked(subset=["10.0.0.1:1"]), body_of(), 503, "no_backend"),
    ],
)
async def test_what_no_engine_sees(head: Any, body: bytes, status: int, code: str) -> None:
    """Whatever is wrong with a request is answered here, and counted."""
    async with picking() as house:
        side = house.stream(head, sent(body))
        await side.end()
        assert refusal(side) == (status, code)
        assert house.house.settled().code == status
        assert house.streams("OK") == 1


async def test_no_room_means_429() -> None:
    """With all that a client needs to know when to come back."""
    async with picking(limits=AdmissionLimits(queue_requests_max=0)) as house:
        places = await house.fill()
        side = house.stream(asked(), sent(BIG))
        await side.end()
        assert refusal(side)[0] == 429
        headers = set_headers(side.replies[0].immediate_response.headers)
        assert int(headers["retry-after"]) >= 1
        assert (headers["x-should-retry"], headers["x-kvgate-decision"]) == ("true", "refused")
        free(places)
        assert house.house.settled().outcome == "rejected"


async def test_waiting_for_room() -> None:
    """The stream stays open while the request waits, and goes on when there is room."""
    async with picking() as house:
        places = await house.fill()
        side = house.stream(asked(), sent(BIG, last=False), SENT_TRAILERS)
        await house.waits()
        assert side.replies == []
        free(places)
        await side.until("request_trailers")
        assert not side.is_ended("request_body")
        side.say(answered(), came(ANSWER, last=False), CAME_TRAILERS)
        await side.end()
        assert len(side.all("response_trailers")) == 1
        assert house.house.settled().decision == "admitted_after_wait"


@pytest.mark.parametrize("how", ["hang_up", "reset"])
async def test_a_client_that_leaves_the_queue(how: str) -> None:
    """Its place in the queue is free at once."""
    async with picking() as house:
        places = await house.fill()
        side = house.stream(asked(), sent(BIG))
        await house.waits()
        getattr(side, how)()
        await side.end()
        assert side.replies == []
        free(places)
        record = house.house.settled()
        assert (record.code, record.disconnect) == (499, "queued")


async def test_envoy_answers_while_the_request_waits() -> None:
    """A timeout of Envoy's: its answer passes as it is, and the request has left the queue."""
    async with picking() as house:
        places = await house.fill()
        side = house.stream(asked(), sent(BIG))
        await house.waits()
        side.say(answered(504), came(b"timeout", last=False), CAME_TRAILERS)
        side.hang_up()
        await side.end()
        assert side.body("response_body") == b"timeout"
        assert len(side.all("response_trailers")) == 1
        assert side.all("request_headers") == []
        free(places)
        assert house.house.settled().disconnect == "queued"


async def test_only_what_the_data_plane_allows() -> None:
    """A subset leaves out the other backends."""
    async with picking(urls={"a": URL_A, "b": URL_B}) as house:
        for _ in range(3):
            side = house.stream(asked(subset=[AT_B]), sent(body_of()))
            head = await side.until("request_headers")
            assert set_headers(head.response.header_mutation)[DESTINATION] == AT_B
            side.hang_up()
            await side.end()


@pytest.mark.parametrize(("api_keys", "expected"), [({}, None), ({"a": "engine-key"}, "Bearer engine-key")])
async def test_our_keys_stay_here(api_keys: dict[str, str], expected: str | None) -> None:
    """The engine gets the operator's key or none; without a good key nothing is let in."""
    async with picking(keys=KEYS, api_keys=api_keys) as house:
        side = house.stream(asked(authorization="Bearer secret"), sent(body_of()))
        mutation = (await side.until("request_headers")).response.header_mutation
        assert set_headers(mutation).get("authorization") == expected
        assert ("authorization" in mutation.remove_headers) == (expected is None)
        side.hang_up()
        await side.end()
        assert house.house.settled().tenant == "team"
        for path, method in (("/v1/completions", "POST"), ("/v1/models", "GET")):
            wrong = house.stream(asked(path, method=method, last=True))
            await wrong.end()
            assert refusal(wrong) == (401, "invalid_api_key")


async def test_pages_that_need_no_engine() -> None:
    """Models and estimates are answered here."""
    async with picking() as house:
        models = house.stream(asked("/v1/models", method="GET", last=True))
        inner = {"endpoint": "/v1/completions", "body": json.loads(body_of())}
        estimate = house.stream(asked("/v1/estimate"), sent(json.dumps(inner).encode()))
        answers = []
        for side in (models, estimate):
            await side.end()
            (reply,) = side.replies
            assert reply.immediate_response.status.code == 200
            answers.append(json.loads(reply.immediate_response.body))
        assert answers[0]["data"][0]["id"] == "m"
        assert answers[1]["decision"] == "admit"
        assert house.house.records == []


async def test_a_stream_that_breaks_off() -> None:
    """Its client is told within the stream, and the stream is cut: it must not look complete."""
    async with picking() as house:
        side = house.stream(asked(), sent(STREAM))
        await side.until("request_headers")
        side.say(answered(headers=SSE), came(EVENT, last=False), came(b""))
        await side.end()
        assert b'"code":"upstream_error"' in side.body("response_body")
        assert not side.is_ended("response_body")
        assert side.code is grpc.StatusCode.DATA_LOSS
        assert house.streams("DATA_LOSS") == 1
        record = house.house.settled()
        assert (record.code, [attempt.reason for attempt in record.attempts]) == (502, ["reset"])


@pytest.mark.parametrize(
    "messages",
    [
        [sent(b"")],
        [answered()],
        [asked(mode=2), sent(body_of())],
        [asked(), asked()],
        [asked(), sent(body_of()), sent(b"more")],
        [asked(), sent(body_of()), answered(), answered()],
        [wire.ProcessingRequest()],
    ],
)
async def test_a_data_plane_that_is_misused(messages: list[Any]) -> None:
    """The stream ends with an error, nothing is kept, and the reason is in words."""
    async with picking() as house:
        side = house.stream(*messages[:2])
        if len(messages) > 2:
            await side.until("request_headers")
            side.say(*messages[2:])
        await side.end()
        assert side.code is grpc.StatusCode.FAILED_PRECONDITION
        assert side.said
        _nothing_is_held(house)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at these places; some of them may be equal."""
    ends = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@given(request=CUTS, answer=CUTS, streamed=st.booleans(), with_trailers=st.booleans())
def test_bodies_come_in_any_pieces(request: list[int], answer: list[int], streamed: bool, with_trailers: bool) -> None:
    """However they are cut, the same goes on, the same is learned, and the place is left once."""
    body, told = (STREAM, b"".join(TOLD)) if streamed else (body_of(), ANSWER)

    async def play() -> None:
        async with picking() as house:
            said = pieces(body, request)
            got = pieces(told, answer)
            side = house.stream(
                asked(),
                *(sent(piece, last=False) for piece in said),
                SENT_TRAILERS if with_trailers else sent(b""),
            )
            await side.until("request_headers")
            side.say(
                answered(headers=SSE if streamed else {}),
                *(came(piece, last=False) for piece in got),
                CAME_TRAILERS if with_trailers else came(b""),
            )
            await side.end()
            assert json.loads(side.body("request_body"))["prompt"] == "hello"
            assert side.body("response_body") == (EVENT * 3 + DONE if streamed else ANSWER)
            assert side.is_ended("response_body") != with_trailers
            record = house.house.settled()
            assert (record.code, record.output_tokens) == (200, 3)

    asyncio.run(play())


SCRIPTS = {
    "whole": [
        asked(),
        sent(body_of(), last=False),
        sent(b""),
        answered(),
        came(ANSWER[:9], last=False),
        came(ANSWER[9:]),
    ],
    "streamed": [asked(), sent(STREAM), answered(headers=SSE), *(came(each, last=False) for each in TOLD), came(b"")],
    "refused": [asked(), sent(body_of()), answered(400), came(b"{}", last=False), came(b"")],
    "unreached": [asked(), sent(body_of()), answered(503, details="upstream_reset_before_response_started")],
}


@given(
    script=st.sampled_from(sorted(SCRIPTS)),
    at=st.integers(0, 9),
    turns=st.lists(st.integers(0, 12), min_size=10, max_size=10),
    reset=st.booleans(),
    full=st.booleans(),
    freed_after=st.integers(0, 9),
    is_polite=st.booleans(),
)
def test_a_client_may_leave_at_any_moment(
    script: str, at: int, turns: list[int], reset: bool, full: bool, freed_after: int, is_polite: bool
) -> None:
    """Whenever it leaves, and however its messages and the room for it fall together, nothing is held after it."""

    async def play() -> None:
        async with picking() as house:
            places = await house.fill() if full else []
            side = house.stream()
            messages = SCRIPTS[script][:at]
            for index, message in enumerate(messages):
                if index == freed_after:
                    free(places)
                if message.HasField("response_headers") and is_polite and (not full or freed_after < index):
                    await side.until("request_headers")
                side.say(message)
                for _ in range(turns[index]):
                    await asyncio.sleep(0)
            (side.reset if reset else side.hang_up)()
            if freed_after % 2:
                free(places)
            await side.end()
            free(places)
            _nothing_is_held(house)

    asyncio.run(play())


def _nothing_is_held(house: PickerHouse) -> None:
    house.house.admission.check()
    snapshot = house.house.gate.snapshot()
    assert (snapshot.double_releases, snapshot.queues) == (0, ())
    assert [backend.requests for backend in snapshot.backends] == [0]
    assert len(house.house.records) <= 1
    assert house.in_flight() == 0
    assert house.house.pricing._following == {}
    with suppress(ValueError):
        (record,) = house.house.records
        assert record.code in {200, 400, 499, 500, 503}
