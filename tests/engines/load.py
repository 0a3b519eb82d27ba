"""Puts an OpenAI completion server under load and measures what its clients see.

Prompts are token ids, so that their size is exact and no cached prefix is shared. Tokens are counted by the `usage` of
each stream: one chunk may carry several tokens, or none. Where the engine's own pages can be read, they are, whatever
stands between it and the clients.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.engines.incoming import Incoming
from tests.engines.tiny_model import FIRST_TEXT_TOKEN

PREEMPTIONS = "vllm:num_preemptions_total"
KV_USED = "vllm:kv_cache_usage_perc"
POLL_INTERVAL_S = 0.25
ROUND_WAIT_MAX_S = 900.0


@dataclass(frozen=True, slots=True)
class Load:
    """How many requests of which size, and how many of them at once."""

    requests: int
    concurrency: int
    prompt_tokens: int = 32
    output_tokens: int = 200
    model: str = "tiny"
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Stream:
    """What the client of one request saw."""

    first_token_s: float | None = None
    gaps_s: tuple[float, ...] = ()
    output_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What all clients of a round saw, and what its engine counted meanwhile."""

    wall_s: float
    streams: tuple[Stream, ...]
    preemptions: int | None = None
    """None where the engine counts none."""
    kv_used_peak: float | None = None
    """Largest part of the pool seen in use, 0 to 1."""
    gaps_s: tuple[float, ...] = field(init=False)
    first_tokens_s: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gaps_s", tuple(sorted(gap for stream in self.streams for gap in stream.gaps_s)))
        firsts = (stream.first_token_s for stream in self.streams if stream.first_token_s is not None)
        object.__setattr__(self, "first_tokens_s", tuple(sorted(firsts)))

    @property
    def errors(self) -> list[str]:
        """What went wrong, one entry per lost request."""
        return [stream.error for stream in self.streams if stream.error is not None]

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of the streams that ended well, per second of the whole round."""
        return sum(stream.output_tokens for stream in self.streams if stream.error is None) / self.wall_s

    def first_token_s(self, part: float) -> float:
        """Time to the first token that this part of the streams stayed within; NaN without streams."""
        return _quantile(self.first_tokens_s, part)

    def gap_s(self, part: float) -> float:
        """Time between two chunks of a stream that this part of all gaps stayed within; NaN without gaps."""
        return _quantile(self.gaps_s, part)


async def run_load(load: Load, base_url: str, metrics_url: str | None = None) -> Measured:
    """Sends the load to `base_url` (the server, without `/v1`) and reads vLLM's counters at `metrics_url` meanwhile.

    Failed requests are results. Nothing is retried.
    """
    prompts = _prompts(load)
    gate = asyncio.Semaphore(load.concurrency)
    # A connection per request: llama.cpp drops pooled ones under the client's hands.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=ROUND_WAIT_MAX_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one(prompt: list[int]) -> Stream:
            async with gate:
                return await _stream(session, base_url, load, prompt)

        before = await read_metrics(session, metrics_url)
        peak = _Peak()
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(_watch(session, metrics_url, peak))
            began = time.perf_counter()
            streams = await asyncio.gather(*(one(prompt) for prompt in prompts))
            wall_s = time.perf_counter() - began
            watcher.cancel()
        after = await read_metrics(session, metrics_url)
    preemptions = int(after[PREEMPTIONS] - before[PREEMPTIONS]) if PREEMPTIONS in before else None
    return Measured(wall_s, tuple(streams), preemptions, peak.kv_used)


async def read_metrics(session: aiohttp.ClientSession, url: str | None) -> dict[str, float]:
    """The samples of a Prometheus page by name, summed over their labels; nothing for no page."""
    if url is None:
        return {}
    async with session.get(url) as response:
        page = await response.text()
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
    return samples


@dataclass(slots=True)
class _Peak:
    kv_used: float | None = None


async def _watch(session: aiohttp.ClientSession, url: str | None, peak: _Peak) -> None:
    while url is not None:
        used = (await read_metrics(session, url)).get(KV_USED)
        if used is not None:
            peak.kv_used = max(used, peak.kv_used or 0.0)
        await asyncio.sleep(POLL_INTERVAL_S)


def _prompts(load: Load) -> list[list[int]]:
    source = random.Random(load.seed)
    ids = range(FIRST_TEXT_TOKEN, FIRST_TEXT_TOKEN + 256)
    return [source.choices(ids, k=load.prompt_tokens) for _ in range(load.requests)]


async def _stream(session: aiohttp.ClientSession, base_url: str, load: Load, prompt: list[int]) -> Stream:
    body = {
        "model": load.model,
        "prompt": prompt,
        "max_tokens": load.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent_at, incoming = time.perf_counter(), Incoming()
    try:
        async with session.post(f"{base_url}/v1/completions", json=body) as response:
            if response.status != 200:
                return _seen(incoming, sent_at, f"{response.status} {(await response.text())[:300]}")
            async for line in response.content:
                if line.startswith(b"data: "):
                    incoming.take(line.removeprefix(b"data: ").strip(), time.perf_counter())
    except (aiohttp.ClientError, TimeoutError) as trouble:
        return _seen(incoming, sent_at, repr(trouble))
    return _seen(incoming, sent_at, None if incoming.is_done else "the stream ended without [DONE]")


def _seen(incoming: Incoming, sent_at: float, error: str | None) -> Stream:
    first = incoming.chunks_at[0] - sent_at if incoming.chunks_at else None
    return Stream(first, incoming.gaps_s, incoming.output_tokens, incoming.error or error)


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")
