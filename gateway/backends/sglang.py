"""Everything known about SGLang: its metrics, its token pool, its list of models.

Metric names begin with `sglang:` or, in some versions, `sglang_`. `token_usage` is that of the fullest of its pools
(full attention, sliding window, state), so it bounds hybrids too; what the prefix cache could give up counts as free.
Its pages are our blocks. Tensor-parallel ranks may repeat a series; data-parallel ranks have pools of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from estimator.output_length import LengthHistogram
from gateway.backends.answer_lengths import length_histograms
from gateway.backends.calibration import Calibration
from gateway.backends.engine import (
    LISTING_MAX_AGE_S,
    OK,
    USAGE_MAX,
    Fault,
    Fetch,
    RestartWatch,
    TelemetryError,
    decoded,
    fetch_ok,
    listing_of,
    longest_context,
    public_names,
    rank_values,
    samples_of,
    total,
    whole,
)
from gateway.backends.exposition import Samples
from gateway.backends.listing import ListedModel
from gateway.backends.pool import EnginePool, StatedPool, pool_of
from gateway.domain import Reading

PREFIXES = (b"sglang:", b"sglang_")
USAGE = b"token_usage"
USED_TOKENS = b"num_used_tokens"
CAPACITY = b"max_total_num_tokens"
PAGE_SIZE = b"page_size"
RUNNING = b"num_running_reqs"
WAITING = b"num_queue_reqs"
RETRACTED = b"num_retracted_requests_total"
PROMPT = b"prompt_tokens_total"
OUTPUT = b"generation_tokens_total"
CACHED = b"cached_tokens_total"
"""Counted when an answer ends; newer versions by where it was found."""
LENGTHS = b"generation_tokens_histogram_bucket"
"""Only with `--collect-tokens-histogram`."""
STARTED = b"process_start_time_seconds"
NAMES = (USAGE, USED_TOKENS, CAPACITY, PAGE_SIZE, RUNNING, WAITING, RETRACTED, PROMPT, OUTPUT, CACHED)
LENGTHS_WANTED = frozenset(prefix + LENGTHS for prefix in PREFIXES)
WANTED = frozenset({STARTED, *(prefix + name for prefix in PREFIXES for name in NAMES)})
RANK = "dp_rank"
SOURCE = "cache_source"
INFO_PATHS = ("/server_info", "/get_server_info")
"""New and old name of the page with the server's arguments."""


class ServerInfo(msgspec.Struct):
    """Fields of the server's own description, each absent in some version."""

    version: str = ""
    page_size: int | None = None
    max_total_num_tokens: int | None = None
    context_length: int | None = None


class Sglang:
    """Looks at one SGLang server."""

    kind = "sglang"
    keeps_connections = True
    hosted = False

    def __init__(self, name: str, models: Mapping[str, str], stated: StatedPool) -> None:
        self._name = name
        self._models = models
        self._stated = stated
        self._life = RestartWatch()
        self._info = ServerInfo()
        self._known_for = ""
        self._known_at = float("-inf")
        self.listed: tuple[ListedModel, ...] = ()
        self.calibration: Calibration | None = None

    async def read(self, fetch: Fetch, asked_at: float) -> Reading:
        """See `Engine.read`."""
        metrics = await fetch_ok(fetch, "/metrics")
        samples = by_plain_name(samples_of(metrics, WANTED))
        work = [n for n in (total(samples, PROMPT, RANK), total(samples, OUTPUT, RANK)) if n is not None]
        work_done = sum(work) if work else None
        capacity = whole(total(samples, CAPACITY, RANK))
        started = max((value for _, value in samples.get(STARTED, ())), default=None)
        generation = self._life.observe(f"{started}/{capacity}", work_done)
        is_new = generation != self._known_for
        if is_new or asked_at - self._known_at >= LISTING_MAX_AGE_S:
            await self._identify(fetch, asked_at, generation)
        pool = pool_of(self._pool(samples, capacity), self._stated)
        return Reading(
            backend=self._name,
            asked_at=asked_at,
            models=public_names(self._models, self.listed),
            generation=generation,
            capacity=pool.limited(longest_context(self.listed) or self._info.context_length).capacity,
            used_blocks=pool.used_blocks(usage(samples)),
            running=whole(total(samples, RUNNING, RANK)),
            waiting=whole(total(samples, WAITING, RANK)),
            preemptions=whole(total(samples, RETRACTED, RANK)),
            work_done=work_done,
            engine_version=self._info.version[:64],
            prefix_hit_tokens=hit_tokens(samples),
            answer_lengths=self._answer_lengths(metrics) if is_new else (),
        )

    def _answer_lengths(self, metrics: bytes) -> tuple[tuple[str, LengthHistogram], ...]:
        return length_histograms(by_plain_name(samples_of(metrics, LENGTHS_WANTED)), LENGTHS, RANK, self._models)

    def _pool(self, samples: Samples, capacity: int | None) -> EnginePool:
        page_tokens = (
            whole(max(rank_values(samples, PAGE_SIZE, RANK).values(), default=None)) or self._info.page_size or 1
        )
        tokens = capacity or self._info.max_total_num_tokens
        return EnginePool(
            blocks=None if tokens is None else tokens // page_tokens,
            block_tokens=page_tokens,
            tokens=tokens,
            ranks=max(1, len(rank_values(samples, CAPACITY, RANK))),
        )

    async def _identify(self, fetch: Fetch, asked_at: float, generation: str) -> None:
        self.listed = listing_of(await fetch_ok(fetch, "/v1/models"))
        if generation != self._known_for:
            self._info = await _server_info(fetch)
        self._known_for, self._known_at = generation, asked_at


async def _server_info(fetch: Fetch) -> ServerInfo:
    for path in INFO_PATHS:
        status, body = await fetch(path)
        if status == OK:
            with suppress(TelemetryError):  # Only fills gaps of the metrics: what is missing then is said there.
                return decoded(body, ServerInfo, path)
    return ServerInfo()


def by_plain_name(samples: Samples) -> Samples:
    """Samples under their names without prefix, whichever prefix this version uses."""
    plain: Samples = {}
    for name, found in samples.items():
        plain.setdefault(name[7:] if name.startswith(PREFIXES) else name, []).extend(found)
    return plain


def hit_tokens(samples: Samples) -> float | None:
    """Prompt tokens found in its caches, wherever they were kept; None until it has found any.

    Raises:
        TelemetryError: a count that is none.
    """
    by_source: dict[str, Samples] = {}
    for sample in samples.get(CACHED, ()):
        by_source.setdefault(sample[0].get(SOURCE, ""), {}).setdefault(CACHED, []).append(sample)
    return sum(total(each, CACHED, RANK) or 0.0 for each in by_source.values()) if by_source else None


def usage(samples: Samples) -> float:
    """Share of the tokens in use, over all ranks weighted by their pools; that of the fullest where pools are not told.

    Raises:
        TelemetryError: no usage on the page, or one that is no fraction.
    """
    capacities = rank_values(samples, CAPACITY, RANK)
    shares = rank_values(samples, USAGE, RANK)
    if not shares:
        used = rank_values(samples, USED_TOKENS, RANK)
        shares = {rank: used[rank] / capacities[rank] for rank in used if capacities.get(rank)}
    if not shares:
        raise TelemetryError(Fault.MISSING_METRIC, "/metrics has no sglang:token_usage")
    fullest = max(shares.values())
    if fullest > USAGE_MAX:
        raise TelemetryError(Fault.PARSE, f"token usage of {fullest:g} is no fraction")
    whole_pool = sum(capacities.values())
    if shares.keys() != capacities.keys() or not whole_pool:
        return fullest
    return sum(share * capacities[rank] for rank, share in shares.items()) / whole_pool
