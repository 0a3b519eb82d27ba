"""The simulated engine's `/metrics`: names, labels and meanings of vLLM 0.32, and ways to get them wrong on purpose."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.simulation.live import Histogram, LiveEngine

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")
CURRENT_USAGE, OLD_USAGE = "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"


class MetricsFault(enum.Enum):
    """How `/metrics` can mislead."""

    NONE = "none"
    FROZEN = "frozen"
    """Says forever what it said when the fault began."""
    NAN = "nan"
    """Load and usage are not numbers."""
    OLD_NAMES = "old_names"
    """The usage gauge has the name it had before it was renamed."""
    GARBAGE = "garbage"
    """200, and no metrics."""
    ERROR = "error"
    """500."""


class Exposition(Collector):
    """Renders one engine's metrics."""

    def __init__(self, live: LiveEngine, *, model: str, started_unix_s: float) -> None:
        self.fault = MetricsFault.NONE
        self.reported_usage: float | None = None
        """Fault: the usage that is claimed instead of the true one."""
        self._live = live
        self._labels = {"engine": "0", "model_name": model}
        self._started_unix_s = started_unix_s
        self._last = b""

    def render(self) -> bytes:
        """The page as text, with the fault that is set."""
        if self.fault is MetricsFault.FROZEN and self._last:
            return self._last
        if self.fault is MetricsFault.GARBAGE:
            return b"<html>\x00 vllm:kv_cache_usage_perc{ nonsense"
        page = generate_latest(self)
        if self.fault is MetricsFault.OLD_NAMES:
            page = page.replace(CURRENT_USAGE.encode(), OLD_USAGE.encode())
        self._last = page
        return page

    def collect(self) -> Iterator[Metric]:
        """All families, in vLLM's order."""
        yield _gauge(
            "process_start_time_seconds", "Start time of the engine since unix epoch.", self._started_unix_s, {}
        )
        yield from self._load()
        yield from self._counters()
        ended = self._live.ended
        yield self._histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", ended.prompt_tokens)
        yield self._histogram("vllm:request_generation_tokens", "Generation tokens processed.", ended.output_tokens)
        yield self._histogram("vllm:request_num_preemptions", "Preemptions per request.", ended.preemptions)
        yield _gauge("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", 1, self._cache_config())

    def _load(self) -> Iterator[Metric]:
        engine = self._live.engine
        usage = engine.used_blocks / engine.config.blocks if self.reported_usage is None else self.reported_usage
        running, waiting = float(engine.running), float(engine.waiting)
        if self.fault is MetricsFault.NAN:
            usage = running = waiting = math.nan
        yield _gauge(
            "vllm:num_requests_running", "Number of requests in model execution batches.", running, self._labels
        )
        yield _gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", waiting, self._labels)
        by_reason = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "Waiting requests by reason.", labels=[*self._labels, "reason"]
        )
        by_reason.add_metric([*self._labels.values(), "capacity"], waiting)
        by_reason.add_metric([*self._labels.values(), "deferred"], 0)
        yield by_reason
        yield _gauge(CURRENT_USAGE, "KV-cache usage. 1 means 100 percent usage.", usage, self._labels)

    def _counters(self) -> Iterator[Metric]:
        engine = self._live.engine
        yield self._counter("vllm:prefix_cache_queries", "Prefix cache queries, in tokens.", 0)
        yield self._counter("vllm:prefix_cache_hits", "Prefix cache hits, in tokens.", 0)
        yield self._counter("vllm:num_preemptions", "Cumulative number of preemptions.", engine.preemptions)
        yield self._counter("vllm:prompt_tokens", "Number of prefill tokens processed.", engine.prompt_tokens)
        yield self._counter("vllm:generation_tokens", "Generation tokens processed.", engine.generated_tokens)
        success = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=[*self._labels, "finished_reason"],
        )
        for reason in FINISHED_REASONS:
            success.add_metric([*self._labels.values(), reason], self._live.ended.by_reason[reason])
        yield success

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(name, text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), list(_cumulative(histogram)), histogram.total)
        return family

    def _cache_config(self) -> dict[str, str]:
        """The labels that tell the pool's size. All of them count vLLM's null block, which no request ever gets."""
        config = self._live.engine.config
        num_gpu_blocks = config.blocks + 1
        concurrency = num_gpu_blocks / -(-config.sequence_tokens_max // config.block_tokens)
        return {
            "block_size": str(config.block_tokens),
            "cache_dtype": "auto",
            "enable_prefix_caching": "False",
            "engine": "0",
            "kv_cache_max_concurrency": str(concurrency),
            "kv_cache_size_tokens": str(int(concurrency * config.sequence_tokens_max)),
            "num_cpu_blocks": "None",
            "num_gpu_blocks": str(num_gpu_blocks),
            "num_gpu_blocks_override": "None",
        }


def _gauge(name: str, text: str, value: float, labels: dict[str, str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _cumulative(histogram: Histogram) -> Iterable[tuple[str, float]]:
    count = 0
    for bound, more in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        count += more
        yield ("+Inf" if bound == math.inf else str(float(bound))), count
