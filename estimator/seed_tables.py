"""The tables that people know: KV cache and weights of Llama 3.1, and the rule of thumb for serving memory.

They come from "Llama 3.1 - 405B, 70B & 8B with multilinguality and long context", huggingface.co/blog/llama31, of
23 July 2024. They are computed here, not copied, and checked against the printed cells by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from estimator.architecture import Model
from estimator.kv_cache import kv_layout
from estimator.model import load_model

KV_TOKENS = {"1k": 1024, "16k": 16_000, "128k": 128_000}
"""What the table's columns mean: its "1k" is binary, its "16k" and "128k" are decimal."""
WEIGHT_BITS = {"FP16": 16, "FP8": 8, "INT4": 4}
LLAMA_BILLIONS = {"8B": 8, "70B": 70, "405B": 405}
RELEASE_KV_HEADS_405B = 16
"""KV heads of the 405B at its release; its configuration was changed to 8 later, which halves its cache."""

NOTES = (
    "KV cache is in GiB (2^30 bytes), weights in GB (10^9): the source mixes the two.",
    'In the KV table "1k" is 1,024 tokens, but "16k" and "128k" are 16,000 and 128,000.',
    "The 405B row holds for 16 KV heads, as at its release; its current configuration has 8, and needs half.",
    "Weights are nominal: billions of parameters times bits / 8.",
    "Real 4-bit checkpoints keep scales, and embeddings in 16 bits: 8B takes 43 % more, 70B 14 %, 405B 7 %.",
    "M = P * 4 B / (32 / Q) * 1.2 adds 20 % for all else: it knows neither context nor concurrency.",
)


@dataclass(frozen=True, slots=True)
class KvCell:
    """One cell of the KV table: one sequence, 16-bit, one copy over all GPUs."""

    model: str
    kv_heads: int
    column: str
    tokens: int
    gib: float


@dataclass(frozen=True, slots=True)
class WeightsCell:
    """One cell of the weights table."""

    model: str
    precision: str
    gb: float


def kv_table() -> list[KvCell]:
    """Nine cells, and the 405B row once more with the KV heads it has now."""
    rows: list[tuple[str, Model]] = []
    for size in LLAMA_BILLIONS:
        model = load_model(f"meta-llama/Meta-Llama-3.1-{size}")
        if size == "405B":
            (attention,) = model.attentions
            rows.append((size, replace(model, attentions=(replace(attention, kv_heads=RELEASE_KV_HEADS_405B),))))
        rows.append((size, model))
    return [
        KvCell(size, model.attentions[0].kv_heads, column, tokens, kv_layout(model).bytes_per_token * tokens / 2**30)
        for size, model in rows
        for column, tokens in KV_TOKENS.items()
    ]


def weights_table() -> list[WeightsCell]:
    """Nine cells."""
    return [
        WeightsCell(size, precision, billions * bits / 8)
        for size, billions in LLAMA_BILLIONS.items()
        for precision, bits in WEIGHT_BITS.items()
    ]


def rule_of_thumb_gb(billions: float, bits: int) -> float:
    """Serving memory in GB by `M = P * 4 B / (32 / Q) * 1.2`.

    Args:
        billions: P, parameters in billions.
        bits: Q, bits per weight.
    """
    return billions * 4 / (32 / bits) * 1.2
