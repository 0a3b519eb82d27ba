"""A worker, in this process: what it does with what its owner says, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import aiohttp
import msgspec
import pytest

from gateway import http_front
from gateway.admission.commands import Admit
from gateway.config import Config, load_config
from gateway.domain import Reason, Refusal, ServedModel
from gateway.simulation.server import EngineOptions, start_engine
from gateway.workers.channel import Channel
from gateway.workers.messages import (
    Admitted,
    Arrive,
    Begun,
    Built,
    Cut,
    Died,
    Ended,
    Finish,
    Leave,
    Message,
    Opened,
    Refused,
    Retire,
    Setup,
    State,
    ToOwner,
)
from gateway.workers.worker import Worker
from tests.workers.pair import STATE, configured

ASKED = {"model": "m", "prompt": "x", "max_tokens": 5}
M = TypeVar("M", bound=Message)


class Hired:
    """A worker, and its owner's end of the channel."""

    def __init__(self, url: str) -> None:
        self.worker = Worker()
        self.is_over = False
        self.heard: asyncio.Queue[ToOwner] = asyncio.Queue()
        self.channel = Channel(msgspec.msgpack.Decoder(ToOwner), lambda: None)
        self.config = load_config(overrides={"backends": [{"name": "a", "url": url}]}, environ={})
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}/v1/completions"

    async def hears(self, kind: type[M]) -> M:
        """The next message of this kind."""
        async with asyncio.timeout(8):
            while not isinstance(message := await self.heard.get(), kind):
                pass
        return message

    async def run(self) -> None:
        self.listening.setblocking(False)
        await self.worker.serve(self.config, self.listening)
        self.is_over = True


@asynccontextmanager
async def hired(url: str = "http://127.0.0.1:9") -> AsyncIterator[tuple[Hired, aiohttp.ClientSession]]:
    """A worker that takes connections; it ends with the block, if it has not before."""
    it = Hired(url)
    ours, theirs = socket.socketpair()
    await it.worker.channel.open(theirs, it.worker.take)
    await it.channel.open(ours, it.heard.put_nowait)
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as http:
        group.create_task(it.run())
        await it.hears(Built)
        it.channel.send(STATE)
        await it.hears(Opened)
        try:
            yield it, http
        finally:
            it.channel.close()


async def test_a_request_goes_where_the_owner_says() -> None:
    """It asks, sends it there, gives the place back, and records it."""
    async with start_engine(EngineOptions(model="m", speed=100.0)) as engine, hired(engine.url) as (it, http):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(http.post(it.url, json=ASKED))
            arrived = await it.hears(Arrive)
            it.channel.send(Admitted(Admit(arrived.ticket.id, "a", Reason.OK, 16)))
            left, ended = await it.hears(Leave), await it.hears(Ended)
        assert (asking.result().status, ended.record.code) == (200, 200)
        assert it.worker._untold == {}
        assert left.ticket_id == arrived.ticket.id
        assert left.usage is not None
        assert left.usage.output_tokens == 5


async def test_a_refusal_and_what_is_known_of_models() -> None:
    """The owner's numbers are what the client is told. Without its word, nobody is sent anywhere."""
    async with hired() as (it, http):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(http.post(it.url, json=ASKED))
            arrived = await it.hears(Arrive)
            it.channel.send(Refused(arrived.ticket.id, Refusal(Reason.QUEUE_FULL, retry_after_s=7.0)))
        assert (asking.result().status, asking.result().headers["retry-after"]) == (429, "7")
        assert (await http.post(it.url, json={**ASKED, "model": "other"})).status == 404
        it.channel.send(State({"other": ServedModel(0, None)}, True, False, True, {"a": "vllm", "gone": "vllm"}))
        while (status := (await http.post(it.url, json={**ASKED, "model": "other"})).status) == 404:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert status == 503, "its owner has more to do than it can"
        assert it.worker.backends["a"].found == "vllm"


async def test_requests_that_run_are_told_of_and_only_once() -> None:
    """With the next sign of life; then their end is nothing new, while that of one which never ran for long is."""
    async with start_engine(EngineOptions(model="m", speed=0.1)) as engine, hired(engine.url) as (it, http):
        async with asyncio.TaskGroup() as group:
            group.create_task(http.post(it.url, json={**ASKED, "ignore_eos": True}))
            arrived = await it.hears(Arrive)
            it.channel.send(Admitted(Admit(arrived.ticket.id, "a", Reason.OK, 16)))
            await engine.busy()
            it.worker._give_sign(0.0)
            begun, ended = await it.hears(Begun), await it.hears(Ended)
        assert (begun.record.request_id, begun.record.backend) == (ended.record.request_id, "a")
        assert not ended.is_new


async def test_poison_that_another_worker_met() -> None:
    async with hired() as (it, _):
        it.channel.send(Died(b"name", 100))
        async with asyncio.timeout(8):
            while not len(it.worker.quarantine):  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0)


async def test_a_worker_that_retires(monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets end what runs, takes no more connections, and goes."""
    monkeypatch.setattr(http_front, "HAND_OVER_S", 0.0)
    async with start_engine(EngineOptions(model="m", speed=100.0)) as engine, hired(engine.url) as (it, http):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(http.post(it.url, json=ASKED))
            arrived = await it.hears(Arrive)
            it.channel.send(Retire())
            it.channel.send(Admitted(Admit(arrived.ticket.id, "a", Reason.OK, 16)))
            assert (await it.hears(Ended)).record.code == 200
        assert asking.result().status == 200


async def test_a_worker_that_retires_waits_for_who_reads_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine has ended the answer long ago; the client gets the rest of it whenever it wants it."""
    monkeypatch.setattr(http_front, "HAND_OVER_S", 0.0)
    monkeypatch.setattr(http_front, "SHUTDOWN_MAX_S", 0.0)
    asked = json.dumps({**ASKED, "max_tokens": 200, "ignore_eos": True, "stream": True}).encode()
    async with start_engine(EngineOptions(model="m", speed=1000.0)) as engine, hired(engine.url) as (it, _):
        it.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(it.listening.getsockname())
            head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
            slow.sendall(f"{head}\r\nContent-Length: {len(asked)}\r\n\r\n".encode() + asked)
            arrived = await it.hears(Arrive)
            it.channel.send(Admitted(Admit(arrived.ticket.id, "a", Reason.OK, 16)))
            it.channel.send(Retire())
            await it.hears(Leave)
            await asyncio.sleep(0.1)
            assert not it.is_over
            answer = await asyncio.wait_for(asyncio.to_thread(_rest, slow), 20)
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert (await it.hears(Ended)).record.code == 200


def _rest(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65_536), b""))


@pytest.mark.parametrize("how", ["finish", "lost", "cut"])
async def test_who_is_inside_is_told_of_the_end(how: str) -> None:
    """One that has a place and one that waits: 503 and no connection to come back on, whatever ended it."""
    async with start_engine(EngineOptions(model="m", speed=0.1)) as engine, hired(engine.url) as (it, http):
        async with asyncio.TaskGroup() as group:
            runs = group.create_task(http.post(it.url, json=ASKED))
            arrived = await it.hears(Arrive)
            it.channel.send(Admitted(Admit(arrived.ticket.id, "a", Reason.OK, 16)))
            await engine.busy()
            waits = group.create_task(http.post(it.url, json=ASKED))
            waiting = await it.hears(Arrive)
            if how == "lost":
                it.channel.close()
            elif how == "finish":
                it.channel.send(Finish())
                it.channel.send(Finish())
                assert (await it.hears(Leave)).ticket_id == arrived.ticket.id
            else:
                it.channel.send(Cut())
                it.channel.send(Cut())
                it.channel.send(Refused(waiting.ticket.id, Refusal(Reason.SHUTDOWN)))
        assert [asked.result().status for asked in (runs, waits)] == [503, 503]
        await engine.idle()


async def test_an_owner_that_is_gone_before_anything_is_known() -> None:
    """There is nothing to do then."""
    worker = Worker()
    ours, theirs = socket.socketpair()
    await worker.channel.open(theirs, worker.take)
    ours.close()
    assert await asyncio.wait_for(worker.setup, 8) is None


def test_a_configuration_that_cannot_be_used_here() -> None:
    """A file or a secret has gone since: the process says so and ends with 1. Without an owner it ends with 0."""
    known = {"tenants": [{"name": "t", "keys": ["env:GONE"]}]}
    no_file = configured("a").model_copy(update={"tokenizers": {"m": "/nowhere/tokenizer.json"}})
    no_key = configured("a", environ={"GONE": "sk-0123456789abcdef"}, **known)
    with _started(no_file) as first, _started(no_key) as second, _started(None) as third:
        for process, code, trouble in ((first, 1, "tokenizer.json"), (second, 1, "GONE is not set"), (third, 0, "")):
            _, err = process.communicate(timeout=30)
            assert (process.returncode, trouble in err, "Traceback" in err) == (code, True, False)


@contextmanager
def _started(config: Config | None) -> Iterator[subprocess.Popen[str]]:
    """A worker's process, with an owner that only gives it its configuration; None: that is gone at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listening:
        numbers = (theirs.fileno(), listening.fileno())
        command = [sys.executable, "-m", "gateway.workers", *map(str, numbers)]
        process = subprocess.Popen(command, pass_fds=numbers, stderr=subprocess.PIPE, env=os.environ, text=True)
        theirs.close()
        if config is None:
            ours.close()
        else:
            setup = msgspec.msgpack.encode(Setup(config.referring()))
            ours.sendall(len(setup).to_bytes(4, "big") + setup)
        yield process
