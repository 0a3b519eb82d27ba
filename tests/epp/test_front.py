"""A whole gateway behind gRPC: what it takes from its configuration, and how it fails to start."""

from __future__ import annotations

import io
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from gateway.app import Running, run
from gateway.config import Config, ConfigError, load_config
from gateway.epp.front import GrpcAddress, check_config, grpc_front
from gateway.simulation.server import RunningEngine, start_engine
from tests.e2e.stand import SMALL, eventually, logs_into
from tests.epp.envoy_side import ANSWER, answered, asked, body_of, came, process, sent, set_headers


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as running:
        yield running


def configured(*urls: str, environ: Mapping[str, str] | None = None, **more: object) -> Config:
    """These backends, ports that are free."""
    backends = [{"name": f"b{number}", "url": url} for number, url in enumerate(urls)]
    tree = {"listen": {"admin_port": 0}, "telemetry": {"interval_s": 0.05}, "backends": backends, **more}
    return load_config(overrides=tree, environ=environ or {})


@asynccontextmanager
async def picking(config: Config) -> AsyncIterator[tuple[Running, grpc.aio.Channel]]:
    """A gateway, and a channel to its picker."""
    async with run(config, logs_into(io.StringIO()), front=grpc_front(GrpcAddress(port=0))) as running:
        for looked in running.first_looks.values():
            await looked.wait()
        async with grpc.aio.insecure_channel(running.api_url) as channel:
            yield running, channel


async def reply(call: Any, *messages: Any) -> Any:
    for message in messages:
        await call.write(message)
    return await call.read()


async def test_a_request_goes_where_the_engine_is(engine: RunningEngine) -> None:
    """The engine's address and pool are found by the same looks; the metrics page has the picker's series."""
    async with picking(configured(engine.url)) as (running, channel):
        call = process(channel)
        head = await reply(call, asked(), sent(body_of()))
        told = set_headers(head.request_headers.response.header_mutation)
        assert told["x-gateway-destination-endpoint"] == engine.url.removeprefix("http://")
        assert running.gate.snapshot().backends[0].requests == 1
        await reply(call, answered(), came(ANSWER))
        await eventually(lambda: running.gate.snapshot().backends[0].requests == 0)
        call.cancel()


async def test_tenants_and_limits_of_the_configuration(engine: RunningEngine) -> None:
    """Keys, body size and the list of fields are those of the proxy."""
    tenants = [{"name": "team", "keys": ["env:TEAM_KEY"]}]
    config = configured(engine.url, environ={"TEAM_KEY": "secret"}, tenants=tenants, input={"body_bytes_max": 1024})
    async with picking(config) as (_, channel):
        statuses = []
        for head, body in (
            (asked(), body_of()),
            (asked(authorization="Bearer secret"), body_of(user="x" * 1024)),
            (asked(authorization="Bearer secret"), body_of(zzz=1)),
        ):
            answer = await reply(process(channel), head, sent(body))
            statuses.append(answer.immediate_response.status.code)
        assert statuses == [401, 413, 400]


async def test_a_drain_turns_requests_away(engine: RunningEngine) -> None:
    async with picking(configured(engine.url)) as (running, channel):
        running.start_drain()
        answer = await reply(process(channel), asked(), sent(body_of()))
        assert answer.immediate_response.status.code == 503
        assert b'"draining"' in answer.immediate_response.body
        await running.gate.drained()


@pytest.mark.parametrize("url", ["https://api.example.com", "http://10.0.0.1:8000/openai"])
def test_backends_that_envoy_cannot_be_sent_to(url: str) -> None:
    """They are refused with the path of their key."""
    with pytest.raises(ConfigError) as caught:
        check_config(configured("http://10.0.0.1:8000", url))
    (fault,) = caught.value.faults
    assert fault.path == "backends.1.url"
    check_config(configured("http://10.0.0.1:8000"))


def test_the_picker_is_one_process() -> None:
    """Its work is small: Envoy carries the requests."""
    with pytest.raises(ConfigError, match="one process") as caught:
        check_config(configured("http://10.0.0.1:8000").model_copy(update={"workers": 2}))
    assert [fault.path for fault in caught.value.faults] == ["workers"]


async def test_a_port_that_is_taken(engine: RunningEngine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        front = grpc_front(GrpcAddress(port=taken.getsockname()[1]))
        with pytest.raises(OSError, match="cannot listen"):
            async with run(configured(engine.url), logs_into(io.StringIO()), front=front):
                pass
