"""What differs between engines and their versions: budgets, defaults, and what the numbers they print mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from estimator.errors import EstimatorError

EngineName = Literal["vllm", "sglang", "llama.cpp", "tensorrt-llm", "lmdeploy"]
Version = tuple[int, ...]
_CHUNKED_BEYOND_TOKENS = 32_768
NEWEST_VLLM: Version = (0, 32, 0)
"""What is assumed where nothing is said."""
_ENGINES: tuple[EngineName, ...] = ("vllm", "sglang", "llama.cpp", "tensorrt-llm", "lmdeploy")
_NUMBER = re.compile(r"(?<![\d.])v?(\d+)\.(\d+)(?:\.(\d+))?")
_MONTH = re.compile(r"(20\d\d)-(\d\d)")
_RELEASES: tuple[tuple[int, Version], ...] = (
    # Months since 2023-01 at which a vLLM version was current.
    (5, (0, 1)), (11, (0, 2)), (15, (0, 4)), (18, (0, 5)), (21, (0, 6)), (25, (0, 7)), (27, (0, 8)), (29, (0, 9)),
    (31, (0, 10)), (33, (0, 11)), (35, (0, 12)), (36, (0, 14)), (38, (0, 17)), (39, (0, 19)), (40, (0, 20)),
    (41, (0, 22)), (43, (0, 25)), (45, (0, 29)), (46, (0, 32)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine in one version."""

    name: EngineName
    version: Version
    v1: bool = True
    """vLLM's second architecture; the default from 0.8 on."""
    dated: bool = False
    """Whether the version was guessed from a date or from nothing."""

    @property
    def utilization(self) -> float:
        """Share of a GPU's memory that it takes where nothing is said."""
        if self.name == "vllm":
            return 0.92 if self.version >= (0, 22) else 0.9
        return 0.9 if self.name == "tensorrt-llm" else 0.88

    @property
    def load_bytes(self) -> float:
        """What it counts as weights beyond them: SGLang states the drop in free memory, library handles included."""
        return 0.12 * 2**30 if self.name == "sglang" else 0.0

    @property
    def groups_layers(self) -> bool:
        """Whether layers of different kinds are managed in groups (vLLM's hybrid manager)."""
        return self.name != "vllm" or (self.v1 and self.version >= (0, 9))

    @property
    def prints(self) -> Literal["blocks", "groups", "context"]:
        """What "KV cache size" in tokens means.

        "blocks": blocks times their length. "groups": the same, of one group's share. "context": concurrency at the
        longest context times that context.
        """
        if self.name != "vllm" or self.version < (0, 9) or not self.v1:
            return "blocks"
        return "groups" if self.version < (0, 20) else "context"

    @property
    def batches_in_flight(self) -> int:
        """Batches that windows keep room for: two where scheduling runs ahead of the GPU."""
        return 1 if self.version < (0, 19) else 2

    @property
    def budgets_graphs(self) -> bool:
        """Whether CUDA graphs come out of the budget before the KV cache does."""
        return self.name == "vllm" and self.version >= (0, 21)

    @property
    def checkpoint_block(self) -> bool:
        """Whether Mamba 2 has a further block beside its state and its spare."""
        return self.name == "vllm" and self.version >= (0, 32)


def engine(name: str, version: str | None = None) -> Engine:
    """Read a version as logs and packages write it, such as "0.8.3 (V1)", "0.11.0rc2.dev98" or "2025-07".

    Raises:
        EstimatorError: for an engine that is not known.
    """
    known: EngineName | None = next((each for each in _ENGINES if each == name.lower()), None)
    if known is None:
        raise EstimatorError(f"Engine {name!r} is not known: use one of {', '.join(_ENGINES)}.")
    text = version or ""
    number, dated = _number(text), False
    if number is None:
        number, dated = _by_month(text), True
    v1 = known == "vllm" and "(V0)" not in text and (number >= (0, 8) or "(V1)" in text)
    return Engine(known, number, v1, dated)


def _number(text: str) -> Version | None:
    match = _NUMBER.search(_MONTH.sub("", text))
    if match is None:
        return None
    found = int(match.group(1)), int(match.group(2)), int(match.group(3) or "0")
    return None if found == (0, 1, 0) and "dev" in text else found  # a build without a version of its own


def _by_month(text: str) -> Version:
    match = _MONTH.search(text)
    if match is None:
        return NEWEST_VLLM
    month = (int(match.group(1)) - 2023) * 12 + int(match.group(2)) - 1
    return max((version for since, version in _RELEASES if since <= month), default=(0, 1))


@dataclass(frozen=True, slots=True)
class Batch:
    """How much an engine works on at once."""

    tokens: int
    sequences: int


def default_batch(of: Engine, memory_gib: float, *, a100: bool, context_tokens: int, multimodal: bool = False) -> Batch:
    """What an engine's server takes where nothing is said: more on large GPUs.

    Args:
        of: the engine.
        memory_gib: of one GPU.
        a100: vLLM gives an A100 the values of a small GPU, whatever its memory.
        context_tokens: the longest sequence; vLLM's first architecture reads prompts up to 32k in one go.
        multimodal: it reads longer ones in one go as well if they may hold images.
    """
    if of.name != "vllm":
        return Batch(8192, 256)
    if not of.v1:
        chunked = context_tokens > _CHUNKED_BEYOND_TOKENS and not multimodal
        return Batch(512 if chunked else max(2048, context_tokens), 256)
    if memory_gib >= 160 and of.version >= (0, 32):
        return Batch(16_384, 1024)
    if memory_gib >= 70 and not a100:
        return Batch(8192, 1024 if of.version >= (0, 9) else 256)
    return Batch(2048, 256)
