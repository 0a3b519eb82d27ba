"""A relay with real rooms around it, in front of scripted engines, and the client's side of one request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from gateway.admission.admission import Admission
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import BackendSnapshot
from gateway.api.parse import parse_inference
from gateway.backends.backend import Backend, BackendSettings
from gateway.backends.upstream import UpstreamTimeouts
from gateway.errors import ApiError
from gateway.gate import Gate
from gateway.pricing import Pricing
from gateway.relay import Relay, RelaySettings
from gateway.reporting.families import DECISIONS, UPSTREAM_REASONS
from gateway.reporting.record import RequestRecord
from gateway.request import COMPLETIONS, InferenceRequest
from gateway.tokens import TokenCounters
from tests.shell import MODEL, add_backend

SETTINGS = RelaySettings(queue_wait_max_s=5.0, risk=0.01)
QUICK = UpstreamTimeouts(connect_s=2.0, head_s=0.05, idle_s=0.05)


class House:
    """A relay and all that it stands on."""

    def __init__(
        self, urls: Mapping[str, str], settings: RelaySettings, timeouts: UpstreamTimeouts, limits: AdmissionLimits
    ) -> None:
        self.admission = Admission(limits)
        self.gate = Gate(self.admission, asyncio.get_running_loop())
        self.pricing = Pricing(self.gate.learned)
        self.backends = {
            name: Backend(BackendSettings(name, url, kind="vllm", timeouts=timeouts)) for name, url in urls.items()
        }
        for name in urls:
            add_backend(self.gate, name)
        self.records: list[RequestRecord] = []
        self.tokens = TokenCounters({})
        self.relay = Relay(self.gate, self.backends, self.pricing, self.tokens, settings, self.records.append)

    def backend(self, name: str = "a") -> BackendSnapshot:
        """What admission knows of a backend."""
        return next(backend for backend in self.gate.snapshot().backends if backend.name == name)

    def settled(self) -> RequestRecord:
        """The one record there must be, after a look that everything was given back."""
        self.admission.check()
        snapshot = self.gate.snapshot()
        assert snapshot.double_releases == 0
        assert snapshot.queues == ()
        assert [backend.requests for backend in snapshot.backends] == [0] * len(snapshot.backends)
        (record,) = self.records
        assert {attempt.reason for attempt in record.attempts} <= set(UPSTREAM_REASONS)
        assert not record.outcome or (record.outcome, record.reason) in DECISIONS
        return record


@asynccontextmanager
async def relaying(
    settings: RelaySettings = SETTINGS,
    timeouts: UpstreamTimeouts | None = None,
    limits: AdmissionLimits | None = None,
    **urls: str,
) -> AsyncIterator[House]:
    """A relay in front of these backends, each of which has said that it serves the model from 1,024 tokens."""
    house = House(urls, settings, timeouts or UpstreamTimeouts(), limits or AdmissionLimits())
    try:
        yield house
    finally:
        house.tokens.close()
        for backend in house.backends.values():
            await backend.aclose()


class Client:
    """A sink that remembers. Each step can be made to fail, or to wait for ever."""

    def __init__(
        self, *, fails: Mapping[str, BaseException] | None = None, stuck: str = "", takes_bytes: int = 1 << 30
    ) -> None:
        self._fails = fails or {}
        self._stuck = stuck
        self._takes_bytes = self._drain_bytes = takes_bytes
        self.wrote = asyncio.Event()
        """Set by the first events after those of the start."""
        self.steps: list[str] = []
        self.begun = asyncio.Event()
        """Set once anything has come."""
        self.reached = asyncio.Event()
        """Set once the step that waits is reached."""
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.error: ApiError | None = None

    async def answer(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.body, self.headers = body, headers
        await self._step("answer")

    async def start_stream(self, headers: Mapping[str, str], events: bytes) -> None:
        self.body, self.headers = events, headers
        await self._step("start_stream")

    def write(self, events: bytes) -> bool:
        self.body += events
        self.steps.append("write")
        self.wrote.set()
        if "write" in self._fails:
            raise self._fails["write"]
        return len(self.body) < self._takes_bytes

    async def drained(self) -> None:
        self._takes_bytes = len(self.body) + self._drain_bytes
        await self._step("drained")

    def write_chunk(self, chunk: bytes) -> bool:
        size, _, rest = chunk.partition(b"\r\n")
        assert len(rest) == int(size, 16) + 2
        assert rest.endswith(b"\r\n")
        return self.write(rest[:-2])

    async def end_stream(self, events: bytes = b"") -> None:
        if events:
            self.body += events
            self.wrote.set()
        await self._step("end_stream")

    def fail(self, error: ApiError) -> None:
        self.steps.append("fail")
        self.error = error

    async def _step(self, name: str) -> None:
        self.steps.append(name)
        self.begun.set()
        if name in self._fails:
            raise self._fails[name]
        if name == self._stuck:
            self.reached.set()
            await asyncio.get_running_loop().create_future()


def request(*, stream: bool = False, **fields: object) -> InferenceRequest:
    """A completion that needs few tokens, as the parser reads it."""
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 16, **fields}
    if stream:
        body["stream"] = True
    inference = parse_inference(COMPLETIONS, json.dumps(body).encode())
    inference.request_id = "r-1"
    return inference
