"""One request of Envoy's, from its headers to the end of its answer: read -> enter the gate -> name a backend -> watch.

As in the proxy, one coroutine carries a request all the way, and what it holds is a block that is left whatever
happens. The difference is who talks to the engine: Envoy does, and the picker sees both bodies pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

from gateway.api.auth import KeyRing
from gateway.api.error_body import render_error, sse_error
from gateway.api.estimate import ESTIMATE
from gateway.api.models import models_page
from gateway.api.request_headers import request_id, trace_context
from gateway.backends.backend import Backend
from gateway.domain import Reason, Refusal, Ticket
from gateway.epp.answers import BrokenAnswerError, Deal
from gateway.epp.destinations import Destinations, NoAddressError
from gateway.epp.intake import IntakeSettings, Taken, is_listing, path_of, read_request
from gateway.epp.messages import (
    Head,
    ProtocolError,
    Reply,
    Side,
    bodies,
    immediate,
    route,
    trailers,
)
from gateway.epp.passing import pass_on, watch_answer
from gateway.epp.stream import GoneError, Stream
from gateway.errors import INTERNAL_ERROR, ApiError, refused
from gateway.estimation import Estimation
from gateway.gate import Gate, Place, RefusedError
from gateway.pricing import Pricing
from gateway.relay import RelaySettings
from gateway.reporting.record import RequestRecord
from gateway.reporting.tracing import Tracing, record_of_unread
from gateway.request import forward_body
from gateway.tokens import TokenCounters
from gateway.trip import Trip

WRONG_MODE = "set request_body_mode and response_body_mode to FULL_DUPLEX_STREAMED"


@dataclass(frozen=True, slots=True)
class PickerSettings:
    """What the picker does besides its duty."""

    relay: RelaySettings
    intake: IntakeSettings
    keys: KeyRing
    """Who may ask."""
    has_keys: bool
    """Their keys are ours, and no engine's business."""
    api_keys: Mapping[str, str] = field(repr=False)
    """Of backends that want one, by name."""
    started_at_unix_s: int


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the picker stands on."""

    gate: Gate
    backends: Mapping[str, Backend]
    pricing: Pricing
    tokens: TokenCounters
    destinations: Destinations
    tracing: Tracing | None = None


class Picker:
    """See the module.

    Args:
        rooms: what it stands on.
        settings: what it does besides.
        on_record: told of each request's end.
        on_admitted: told of each request that got its place, with what its record would be now.
    """

    def __init__(
        self,
        rooms: Rooms,
        settings: PickerSettings,
        on_record: Callable[[RequestRecord], None],
        on_admitted: Callable[[str, Callable[[], RequestRecord]], None],
    ) -> None:
        self._rooms = rooms
        self._gate = rooms.gate
        self._settings = settings
        relay = settings.relay
        self._estimation = Estimation(rooms.gate, rooms.pricing, rooms.tokens, relay.queue_wait_max_s, relay.slos)
        self._on_record = on_record
        self._on_admitted = on_admitted

    async def carry(self, stream: Stream) -> None:
        """Carry the request of one stream to its end.

        Raises:
            BrokenAnswerError: its answer must not look complete.
            ProtocolError: Envoy sent what it must not send.
        """
        with suppress(GoneError):
            head = await stream.next()
            if not isinstance(head, Head) or head.side is not Side.REQUEST:
                raise ProtocolError("a stream begins with the headers of a request")
            if not head.is_full_duplex:
                raise ProtocolError(WRONG_MODE)
            id_ = request_id(head.headers)
            started = self._gate.now()
            try:
                taken = await self._read(stream, head, id_)
            except ApiError as error:
                self._turned_away(head, id_, error, self._gate.now() - started)
                await stream.send(_error(error, id_))
                return
            if taken is not None:
                await self._infer(stream, head, taken)

    def _turned_away(self, head: Head, id_: str, error: ApiError, duration_s: float) -> None:
        """Something was wrong with it by itself. It is counted all the same."""
        came_in = trace_context(head.headers)
        self._on_record(record_of_unread(self._rooms.tracing, path_of(head), id_, error, duration_s, came_in))

    async def _read(self, stream: Stream, head: Head, id_: str) -> Taken | None:
        """The inference that is asked for; None where the answer is given already."""
        path, settings = path_of(head), self._settings
        if is_listing(path, head.headers):
            settings.keys.tenant_for(head.headers.get("authorization"))
            models = {model: served.context_tokens for model, served in self._gate.models().items()}
            await stream.send(_page(models_page(path, models, settings.started_at_unix_s), id_))
            return None
        taken = await read_request(stream, head, settings.keys, settings.intake, id_)
        if path == ESTIMATE:
            await stream.send(_page(await self._estimation.estimate(taken.inference), id_))
            return None
        return taken

    async def _infer(self, stream: Stream, head: Head, taken: Taken) -> None:
        trip = Trip(taken.inference, self._gate.now())
        if self._rooms.tracing is not None:
            trip.trace = self._rooms.tracing.begin(taken.inference.endpoint, taken.inference.trace)
        try:
            await self._enter(stream, head, taken, trip)
        except ApiError as error:
            trip.failed(error)
            error.headers = {**error.headers, **self._headers(trip)}
            await stream.send(_error(error, taken.inference.request_id))
        except BrokenAnswerError as error:
            for reply in bodies(Side.RESPONSE, sse_error(error.error), last=False):
                await stream.send(reply)
            raise
        except GoneError:
            _left(trip)
            await pass_on(stream)
        except asyncio.CancelledError:
            _left(trip)
            raise
        finally:
            record = trip.record(self._gate.now(), self._settings.relay.risk)
            self._on_record(record)
            if trip.trace is not None:
                trip.trace.ended(record)

    async def _enter(self, stream: Stream, head: Head, taken: Taken, trip: Trip) -> None:
        request = taken.inference
        async with AsyncExitStack() as stack:
            try:
                async with stream.attentive():
                    ticket = await self._ticket(head, trip)
                    place = await stack.enter_async_context(self._gate.enter(ticket))
                    trip.entered(place.admit)
                    so_far = partial(trip.record, self._gate.now(), self._settings.relay.risk)
                    self._on_admitted(request.request_id, so_far)
                    endpoint = await self._rooms.destinations.of(place.backend)
            except RefusedError as error:
                trip.refused(error.refusal)
                raise refused(error.refusal, request.model) from None
            except NoAddressError:
                self._gate.unreachable(trip.backend)
                trip.upstream_failed(trip.backend, "connect")
                raise refused(Refusal(Reason.NO_BACKEND), request.model) from None
            await self._send(stream, taken, place, trip, endpoint)

    async def _ticket(self, head: Head, trip: Trip) -> Ticket:
        ticket = await self._estimation.ticket(trip.request, trip.arrived_at)
        trip.demand = ticket.demand
        outside = await self._rooms.destinations.outside(head.subset)
        return replace(ticket, excluded=outside) if outside else ticket

    async def _send(self, stream: Stream, taken: Taken, place: Place, trip: Trip, endpoint: str) -> None:
        """Let Envoy send the request there, and watch the answer."""
        request, pricing = taken.inference, self._rooms.pricing
        backend = self._rooms.backends[place.backend]
        body = forward_body(
            request,
            engine_model=backend.engine_model(request.model),
            include_usage=True,
            max_tokens=place.admit.max_tokens,
        )
        answer = pricing.follow(request.model, request.shape, place, runs_to_max=request.runs_to_max)
        deal = Deal(self._gate, pricing, place, answer, trip)
        try:
            place.sent = True
            headers, removed = self._to_engine(place.backend, request.request_id, len(body))
            context = trip.forwarded(backend.kind, backend.url)
            headers |= {"traceparent": context.parent} if context.parent else {}
            headers |= {"tracestate": context.state} if context.state else {}
            await stream.send(route(endpoint, headers, removed))
            replies = [*bodies(Side.REQUEST, body, last=not taken.has_trailers)]
            if taken.has_trailers:
                replies.append(trailers(Side.REQUEST))
            # An engine may answer before it has read everything.
            stream.send_beside(replies)
            told = {"x-request-id": request.request_id, **self._headers(trip)}
            await watch_answer(stream, deal, endpoint, told)
        finally:
            if not place.ended:
                deal.cut()
            pricing.unfollow(answer)

    def _headers(self, trip: Trip) -> dict[str, str]:
        return trip.headers() if self._settings.relay.headers else {}

    def _to_engine(self, backend: str, request_id: str, body_bytes: int) -> tuple[dict[str, str], tuple[str, ...]]:
        """Headers that the engine gets in place of the client's, and those that it does not get."""
        headers = {
            "x-request-id": request_id,
            "content-length": str(body_bytes),
            "content-type": "application/json",  # as the body was found to be, whatever its client calls it
            "accept-encoding": "identity",  # an answer that is packed could not be read
        }
        removed: tuple[str, ...] = ("x-kvgate-priority",)
        if backend in self._settings.api_keys:
            headers["authorization"] = f"Bearer {self._settings.api_keys[backend]}"
        elif self._settings.has_keys:
            removed = (*removed, "authorization")
        return headers, removed


def _left(trip: Trip) -> None:
    if trip.error == INTERNAL_ERROR:  # Nothing is known of its end: then this is it.
        trip.client_left()


def _error(error: ApiError, id_: str) -> Reply:
    status, headers, body = render_error(error)
    headers = {**headers, "x-request-id": id_}
    headers.pop("connection", None)  # Envoy's own business
    return immediate(status, headers, body, error.code)


def _page(content: object, id_: str) -> Reply:
    headers = {"content-type": "application/json", "x-request-id": id_}
    return immediate(200, headers, msgspec.json.encode(content), "kvgate")
