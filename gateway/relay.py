"""One request, from its demand to its last byte: estimate -> enter the gate -> forward -> settle -> learn.

One coroutine carries a request all the way, so that everything it holds (its place, its connection) is a block that is
left whatever happens. The engine's bytes are pushed to the client from within the connection's read callback; this
coroutine sleeps meanwhile and is woken for back-pressure and for the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

import structlog

from estimator.demand import End
from gateway.admission.slo import Slo
from gateway.backends.backend import Backend
from gateway.backends.failures import EngineRefusal, first_event_error, refusal
from gateway.backends.upstream import Exchange, FailureKind, UpstreamFailure
from gateway.domain import Outcome, Reason, Refusal, Usage
from gateway.errors import ApiError, refused, upstream_error, upstream_timeout
from gateway.estimation import Estimation
from gateway.gate import Gate, Place, RefusedError
from gateway.passage import Sink, Tap, error_body, expect, first_events, let_end, taken, whole_answer
from gateway.pricing import Answer, Pricing
from gateway.reporting.record import RequestRecord
from gateway.reporting.tracing import Tracing, record_of_unread
from gateway.request import InferenceRequest, TraceContext, forward_body
from gateway.routing.quarantine import HELD_S, Quarantine
from gateway.routing.retries import RetryBudget
from gateway.shedding import overloaded
from gateway.sse import iter_data
from gateway.stream_watch import StreamWatch
from gateway.tokens import TokenCounters
from gateway.trip import Trip

OK = 200
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500
ANSWER_MAX_BYTES = 64 << 20
"""Largest answer that is not streamed: embeddings of many inputs come near it."""
RETRY_CUT_S = 1.0
"""When a request that was cut off by the end of this gateway may come back: to another one."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What the relay does besides its duty."""

    queue_wait_max_s: float
    risk: float
    slos: tuple[Slo, ...] = ()
    """What requests are promised."""
    headers: bool = True
    """Tell the decision in `x-kvgate-*` headers."""


class Relay:
    """Carries requests. See the module."""

    def __init__(
        self,
        gate: Gate,
        backends: Mapping[str, Backend],
        pricing: Pricing,
        tokens: TokenCounters,
        settings: RelaySettings,
        on_record: Callable[[RequestRecord], None],
        on_admitted: Callable[[str, Callable[[], RequestRecord]], None] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._gate = gate
        self._backends = backends
        self._pricing = pricing
        self._estimation = Estimation(gate, pricing, tokens, settings.queue_wait_max_s, settings.slos)
        self._settings = settings
        self._on_record = on_record
        self._on_admitted = on_admitted
        self._tracing = tracing
        self._retries = RetryBudget()
        self.quarantine = Quarantine()
        """Others that carry requests to the same engines may know more: then theirs is put in its place."""

    def models(self) -> dict[str, int | None]:
        """Models served now, with the longest prompt plus output that they take where it is known."""
        return {model: served.context_tokens for model, served in self._gate.models().items()}

    def turned_away(
        self, endpoint: str, request_id: str, error: ApiError, duration_s: float, came_in: TraceContext
    ) -> None:
        """A request never got here, because something was wrong with it by itself. It is counted all the same."""
        self._on_record(record_of_unread(self._tracing, endpoint, request_id, error, duration_s, came_in))

    async def estimate(self, request: InferenceRequest) -> dict[str, object]:
        """What would become of a request now, ready for JSON; nothing is sent or reserved.

        Raises:
            ApiError: 404, nobody serves its model.
        """
        return await self._estimation.estimate(request)

    async def carry(self, request: InferenceRequest, sink: Sink) -> None:
        """Carry one request to its end.

        Raises:
            ApiError: it has no answer, and nothing was sent to the client yet.
            CancelledError, ConnectionError: the client left, or takes nothing any more.
        """
        trip = Trip(request, self._gate.now())
        if self._tracing is not None:
            trip.trace = self._tracing.begin(request.endpoint, request.trace)
        try:
            await self._carry(request, sink, trip)
        except ApiError as error:
            raise self._told(error, trip) from error.__cause__
        except (asyncio.CancelledError, ConnectionError) as error:
            if not self._gate.is_cut or isinstance(error, ConnectionError):
                trip.client_left()
                raise
            self._cut_off(sink, trip)
        finally:
            record = trip.record(self._gate.now(), self._settings.risk)
            self._on_record(record)
            if trip.trace is not None:
                trip.trace.ended(record)

    async def _carry(self, request: InferenceRequest, sink: Sink, trip: Trip) -> None:
        if held_s := self.quarantine.held_s(request.endpoint, request.body, trip.arrived_at):
            raise _poisonous(held_s)
        ticket = await self._estimation.ticket(request, trip.arrived_at)
        trip.demand = ticket.demand
        self._retries.earn()
        failure: UpstreamFailure | None = None
        while True:
            try:
                async with self._gate.enter(ticket) as place:
                    if failure is not None:
                        trip.retried()
                    trip.entered(place.admit)
                    if self._on_admitted is not None:
                        self._on_admitted(request.request_id, partial(trip.so_far, self._settings.risk))
                    try:
                        await self._forward(request, place, sink, trip)
                    except UpstreamFailure as error:
                        self._note_failure(error, place, trip)
                        raise
                    return
            except RefusedError as error:
                if failure is not None:
                    # It was admitted, and its backend failed it: that no other has room for it now is not why.
                    raise _as_api_error(failure) from failure
                trip.refused(error.refusal)
                raise _refused(error.refusal, request.model) from None
            except UpstreamFailure as error:
                if error.request_sent or failure is not None or not self._retries.spend():
                    raise _as_api_error(error) from error
                failure = error
                excluded = ticket.excluded | {trip.backend}
                ticket = replace(ticket, id=self._gate.next_ticket_id(), excluded=excluded, retried=True)

    async def _forward(self, request: InferenceRequest, place: Place, sink: Sink, trip: Trip) -> None:
        """Send the request to its backend and the answer to its client."""
        backend = self._backends[place.backend]
        body = forward_body(
            request,
            engine_model=backend.engine_model(request.model),
            include_usage=True,
            max_tokens=place.admit.max_tokens,
        )
        trace = trip.forwarded(backend.kind, backend.url)
        headers = backend.headers(
            request.request_id, stream=request.stream, traceparent=trace.parent or None, tracestate=trace.state
        )
        answer = self._pricing.follow(request.model, request.shape, place, runs_to_max=request.runs_to_max)
        try:
            async with backend.exchange(request.endpoint, headers, body) as exchange:
                place.sent = True
                head = await exchange.head()
                if head.status != OK:
                    told = await error_body(exchange)
                    retry_after = head.headers.get(b"retry-after", b"").decode("latin-1")
                    self._engine_refused(refusal(head.status, told, retry_after), head.status, place, trip)
                if request.stream:
                    expect(head, b"text/event-stream")
                    await self._stream(request, answer, exchange, place, sink, trip)
                else:
                    expect(head, b"application/json")
                    await self._answer(answer, exchange, place, sink, trip)
        finally:
            self._pricing.unfollow(answer)

    async def _answer(self, answer: Answer, exchange: Exchange, place: Place, sink: Sink, trip: Trip) -> None:
        body = await exchange.read(ANSWER_MAX_BYTES)
        usage, hit_length = whole_answer(body)
        place.end(Outcome.FINISHED, usage)
        self.quarantine.answered(trip.request.endpoint, trip.request.body)
        self._learn(answer, usage, hit_length=hit_length, events=0)
        trip.answered(usage, hit_length=hit_length)
        await taken(sink.answer(body, self._headers(trip)))
        trip.delivered()

    async def _stream(
        self, request: InferenceRequest, answer: Answer, exchange: Exchange, place: Place, sink: Sink, trip: Trip
    ) -> None:
        watch = StreamWatch(keep_usage=request.include_usage)
        first = await first_events(exchange, watch)
        error = first_event_error(next(iter_data(first), b""))
        if error is not None:
            self._engine_refused(error, error.error.status, place, trip)
        trip.first_token(self._gate.now())
        tap = Tap(watch, place, sink, self._pricing.of(request.model).tokens_per_event)
        tap.count()
        try:
            await taken(sink.start_stream(self._headers(trip), first))
            while not watch.done and not await exchange.pump(tap, tap.on_chunk):
                if not watch.done:
                    await taken(sink.drained())
                    exchange.resume()
            if not watch.done and not watch.failed:
                raise UpstreamFailure(FailureKind.TRUNCATED, "the stream ended without its end", request_sent=True)
        except UpstreamFailure as failure:
            # The status is out: from here on the stream itself must tell, and it must not look complete.
            self._note_failure(failure, place, trip)
            place.end(Outcome.BROKEN)
            self._pricing.learn_cut(answer, place.output_tokens)
            error_ = _as_api_error(failure)
            trip.failed(error_)
            sink.fail(error_)
            return
        except (asyncio.CancelledError, ConnectionError):
            self._pricing.learn_cut(answer, place.output_tokens)
            raise
        place.end(Outcome.FINISHED, watch.usage, failure=trip.name if watch.failed else None)
        trip.answered(watch.usage, finished=not watch.failed, hit_length=watch.hit_length)
        if watch.failed:
            trip.upstream_failed(place.backend, "http_5xx")
            trip.failed(error_ := upstream_error("The engine failed: it reported an error in its stream."))
            if not watch.done:  # Its error has passed on to the client; what is missing is a cut.
                sink.fail(error_)
                return
        else:
            self.quarantine.answered(request.endpoint, request.body)
            self._learn(answer, watch.usage, hit_length=watch.hit_length, events=watch.events)
        await taken(sink.end_stream(tap.last))
        if not watch.failed:
            trip.delivered()
        await let_end(exchange)

    def _engine_refused(self, answer: EngineRefusal, status: int, place: Place, trip: Trip) -> NoReturn:
        """The engine answered with an error, of this status of its own, before it generated anything."""
        is_busy = answer.busy_for_s is not None
        is_its_fault = not is_busy and not 400 <= status < SERVER_ERROR
        outcome = Outcome.REFUSED if is_busy or status < SERVER_ERROR else Outcome.BROKEN
        place.end(outcome, failure=trip.name if is_its_fault else None)
        if answer.engine_died:
            self._engine_died(place, trip)
        if answer.busy_for_s is not None:
            self._gate.busy(place.backend, answer.busy_for_s)
        if is_busy or answer.error.status >= SERVER_ERROR:
            trip.upstream_failed(place.backend, _status_reason(status))
        raise answer.error

    def _note_failure(self, failure: UpstreamFailure, place: Place, trip: Trip) -> None:
        if failure.kind is FailureKind.LOCAL:
            place.end(Outcome.NOT_SENT)
            return
        trip.upstream_failed(place.backend, _METRIC_REASON[failure.kind])
        if not failure.request_sent:
            place.end(Outcome.NOT_SENT, failure=trip.name)
            self._gate.unreachable(place.backend)
        else:
            place.end(Outcome.BROKEN, failure=trip.name)
            if failure.kind in _DEATHS and trip.first_token_at is None:
                self._engine_died(place, trip)

    def _engine_died(self, place: Place, trip: Trip) -> None:
        """Perhaps of this request: it was sent, and nothing came of it."""
        if self.quarantine.died(trip.name, trip.request.body, self._gate.now()):
            log.warning("request_quarantined", request_id=trip.request.request_id, backend=place.backend, for_s=HELD_S)

    def _cut_off(self, sink: Sink, trip: Trip) -> None:
        """This gateway ends, and takes the request with it. That is told: in the stream, where one has begun.

        Raises:
            ApiError: 503, where none has.
        """
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        error = self._told(_refused(Refusal(Reason.SHUTDOWN, RETRY_CUT_S), trip.request.model), trip)
        if trip.first_token_at is None:
            raise error
        sink.fail(error)

    def _told(self, error: ApiError, trip: Trip) -> ApiError:
        """The error, as the client is told of it instead of an answer."""
        trip.failed(error)
        error.headers = {**error.headers, **self._headers(trip)}
        return error

    def _learn(self, answer: Answer, usage: Usage | None, *, hit_length: bool, events: int) -> None:
        if usage is not None:
            self._pricing.learn(answer, usage, End.LENGTH if hit_length else End.STOP, events=events)

    def _headers(self, trip: Trip) -> dict[str, str]:
        """What the client is told of admission's decision; nothing where there was none."""
        return trip.headers() if self._settings.headers else {}


def _refused(refusal: Refusal, model: str) -> ApiError:
    error = refused(refusal, model)
    error.close = refusal.reason is Reason.SHUTDOWN  # Else its client comes back on a connection that leads nowhere.
    return error


def _as_api_error(failure: UpstreamFailure) -> ApiError:
    if failure.kind is FailureKind.LOCAL:
        return overloaded(f"{str(failure).capitalize()}.")
    text = f"The engine failed: {failure}."
    if failure.kind is FailureKind.TIMEOUT:
        return upstream_timeout(text)
    return upstream_error(text, should_retry=not failure.request_sent)


def _poisonous(held_s: float) -> ApiError:
    """502 like the failures before it, and not to be retried: what the engine would do is known."""
    text = f"The engine's process ended each time it was sent this request. It is not sent again for {held_s:.0f} s."
    return upstream_error(text)


def _status_reason(status: int) -> str:
    if status == TOO_MANY_REQUESTS:
        return "http_429"
    return "http_5xx" if status >= SERVER_ERROR else "protocol"


_METRIC_REASON = {
    FailureKind.CONNECT: "connect",
    FailureKind.TIMEOUT: "timeout",
    FailureKind.RESET: "reset",
    FailureKind.TRUNCATED: "reset",
    FailureKind.PROTOCOL: "protocol",
}
_DEATHS = (FailureKind.RESET, FailureKind.TRUNCATED)
"""How the end of its process looks from here."""
