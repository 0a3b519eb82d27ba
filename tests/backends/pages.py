"""A stand-in for an engine's pages: what each path answers, and how often it was asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from estimator import load_model
from gateway.backends.pool import StatedPool

RECORDED = Path(__file__).parent.parent / "data" / "engines"
"""Answers of real engines; see `tests.engines.record`."""
HYBRID = load_model(
    {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "sliding_window": 64,
        "sliding_window_pattern": 2,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
        "vocab_size": 1000,
        "intermediate_size": 256,
    }
)
"""Half of its layers see a window of 64 tokens: two groups that share one pool."""
UNSTATED = StatedPool()
"""An operator who leaves everything to the engine."""
Page = bytes | tuple[int, bytes] | Exception


def recorded(name: str) -> bytes:
    """A page of a real engine."""
    return (RECORDED / name).read_bytes()


class Pages:
    """Callable as an engine driver's `fetch`; a path that was not given answers 404."""

    def __init__(self, pages: dict[str, Page]) -> None:
        self.pages = pages
        self.asked: Counter[str] = Counter()

    async def __call__(self, path: str) -> tuple[int, bytes]:
        self.asked[path] += 1
        page = self.pages.get(path, (404, b'{"detail":"Not Found"}'))
        if isinstance(page, Exception):
            raise page
        return (200, page) if isinstance(page, bytes) else page
