"""The gRPC server on loopback: streams, health, drain, and what goes wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from gateway.epp import service as service_module
from gateway.epp.service import LIVENESS, READINESS, Service, serving
from gateway.epp.stream import Stream
from gateway.epp.wire import EXT_PROC
from gateway.reporting.ext_proc import ExtProcMetrics
from gateway.reporting.registry import Families
from tests.epp.envoy_side import (
    ANSWER,
    EnvoySide,
    PickerHouse,
    answered,
    asked,
    body_of,
    came,
    free,
    picking,
    process,
    sent,
)

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
BIG = body_of(max_tokens=900, ignore_eos=True)


@asynccontextmanager
async def dialled(house: PickerHouse, draining: list[bool]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the picker's own server."""
    async with (
        serving(house.service, "127.0.0.1", 0, lambda: bool(draining)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


async def test_a_request_over_the_wire() -> None:
    """Headers, both bodies, and an end that Envoy takes for good."""
    async with picking() as house, dialled(house, []) as channel:
        call = process(channel)
        for message in (asked(), sent(body_of())):
            await call.write(message)
        kinds = [(await call.read()).WhichOneof("response") for _ in range(2)]
        for message in (answered(), came(ANSWER)):
            await call.write(message)
        kinds += [(await call.read()).WhichOneof("response") for _ in range(2)]
        assert kinds == ["request_headers", "request_body", "response_headers", "response_body"]
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert house.house.settled().code == 200


@pytest.mark.parametrize("is_reset", [True, False])
async def test_a_client_that_leaves_the_queue(is_reset: bool) -> None:
    """Reset or half-closed: the place in the queue is free."""
    async with picking() as house, dialled(house, []) as channel:
        places = await house.fill()
        call = process(channel)
        for message in (asked(), sent(BIG)):
            await call.write(message)
        await house.waits()
        if is_reset:
            call.cancel()
        else:
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        async with asyncio.timeout(5):
            while house.in_flight():  # noqa: ASYNC110  # the server has no event for it
                await asyncio.sleep(0)
        # A reset may be seen as the end of what is read, or as the cancellation that follows.
        assert house.streams("OK") + is_reset * house.streams("CANCELLED") == 1
        free(places)
        assert house.house.settled().disconnect == "queued"


async def test_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is well until it drains: then it lives, but is neither ready nor a picker for new requests."""
    monkeypatch.setattr(service_module, "DRAIN_SEEN_S", 0.01)
    draining: list[bool] = []
    async with picking() as house, dialled(house, draining) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def states() -> list[int]:
            names = (LIVENESS, READINESS, EXT_PROC, "")
            return [(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names]

        assert await states() == [SERVING] * 4
        draining.append(True)
        async with asyncio.timeout(5):
            while await states() != [SERVING, NOT_SERVING, NOT_SERVING, NOT_SERVING]:  # noqa: ASYNC110  # as its users do
                await asyncio.sleep(0.01)


async def test_a_port_that_is_taken() -> None:
    """An OSError, as from any other listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        async with picking() as house:
            with pytest.raises(OSError, match="cannot listen"):
                async with serving(house.service, "127.0.0.1", taken.getsockname()[1], lambda: False):
                    pass


class Faulty:
    """Carries nothing."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def carry(self, stream: Stream) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a secret prompt"), grpc.StatusCode.INTERNAL),
        (asyncio.InvalidStateError("gone"), grpc.StatusCode.CANCELLED),
    ],
)
async def test_a_bug_ends_one_stream(error: Exception, code: grpc.StatusCode) -> None:
    """It is counted and told, but not what its message says: that may be a prompt."""
    families = Families()
    side = EnvoySide(Service(Faulty(error), ExtProcMetrics(families)))
    with capture_logs() as lines:
        side.begin()
        await side.end()
    assert side.code is code
    assert families.registry.get_sample_value("kvgate_ext_proc_streams_total", {"code": code.name}) == 1
    assert families.registry.get_sample_value("kvgate_ext_proc_streams_in_flight") == 0
    assert "secret" not in f"{lines} {side.said}"
    assert [line["event"] for line in lines] == (["ext_proc_failed"] if code is grpc.StatusCode.INTERNAL else [])
