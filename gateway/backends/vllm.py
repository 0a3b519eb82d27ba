"""Everything known about vLLM: its metrics, its KV pool, its list of models.

Seen from 0.8 to 0.33. The usage gauge was `gpu_cache_usage_perc` up to 0.11 and is `kv_cache_usage_perc` since; both
are fractions of the usable blocks, with cached but idle prefix blocks as free ones. One block of each pool is the null
block. `cache_config_info` has labels that contain the names of those read here: names are matched whole.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from estimator.output_length import LengthHistogram
from gateway.backends.answer_lengths import length_histograms
from gateway.backends.calibration import Calibration, Told, calibrate
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
    fraction,
    listing_of,
    longest_context,
    positive,
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

USAGE = b"vllm:kv_cache_usage_perc"
USAGE_OLD = b"vllm:gpu_cache_usage_perc"
CONFIG = b"vllm:cache_config_info"
RUNNING = b"vllm:num_requests_running"
WAITING = b"vllm:num_requests_waiting"
PREEMPTIONS = b"vllm:num_preemptions_total"
PROMPT = b"vllm:prompt_tokens_total"
OUTPUT = b"vllm:generation_tokens_total"
PREFIX_HITS = b"vllm:prefix_cache_hits_total"
"""In tokens. The counter of another name that older versions had was in blocks, and is not read."""
LENGTHS = b"vllm:request_generation_tokens_bucket"
STARTED = b"process_start_time_seconds"
WANTED = frozenset({USAGE, USAGE_OLD, CONFIG, RUNNING, WAITING, PREEMPTIONS, PROMPT, OUTPUT, PREFIX_HITS, STARTED})
RANK = "engine"
"""Label of a data-parallel rank: each has a pool of its own."""
NAMED_MAX = 4
"""Listed models whose names are looked up: the first is the engine's own, later ones are adapters."""


class _Version(msgspec.Struct):
    version: str


@dataclass(frozen=True, slots=True)
class VllmPage:
    """What one metrics page says."""

    pool: EnginePool
    told: Told | None
    """Of the first rank, for the formula; None without blocks."""
    usage: float
    running: int | None
    waiting: int | None
    preemptions: int | None
    work_done: float | None
    prefix_hit_tokens: float | None
    started: float | None
    """Wall-clock second at which the process began; None where several processes share the page."""


class Vllm:
    """Looks at one vLLM server."""

    kind = "vllm"
    keeps_connections = True
    hosted = False

    def __init__(self, name: str, models: Mapping[str, str], stated: StatedPool) -> None:
        self._name = name
        self._models = models
        self._stated = stated
        self._life = RestartWatch()
        self._listed_for = ""
        self._listed_at = float("-inf")
        self._version = ""
        self._calibrated_for: Told | None = None
        self.listed: tuple[ListedModel, ...] = ()
        self.calibration: Calibration | None = None

    async def read(self, fetch: Fetch, asked_at: float) -> Reading:
        """See `Engine.read`."""
        metrics = await fetch_ok(fetch, "/metrics")
        page = read_page(metrics)
        generation = self._life.observe(f"{page.started}/{page.pool.blocks}", page.work_done)
        is_new = generation != self._listed_for
        if is_new or asked_at - self._listed_at >= LISTING_MAX_AGE_S:
            await self._identify(fetch, asked_at, generation)
        calibration = await self._calibrate(page.told)
        pool = pool_of(page.pool, self._stated, None if calibration is None else calibration.layout)
        return Reading(
            backend=self._name,
            asked_at=asked_at,
            models=public_names(self._models, self.listed),
            generation=generation,
            capacity=pool.limited(longest_context(self.listed)).capacity,
            used_blocks=pool.used_blocks(page.usage),
            running=page.running,
            waiting=page.waiting,
            preemptions=page.preemptions,
            work_done=page.work_done,
            engine_version=self._version,
            prefix_hit_tokens=page.prefix_hit_tokens,
            answer_lengths=self._answer_lengths(metrics) if is_new else (),
        )

    def _answer_lengths(self, metrics: bytes) -> tuple[tuple[str, LengthHistogram], ...]:
        return length_histograms(samples_of(metrics, frozenset({LENGTHS})), LENGTHS, RANK, self._models)

    async def _identify(self, fetch: Fetch, asked_at: float, generation: str) -> None:
        self.listed = listing_of(await fetch_ok(fetch, "/v1/models"))
        if generation != self._listed_for:
            self._version = await _version(fetch)
        self._listed_for, self._listed_at = generation, asked_at

    async def _calibrate(self, told: Told | None) -> Calibration | None:
        """Choose the layout anew when anything it follows from has changed: in a thread, as it takes milliseconds."""
        stated = self._stated
        if told is None:
            if stated.block_size is None:
                return None
            told = Told(stated.block_size)
        names = dict.fromkeys(name for model in self.listed[:NAMED_MAX] for name in (model.id, model.root) if name)
        told = replace(
            told,
            block_tokens=stated.block_size or told.block_tokens,
            context_tokens=longest_context(self.listed) or told.context_tokens,
            version=self._version,
            names=tuple(names),
        )
        if self.calibration is None or told != self._calibrated_for:
            sized = stated.block_size is not None or stated.capacity_tokens is not None
            self.calibration = await asyncio.to_thread(calibrate, told, stated.model, from_catalogue=not sized)
            self._calibrated_for = told
        return self.calibration


async def _version(fetch: Fetch) -> str:
    status, body = await fetch("/version")
    if status == OK:
        with suppress(TelemetryError):  # Only shown to people.
            return decoded(body, _Version, "/version").version[:64]
    return ""


def read_page(page: bytes) -> VllmPage:
    """The numbers of a metrics page, checked.

    Raises:
        TelemetryError: malformed, without the usage gauge, or with values that cannot be.
    """
    samples = samples_of(page, WANTED)
    configs = _configs(samples)
    pool, blocks_by_rank = _pool(configs)
    work = [n for n in (total(samples, PROMPT, RANK), total(samples, OUTPUT, RANK)) if n is not None]
    return VllmPage(
        pool=pool,
        told=next((config.told for config in configs.values()), None),
        usage=_usage(samples, blocks_by_rank),
        running=whole(total(samples, RUNNING, RANK)),
        waiting=whole(total(samples, WAITING, RANK)),
        preemptions=whole(total(samples, PREEMPTIONS, RANK)),
        work_done=sum(work) if work else None,
        prefix_hit_tokens=total(samples, PREFIX_HITS, RANK),
        started=max((value for _, value in samples.get(STARTED, ())), default=None),
    )


def _usage(samples: Samples, blocks_by_rank: dict[str, int]) -> float:
    """Share of all ranks' blocks in use; that of the fullest rank where sizes are not known rank by rank."""
    shares = rank_values(samples, USAGE, RANK) or rank_values(samples, USAGE_OLD, RANK)
    if not shares:
        raise TelemetryError(Fault.MISSING_METRIC, f"/metrics has no {USAGE.decode()}")
    fullest = max(shares.values())
    if fullest > USAGE_MAX:
        raise TelemetryError(Fault.PARSE, f"KV usage of {fullest:g} is no fraction")
    if shares.keys() != blocks_by_rank.keys():
        return fullest
    return sum(share * blocks_by_rank[rank] for rank, share in shares.items()) / sum(blocks_by_rank.values())


@dataclass(frozen=True, slots=True)
class _Config:
    """Labels of one rank's `cache_config_info`."""

    blocks: int
    block_tokens: int
    tokens: int
    """As the engine prints it, null block included."""
    longest_at_once: float
    """Sequences of the longest length that fit at once; 0 where it does not say."""
    states_tokens: bool
    kv_dtype: str
    prefix_caching: bool

    @property
    def is_uniform(self) -> bool:
        """Whether one group of layers has all blocks, so that blocks times block size is the truth.

        The engine derives its tokens from the blocks that a sequence of the longest length takes. Both of its figures
        together give that length and those blocks: a uniform pool takes no more than the length needs.
        """
        if self.tokens == self.blocks * self.block_tokens:
            return True
        if not self.longest_at_once:
            return False
        length = self.tokens / self.longest_at_once
        return math.ceil(length / self.block_tokens - 1e-6) == round(self.blocks / self.longest_at_once)

    @property
    def usable_tokens(self) -> int:
        """Tokens without the null block's part."""
        if self.is_uniform:
            return (self.blocks - 1) * self.block_tokens
        return self.tokens * (self.blocks - 1) // self.blocks

    @property
    def told(self) -> Told:
        """The part that a formula can be held against."""
        return Told(
            block_tokens=self.block_tokens,
            blocks=self.blocks,
            tokens=self.tokens if self.states_tokens else None,
            uniform=self.is_uniform,
            context_tokens=round(self.tokens / self.longest_at_once) if self.longest_at_once else None,
            kv_dtype=self.kv_dtype,
            prefix_caching=self.prefix_caching,
        )


def _config(labels: dict[str, str]) -> _Config | None:
    blocks, block_tokens = positive(labels.get("num_gpu_blocks")), positive(labels.get("block_size"))
    if blocks is None or blocks < 2 or block_tokens is None:
        return None
    tokens = positive(labels.get("kv_cache_size_tokens"))
    return _Config(
        blocks=blocks,
        block_tokens=block_tokens,
        tokens=tokens or blocks * block_tokens,
        longest_at_once=fraction(labels.get("kv_cache_max_concurrency")),
        states_tokens=tokens is not None,
        kv_dtype=labels.get("cache_dtype", "auto"),
        prefix_caching=labels.get("enable_prefix_caching") != "False",
    )


def _configs(samples: Samples) -> dict[str, _Config]:
    """Rank by rank; nothing where one of them does not say."""
    configs = {labels.get(RANK, ""): _config(labels) for labels, _ in samples.get(CONFIG, ())}
    ranks = {rank: config for rank, config in configs.items() if config is not None}
    return ranks if len(ranks) == len(configs) else {}


def _pool(ranks: dict[str, _Config]) -> tuple[EnginePool, dict[str, int]]:
    """The pool of all ranks, and usable blocks rank by rank."""
    if not ranks:
        return EnginePool(), {}
    said = EnginePool(
        blocks=sum(config.blocks - 1 for config in ranks.values()),
        block_tokens=max(config.block_tokens for config in ranks.values()),
        tokens=sum(config.usable_tokens for config in ranks.values()),
        ranks=len(ranks),
    )
    return said, {rank: config.blocks - 1 for rank, config in ranks.items()}
