"""Envoy's side of a stream, played by hand: its messages, what the picker answers, and how the stream ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct

from gateway.admission.limits import AdmissionLimits
from gateway.api.auth import KeyRing
from gateway.api.parse import DEFAULT_POLICY
from gateway.domain import Outcome
from gateway.epp import wire
from gateway.epp.destinations import Destinations
from gateway.epp.intake import IntakeSettings
from gateway.epp.messages import CODE_DETAILS, LB_NAMESPACE, SERVED, SUBSET, SUBSET_NAMESPACE
from gateway.epp.picker import Picker, PickerSettings, Rooms
from gateway.epp.service import Service
from gateway.gate import Place
from gateway.relay import RelaySettings
from gateway.reporting.ext_proc import ExtProcMetrics
from gateway.reporting.record import RequestRecord
from gateway.reporting.registry import Families
from gateway.request import COMPLETIONS
from tests.relaying import SETTINGS, House, relaying
from tests.shell import MODEL, ticket

BODY_BYTES_MAX = 10_000
STEP_MAX_S = 5.0
URL_A, URL_B = "http://127.0.0.1:8001", "http://127.0.0.1:8002"
AT_A, AT_B = "127.0.0.1:8001", "127.0.0.1:8002"
USAGE = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
ANSWER = json.dumps({"choices": [{"text": "Hi", "finish_reason": "stop"}], "usage": USAGE}).encode()
EVENT = b'data: {"choices":[{"text":"Hi"}]}\n\n'
USAGE_EVENT = b"data: %b\n\n" % json.dumps({"choices": [], "usage": USAGE}).encode()
DONE = b"data: [DONE]\n\n"
SSE = {"content-type": "text/event-stream; charset=utf-8"}


def _headers(headers: Mapping[str, str]) -> Any:
    return wire.HeaderMap(
        headers=[wire.HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
    )


def _struct(content: Mapping[str, object]) -> Struct:
    struct = Struct()
    struct.update(content)
    return struct


def asked(
    path: str = COMPLETIONS,
    *,
    method: str = "POST",
    last: bool = False,
    subset: object = None,
    mode: int = wire.FULL_DUPLEX_STREAMED,
    **headers: str,
) -> Any:
    """The headers of a request."""
    given = {":method": method, ":path": path, **{name.replace("_", "-"): value for name, value in headers.items()}}
    message = wire.ProcessingRequest(request_headers=wire.HttpHeaders(headers=_headers(given), end_of_stream=last))
    message.protocol_config.request_body_mode = message.protocol_config.response_body_mode = mode
    if subset is not None:
        hint = {SUBSET_NAMESPACE: _struct({SUBSET: subset})}
        message.metadata_context.CopyFrom(wire.Metadata(filter_metadata=hint))
    return message


def answered(
    status: int = 200, *, last: bool = False, served: str = "", details: str = "", headers: Mapping[str, str] = {}
) -> Any:
    """The headers of an answer."""
    given = {":status": str(status), "content-type": "application/json", **headers}
    message = wire.ProcessingRequest(response_headers=wire.HttpHeaders(headers=_headers(given), end_of_stream=last))
    if served:
        message.metadata_context.CopyFrom(wire.Metadata(filter_metadata={LB_NAMESPACE: _struct({SERVED: served})}))
    if details:
        message.attributes["envoy.filters.http.ext_proc"].CopyFrom(_struct({CODE_DETAILS: details}))
    return message


def sent(data: bytes, *, last: bool = True) -> Any:
    """A piece of a request's body."""
    return wire.ProcessingRequest(request_body=wire.HttpBody(body=data, end_of_stream=last))


def came(data: bytes, *, last: bool = True) -> Any:
    """A piece of an answer's body."""
    return wire.ProcessingRequest(response_body=wire.HttpBody(body=data, end_of_stream=last))


SENT_TRAILERS = wire.ProcessingRequest(request_trailers=wire.HttpTrailers())
CAME_TRAILERS = wire.ProcessingRequest(response_trailers=wire.HttpTrailers())


def body_of(**fields: object) -> bytes:
    """A completion that needs few tokens."""
    return json.dumps({"model": MODEL, "prompt": "hello", "max_tokens": 16, **fields}).encode()


def process(channel: grpc.aio.Channel) -> Any:
    """Open a stream to a picker, as Envoy does."""
    write, read = wire.ProcessingRequest.SerializeToString, wire.ProcessingResponse.FromString
    return channel.stream_stream(wire.PROCESS, write, read)()


class AbortedError(Exception):
    """What ends a handler that aborts its stream."""


class EnvoySide:
    """One stream. Also the context that gRPC gives to its handler."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._told = asyncio.Event()
        self._stream: asyncio.Task[None] | None = None
        self.replies: list[Any] = []
        self.code = grpc.StatusCode.OK
        self.said = ""

    async def write(self, reply: Any) -> None:
        await asyncio.sleep(0)
        self.replies.append(reply)
        self._told.set()

    async def abort(self, code: grpc.StatusCode, said: str) -> None:
        self.code, self.said = code, said
        raise AbortedError

    def begin(self) -> None:
        """Open the stream."""
        self._stream = asyncio.get_running_loop().create_task(self._service.Process(self._read(), self))
        self._stream.add_done_callback(lambda _: self._told.set())

    async def _read(self) -> AsyncIterator[Any]:
        while (message := await self._messages.get()) is not None:
            yield message

    def say(self, *messages: Any) -> None:
        """Send messages."""
        for message in messages:
            self._messages.put_nowait(message)

    def hang_up(self) -> None:
        """Half-close: Envoy wants nothing more."""
        self._messages.put_nowait(None)

    def reset(self) -> None:
        """What gRPC does to a handler whose stream was reset."""
        assert self._stream is not None
        self._stream.cancel()

    async def until(self, kind: str) -> Any:
        """The next reply of this kind that comes, or came."""
        async with asyncio.timeout(STEP_MAX_S):
            while not (found := self.all(kind)):
                assert self._stream is not None
                assert not self._stream.done(), f"the stream has ended: {self.code.name} {self.said}"
                self._told.clear()
                await self._told.wait()
        return found[0]

    async def end(self) -> None:
        """Wait for the stream's end."""
        assert self._stream is not None
        with suppress(AbortedError, asyncio.CancelledError):
            await asyncio.wait_for(self._stream, STEP_MAX_S)

    def all(self, kind: str) -> list[Any]:
        """The replies of this kind so far."""
        return [getattr(reply, kind) for reply in self.replies if reply.WhichOneof("response") == kind]

    def body(self, kind: str) -> bytes:
        """A body put together, after a look that it has one end at most, and that there."""
        pieces = [reply.response.body_mutation.streamed_response for reply in self.all(kind)]
        assert not any(piece.end_of_stream for piece in pieces[:-1])
        return b"".join(piece.body for piece in pieces)

    def is_ended(self, kind: str) -> bool:
        """Whether a body's last piece was the last."""
        pieces = self.all(kind)
        return bool(pieces) and bool(pieces[-1].response.body_mutation.streamed_response.end_of_stream)


def set_headers(mutation: Any) -> dict[str, str]:
    """Headers that a reply sets."""
    return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}


class PickerHouse:
    """A picker on real rooms."""

    def __init__(self, house: House, keys: KeyRing | None, api_keys: Mapping[str, str]) -> None:
        self.house = house
        self.families = Families()
        self.admitted: list[str] = []
        settings = PickerSettings(
            relay=RelaySettings(queue_wait_max_s=60.0, risk=0.01),
            intake=IntakeSettings(BODY_BYTES_MAX, DEFAULT_POLICY),
            keys=keys or KeyRing(),
            has_keys=keys is not None,
            api_keys=api_keys,
            started_at_unix_s=1_700_000_000,
        )
        rooms = Rooms(house.gate, house.backends, house.pricing, house.tokens, Destinations(house.backends))
        picker = Picker(rooms, settings, house.records.append, self._on_admitted)
        self.service = Service(picker, ExtProcMetrics(self.families))

    def _on_admitted(self, id_: str, so_far: Callable[[], RequestRecord]) -> None:
        assert so_far().request_id == id_
        self.admitted.append(id_)

    def stream(self, *messages: Any) -> EnvoySide:
        """A stream that has begun with these messages."""
        side = EnvoySide(self.service)
        side.begin()
        side.say(*messages)
        return side

    async def fill(self) -> list[Place]:
        """Take all the room there is; gives who holds it."""
        places = []
        for _ in self.house.backends:
            command = await self.house.gate.admit(ticket(self.house.gate, blocks=60))
            places.append(self.house.gate.occupy(command))  # type: ignore[arg-type]
        return places

    async def waits(self) -> None:
        """Wait until somebody waits for room."""
        async with asyncio.timeout(STEP_MAX_S):
            while not self.house.gate.snapshot().queues:  # noqa: ASYNC110  # admission has no event for it
                await asyncio.sleep(0)

    def streams(self, code: str) -> float:
        """Streams that ended with a code."""
        return self._sample("kvgate_ext_proc_streams_total", code=code)

    def in_flight(self) -> float:
        """Streams that are open."""
        return self._sample("kvgate_ext_proc_streams_in_flight")

    def _sample(self, name: str, **labels: str) -> float:
        return self.families.registry.get_sample_value(name, labels) or 0.0


def free(places: Sequence[Place]) -> None:
    """Those who held the room are gone."""
    for place in places:
        place.end(Outcome.FINISHED)


@asynccontextmanager
async def picking(
    *,
    keys: KeyRing | None = None,
    api_keys: Mapping[str, str] = {},
    limits: AdmissionLimits | None = None,
    urls: Mapping[str, str] | None = None,
) -> AsyncIterator[PickerHouse]:
    """A picker in front of these backends, each of which has said that it serves the model from 1,024 tokens."""
    at = urls or {"a": URL_A}
    async with relaying(SETTINGS, None, limits, **at) as house:
        yield PickerHouse(house, keys, api_keys)
