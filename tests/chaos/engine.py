"""An engine with vLLM's pages that answers each request with the fault that was meant for it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping

from tests.chaos.case import Case
from tests.chaos.table import TABLE
from tests.faults import Answer, FaultyEngine, Pause, Request, Sent, Step, response

BLOCK_TOKENS = 16
WIDE_BLOCKS = 1_000_000
_TEXT = b"Content-Type: text/plain; version=0.0.4\r\n"


class ChaosEngine(FaultyEngine):
    """One backend of a chaos run.

    Args:
        model: what it lists.
        cases: by id, everything that may be asked of it.
        blocks: usable ones of its pool.
        request_blocks: what it says that each request holds.
    """

    def __init__(
        self, model: str, cases: Mapping[str, Case], *, blocks: int = WIDE_BLOCKS, request_blocks: int = 1
    ) -> None:
        super().__init__()
        self._model = model
        self._cases = cases
        self._blocks = blocks
        self._request_blocks = request_blocks
        self._lives = 1
        self.chance: random.Random | None = None
        """Where set, every other look brings garbage."""
        self.inside: dict[int, Case] = {}
        """Connections with a request that is not answered yet."""
        self.garbage = 0
        self._now: dict[asyncio.StreamWriter, Case] = {}

    def pick(self, request: Request) -> Answer:
        """By the request's id; pages by their path."""
        path = request.line.split(b" ")[1].decode()
        if path == "/metrics":
            return self._metrics()
        if path == "/v1/models":
            listed = {"id": self._model, "object": "model", "owned_by": "vllm", "max_model_len": 131_072}
            return (response(json.dumps({"object": "list", "data": [listed]}).encode()),)
        if path == "/version":
            return (response(b'{"version":"0.32.0"}'),)
        case = self._case(request)
        return (response(b"", status=404),) if case is None else TABLE[case.fault].play(case)

    async def play(
        self, request: Request, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Keep account of it meanwhile."""
        case = self._case(request)
        if case is None:
            return await super().play(request, answer, reader, writer)
        self.inside[request.connection] = case
        self._now[writer] = case
        case.asked.set()
        try:
            return await super().play(request, answer, reader, writer)
        finally:
            del self.inside[request.connection], self._now[writer]

    async def _send(self, part: Sent, writer: asyncio.StreamWriter) -> None:
        await super()._send(part, writer)
        case = self._now.get(writer)
        if case is not None and isinstance(part, bytes):
            case.told.set()

    async def die(self) -> None:
        """Its next life has another name."""
        await super().die()
        self._lives += 1

    @property
    def open_connections(self) -> int:
        """Idle ones included."""
        return len(self._players)

    def _case(self, request: Request) -> Case | None:
        return self._cases.get(request.headers.get(b"x-request-id", b"").decode())

    def _metrics(self) -> Answer:
        page = self._page(len(self.inside))
        if self.chance is None or self.chance.getrandbits(1):
            return (response(page, headers=_TEXT),)
        self.garbage += 1
        usage = b"vllm:kv_cache_usage_perc{"
        at = page.index(usage)
        end = page.index(b"\n", at)
        broken = [page[:at] + usage + b'model_name="m"} ' + word + page[end:] for word in _NO_USAGE]
        return self.chance.choice(
            [
                *((response(garbage, headers=_TEXT),) for garbage in broken),
                (response(b"<html>hello</html>", headers=b"Content-Type: text/html\r\n"),),
                (response(b"Internal Server Error", status=500),),
                (response(page[: len(page) // 2], headers=_TEXT),),
                (response(page * 2000, headers=_TEXT),),
                (Pause(0.1), response(page, headers=_TEXT)),
                (response(page, headers=_TEXT)[:-20], Step.CLOSE),
            ]
        )

    def _page(self, running: int) -> bytes:
        labels = f'engine="0",model_name="{self._model}"'
        return f"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{labels}}} {running}
vllm:num_requests_waiting{{{labels}}} 0
vllm:kv_cache_usage_perc{{{labels}}} {min(1.0, running * self._request_blocks / self._blocks):.7f}
vllm:num_preemptions_total{{{labels}}} 0
vllm:prompt_tokens_total{{{labels}}} {len(self.requests)}
vllm:generation_tokens_total{{{labels}}} {len(self.requests)}
vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",engine="0",num_gpu_blocks="{self._blocks + 1}"}} 1
process_start_time_seconds {self._lives}
""".encode()


_NO_USAGE = (b"NaN", b"-1", b"1e300", b"+Inf", b"97", b"0,5", b"nothing")
