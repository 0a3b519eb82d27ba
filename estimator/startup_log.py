"""Reads the terms that an engine states when it starts: weights, overhead, pool. Lines of vLLM, SGLang and llama.cpp.

Where several ranks state a term, the rank with least room counts: the largest weights, the smallest pool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from estimator.capacity import Measured

_GIB, _MIB = 2**30, 2**20
EngineName = Literal["vllm", "sglang", "llama.cpp"]
_ENGINES: tuple[EngineName, ...] = ("vllm", "sglang", "llama.cpp")
_LINE_CHARS_MAX = 4096
_LINES_MAX = 200_000
"""A log is read up to here: start-up is over long before."""


@dataclass(frozen=True, slots=True)
class StartupTerms:
    """What a log states, in bytes per GPU; None where it does not."""

    engine: EngineName | None = None
    version: str | None = None
    total: float | None = None
    utilization: float | None = None
    weights: float | None = None
    non_torch: float | None = None
    activations: float | None = None
    peak_torch: float | None = None
    """Weights and activations together, where only their sum is stated."""
    consumed: float | None = None
    """Weights and non-torch together, where only their sum is stated."""
    graphs: float | None = None
    kv_pool: float | None = None
    state_pool: float | None = None
    """Recurrent states that are kept apart from the cache (llama.cpp)."""
    kv_tokens: int | None = None
    kv_blocks: int | None = None
    block_tokens: int | None = None
    context_tokens: int | None = None
    concurrency: float | None = None

    def measured(self) -> Measured:
        """The terms that take the place of predicted ones."""
        activations, non_torch = self.activations, self.non_torch
        if activations is None and self.peak_torch is not None and self.weights is not None:
            activations = self.peak_torch - self.weights
        if non_torch is None and self.consumed is not None and self.weights is not None:
            non_torch = self.consumed - self.weights
        return Measured(self.weights, activations, non_torch, self.graphs, self.total, self.kv_pool)


_NUMBER = r"(-?[\d,]+(?:\.\d+)?)"
How = Literal["max", "min", "last", "sum"]


@dataclass(frozen=True, slots=True)
class _Rule:
    """A term, the line that states it, what its number is in, and which of several counts."""

    engine: str
    term: str
    pattern: re.Pattern[str]
    unit: int
    how: How


def _rules(engine: str, unit: int, how: How, **lines: str) -> tuple[_Rule, ...]:
    """Patterns by term, with "<n>" for the number and "|" between whole alternatives."""
    return tuple(
        _Rule(engine, term, re.compile(pattern.replace("<n>", _NUMBER)), unit, how)
        for term, alternatives in lines.items()
        for pattern in alternatives.split(" | ")
    )


_RULES = (
    *_rules(
        "vllm",
        _GIB,
        "max",
        weights=r"(?:Loading model weights|Model loading) took:? <n> Gi?B | model weights take <n>GiB",
        non_torch=r"non_torch_memory(?: takes |=)<n> ?GiB | Non-torch memory: <n> ?GiB",
        activations=r"activation peak memory takes <n> ?GiB | Peak activation memory: <n> ?GiB"
        r" | <n> GiB for peak activation",
        consumed=r"Actual usage is <n> GiB for consumed",
        peak_torch=r"peak_torch_memory=<n>GiB",
        graphs=r"Graph capturing finished in [\d.]+ secs?, took <n> GiB | <n> GiB for CUDAGraph memory"
        r" | (?:Estimated CUDA graph|CUDAGraph) memory: <n> GiB",
    ),
    *_rules(
        "vllm",
        _GIB,
        "min",
        total=r"total_gpu_memory(?: \(|=)<n>GiB | on device[^(]*\([\d.]+/<n> GiB\)",
        kv_pool=r"reserved for KV Cache is <n> ?GiB | kv_cache_size=<n> ?GiB | Available KV cache memory: <n> ?GiB"
        r" | kv cache memory in use is <n> ?GiB",
    ),
    *_rules(
        "vllm",
        1,
        "min",
        kv_blocks=r"# (?:GPU|CUDA|cuda) blocks: <n> | num_gpu_blocks is: <n>".replace("[<n>]", "\\x23"),
        kv_tokens=r"GPU KV cache size: <n> tokens",
        concurrency=r"tokens per request: <n>x",
    ),
    *_rules(
        "vllm",
        1,
        "last",
        utilization=r"gpu_memory_utilization(?: \(|=)<n> | GPU memory utilization is \(<n>,",
        block_tokens=r"Setting attention block size to <n> tokens",
        context_tokens=r"Maximum concurrency for <n> tokens per request",
    ),
    *_rules(
        "sglang",
        _GIB,
        "max",
        weights=r"Load weight end.*mem usage=<n> GB",
        kv_pool=r"KV Cache is allocated.*KV size: <n> GB",
        graphs=r"Capture cuda graph end.*mem usage=<n> GB",
    ),
    *_rules("sglang", 1, "min", kv_tokens=r"max_total_num_tokens=<n> | KV Cache is allocated.*#tokens: <n>"),
    *_rules("sglang", 1, "last", context_tokens=r"context_len=<n>"),
    *_rules("llama.cpp", _MIB, "max", kv_pool=r"KV self size\s*=\s*<n> MiB"),
    *_rules(
        "llama.cpp",
        _MIB,
        "sum",
        kv_pool=r"llama_kv_cache\w*:\s+size\s*=\s*<n> MiB",
        state_pool=r"RS buffer size\s*=\s*<n> MiB",
        weights=r"(?:model buffer|CPU buffer) size\s*=\s*<n> MiB",
        activations=r"compute buffer size\s*=\s*<n> MiB",
    ),
    *_rules("llama.cpp", 1, "max", kv_tokens=r"\(\s*<n> cells"),
    *_rules("llama.cpp", 1, "last", context_tokens=r"n_ctx\s*=\s*<n>"),
)
_VERSION = re.compile(r"(?:vLLM API server version|Initializing a V\d LLM engine \(v?|sglang[ =]v?)\s*([\w.]+)")
_LOAD_BEGIN = re.compile(rf"Load weight begin\. avail mem={_NUMBER} GB")
_LOAD_END = re.compile(rf"Load weight end\..*avail mem={_NUMBER} GB")
_HALVES = re.compile(rf"K size: {_NUMBER} GB, V size: {_NUMBER} GB")


def read_startup_log(lines: Iterable[str]) -> StartupTerms:
    """Take every known term from a log; lines that say nothing known are passed over.

    Args:
        lines: of the log, in their order. Very long lines are cut, and reading ends after some 200,000.
    """
    found: dict[str, list[float]] = {}
    how_of: dict[str, How] = {"weights": "max", "kv_pool": "max"}
    engine: str | None = None
    version: str | None = None
    begin: float | None = None
    for number, whole in enumerate(lines):
        if number >= _LINES_MAX:
            break
        line = whole[:_LINE_CHARS_MAX]
        if match := _VERSION.search(line):
            version = match.group(1)
        if match := _LOAD_BEGIN.search(line):
            begin = _value(match.group(1)) * _GIB
        elif begin is not None and "mem usage" not in line and (match := _LOAD_END.search(line)):
            found.setdefault("weights", []).append(begin - _value(match.group(1)) * _GIB)
        if match := _HALVES.search(line):
            found.setdefault("kv_pool", []).append((_value(match.group(1)) + _value(match.group(2))) * _GIB)
            engine = engine or "sglang"
        for rule in _RULES:
            if engine in {None, rule.engine} and (match := rule.pattern.search(line)):
                found.setdefault(rule.term, []).append(_value(match.group(1)) * rule.unit)
                how_of[rule.term] = rule.how
                engine = rule.engine
    return _terms(found, how_of, engine, version)


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _terms(
    found: dict[str, list[float]], how_of: dict[str, How], engine: str | None, version: str | None
) -> StartupTerms:
    picks: dict[How, Callable[[list[float]], float]] = {
        "max": max,
        "min": min,
        "sum": sum,
        "last": lambda all_: all_[-1],
    }
    values = {term: picks[how_of[term]](each) for term, each in found.items()}
    whole = {term: int(values[term]) for term in _COUNTS if term in values}
    return StartupTerms(
        engine=next((name for name in _ENGINES if name == engine), None),
        version=version,
        total=values.get("total"),
        utilization=values.get("utilization"),
        weights=values.get("weights"),
        non_torch=values.get("non_torch"),
        activations=values.get("activations"),
        peak_torch=values.get("peak_torch"),
        consumed=values.get("consumed"),
        graphs=values.get("graphs"),
        kv_pool=values.get("kv_pool"),
        state_pool=values.get("state_pool"),
        kv_tokens=whole.get("kv_tokens"),
        kv_blocks=whole.get("kv_blocks"),
        block_tokens=whole.get("block_tokens"),
        context_tokens=whole.get("context_tokens"),
        concurrency=values.get("concurrency"),
    )


_COUNTS = ("kv_tokens", "kv_blocks", "block_tokens", "context_tokens")
