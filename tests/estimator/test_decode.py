"""Ceilings of decoding by memory bandwidth."""

import pytest

from estimator import load_model
from estimator.capacity import Measured, Setup
from estimator.decode import decode_ceiling, expert_share, kv_read_bytes, weights_read_bytes
from estimator.engine import engine
from estimator.hardware import find_gpu
from estimator.placement import place

GIB = 2**30
VLLM = engine("vllm", "0.22")


def test_one_sequence_reads_all_weights_once() -> None:
    """8B in 16 bits, without its embedding: 15.01 GB from 3,350 GB/s is 223 a second, less what KV takes."""
    found = place(load_model("llama-3.1-8b"), find_gpu("H100"), Setup(VLLM))
    ceiling = decode_ceiling(found, 1024)
    assert ceiling is not None
    read = 2 * (8_030_261_248 - 128_256 * 4096) + 1024 * 131_072
    assert ceiling.sequence_tokens_per_s == pytest.approx(3.35e12 / read, rel=1e-6)
    assert ceiling.batch == found.running(1024)
    assert ceiling.batch_tokens_per_s > ceiling.sequence_tokens_per_s
    assert "bandwidth" in ceiling.formula
    assert "2211.05102" in ceiling.source


def test_tied_embeddings_are_read_as_the_output() -> None:
    """They are the last matrix."""
    model = load_model("Qwen/Qwen3-0.6B")
    params = sum(part.params for part in model.parts if not part.extra)
    assert weights_read_bytes(model, Setup(VLLM), 1) == 2 * params


@pytest.mark.parametrize(
    ("name", "share"),
    [("openai/gpt-oss-120b", 4 / 128), ("deepseek-ai/DeepSeek-R1", 8 / 256), ("llama-3.1-8b", 1.0)],
)
def test_experts_in_use(name: str, share: float) -> None:
    """As the model cards say."""
    assert expert_share(load_model(name)) == pytest.approx(share)


def test_larger_batches_reach_more_experts() -> None:
    """All of them in the end, never more."""
    model = load_model("Qwen/Qwen3-30B-A3B")
    read = [weights_read_bytes(model, Setup(VLLM), batch) for batch in (1, 8, 64, 10**6)]
    assert read == sorted(read)
    assert read[0] < 0.15 * read[-1]
    assert read[-1] < 2 * sum(part.params for part in model.parts)


def test_windows_are_read_as_far_as_they_span() -> None:
    """Gemma 3: ten layers see all of 100,000 tokens, 52 the last 1,024."""
    model = load_model("google/gemma-3-27b-it")
    each = 16 * 2 * 128 * 2
    assert kv_read_bytes(model, Setup(VLLM), 100_000) == each * (10 * 100_000 + 52 * 1024)


def test_stages_share_the_kv_but_work_in_turn() -> None:
    """One sequence is no faster on two stages; all together are."""
    model, gpu = load_model("llama-3.1-8b"), find_gpu("H100")
    one, two = (
        decode_ceiling(place(model, gpu, Setup(VLLM, pp=pp), Measured(kv_pool=20 * GIB)), 4096) for pp in (1, 2)
    )
    assert one is not None
    assert two is not None
    assert two.sequence_tokens_per_s == pytest.approx(one.sequence_tokens_per_s)
    assert two.batch_tokens_per_s > one.batch_tokens_per_s


def test_nothing_is_said_of_what_is_not_known() -> None:
    """No GPU, nothing to generate, or no room."""
    model = load_model("llama-3.1-8b")
    assert decode_ceiling(place(model, None, Setup(VLLM), Measured(total=80 * GIB)), 1024) is None
    assert decode_ceiling(place(load_model("BAAI/bge-m3"), find_gpu("L4"), Setup(VLLM)), 1024) is None
    assert decode_ceiling(place(load_model("llama-3.1-70b"), find_gpu("L4"), Setup(VLLM)), 1024) is None
