"""The gRPC server: Envoy's streams, health for whoever watches the picker, and a gentle end."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.epp.answers import BrokenAnswerError
from gateway.epp.messages import Message, ProtocolError, read
from gateway.epp.stream import Stream
from gateway.epp.wire import EXT_PROC, PROCESS, ProcessingRequest, ProcessingResponse
from gateway.reporting.ext_proc import ExtProcMetrics

LIVENESS, READINESS = "liveness", "readiness"
STREAMS_MAX = 16_384
"""At once; Envoy answers 503 for one more. Admission bounds what runs and waits, this only what a bug could do."""
MESSAGE_MAX_BYTES = 4 << 20
"""Envoy's pieces of bodies are far smaller."""
GRACE_S = 1.0
"""How long streams may go on after the end: requests were drained before."""
DRAIN_SEEN_S = 0.5
_OPTIONS = (
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Certificate:
    """For TLS between Envoy and the picker, both PEM."""

    key: bytes
    chain: bytes


class Carrier(Protocol):
    """Carries the request of one stream; see `Picker`."""

    async def carry(self, stream: Stream) -> None: ...


class Service:
    """Implements `ExternalProcessor`: a stream is a request."""

    def __init__(self, picker: Carrier, metrics: ExtProcMetrics) -> None:
        self._picker = picker
        self._metrics = metrics

    async def Process(self, messages: AsyncIterator[Any], context: Any) -> None:  # noqa: N802  # gRPC's name
        """One request of Envoy's."""
        self._metrics.on_stream_started()
        code = grpc.StatusCode.CANCELLED
        try:
            code, said = await self._carry(messages, context)
            if code is not grpc.StatusCode.OK:
                await context.abort(code, said)
        finally:
            self._metrics.on_stream_ended(code.name)

    async def _carry(self, messages: AsyncIterator[Any], context: Any) -> tuple[grpc.StatusCode, str]:
        """How the stream is to end. A stream that does not end well makes Envoy cut its client's connection."""
        code, said = grpc.StatusCode.OK, ""
        try:
            async with asyncio.TaskGroup() as group:
                stream = Stream(_read(messages), context.write, group)
                try:
                    await self._picker.carry(stream)
                finally:
                    stream.close()
        except* BrokenAnswerError:
            code, said = grpc.StatusCode.DATA_LOSS, "the engine's answer broke off"
        except* ProtocolError as errors:
            code, said = grpc.StatusCode.FAILED_PRECONDITION, str(errors.exceptions[0])
        except* (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            code, said = grpc.StatusCode.CANCELLED, "the stream has ended"
        except* Exception as errors:  # noqa: BLE001  # a bug must end one request, and be told without its values
            code, said = grpc.StatusCode.INTERNAL, f"the picker failed: {_trace(errors)}"
        if code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL):
            log.error("ext_proc_failed", code=code.name, reason=said)
        return code, said


async def _read(messages: AsyncIterator[Any]) -> AsyncIterator[Message]:
    async for message in messages:
        yield read(message)


def _trace(error: BaseException) -> str:
    """Where it happened, and its kind. Not what it says: messages quote values, and values are prompts."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.walk_tb(error.__traceback__)
    return " ".join((type(error).__name__, *(f"{frame.f_globals.get('__name__')}:{line}" for frame, line in frames)))


@asynccontextmanager
async def serving(
    service: Service, host: str, port: int, is_draining: Callable[[], bool], certificate: Certificate | None = None
) -> AsyncIterator[str]:
    """Serve while the block runs; gives the address that was bound.

    Raises:
        OSError: the address cannot be listened on.
    """
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_handler(service),))
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in (LIVENESS, READINESS, EXT_PROC):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    address = f"[{host}]" if ":" in host else host
    try:
        if certificate is None:
            bound = server.add_insecure_port(f"{address}:{port}")
        else:
            credentials = grpc.ssl_server_credentials([(certificate.key, certificate.chain)])
            bound = server.add_secure_port(f"{address}:{port}", credentials)
    except RuntimeError:
        raise OSError(f"cannot listen on {address}:{port}") from None
    await server.start()
    try:
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(_tell_drain(checks, is_draining))
            try:
                yield f"{address}:{bound}"
            finally:
                telling.cancel()
    finally:
        with suppress(asyncio.CancelledError):
            await server.stop(GRACE_S)


def _handler(service: Service) -> grpc.GenericRpcHandler:
    process = grpc.stream_stream_rpc_method_handler(
        service.Process, ProcessingRequest.FromString, ProcessingResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(EXT_PROC, {PROCESS.rpartition("/")[2]: process})


async def _tell_drain(checks: Any, is_draining: Callable[[], bool]) -> None:
    """Once the gateway drains it is not ready, and no picker for new requests; it lives until it has ended."""
    while not is_draining():  # noqa: ASYNC110  # it is an operator's act, and health is asked for by the second
        await asyncio.sleep(DRAIN_SEEN_S)
    for name in ("", READINESS, EXT_PROC):
        await checks.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
