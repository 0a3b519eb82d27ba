"""Memory shared out on GPUs, and what runs in it."""

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError, load_model
from estimator.capacity import Measured, Setup
from estimator.engine import Batch, engine
from estimator.hardware import find_gpu
from estimator.placement import counts, place, splits

GIB = 2**30
VLLM = engine("vllm", "0.22")


def test_terms_and_the_rest_are_the_whole_gpu() -> None:
    """Weights, pool and what the budget counts add up to the engine's share."""
    found = place(load_model("llama-3.1-8b"), find_gpu("H100"), Setup(VLLM))
    assert sum(term.span.likely for term in found.terms()) == pytest.approx(found.capacity.budget)
    assert [term.name for term in found.terms()][:2] == ["weights", "KV pool"]
    assert not any(term.measured for term in found.terms())
    assert found.fits
    assert found.total_bytes == find_gpu("H100").memory_bytes


def test_what_an_engine_stated_is_marked() -> None:
    """Only that."""
    terms = Measured(weights=15 * GIB, kv_pool=50 * GIB, total=80 * GIB)
    found = place(load_model("llama-3.1-8b"), None, Setup(VLLM), terms)
    assert {term.name for term in found.terms() if term.measured} == {"weights", "KV pool"}
    assert found.total_bytes == 80 * GIB


def test_requests_are_whole_blocks_and_stop_at_the_limit() -> None:
    """131,072 bytes a token: 10 GiB hold 81,920 of them."""
    setup = Setup(VLLM, batch=Batch(2048, 64))
    found = place(load_model("llama-3.1-8b"), find_gpu("H100"), setup, Measured(kv_pool=10 * GIB))
    assert found.requests(1024) == 80
    assert found.requests(1025) == pytest.approx(5120 / 65)
    assert (found.running(1024), found.running(4096)) == (64, 20)
    assert found.tokens_max() == 81_920
    assert found.fits_at(81_920)
    assert not found.fits
    assert found.running(1024, 1 * GIB) == 8


def test_a_model_that_keeps_nothing_fits_by_its_weights() -> None:
    """An encoder has no pool to wait for."""
    found = place(load_model("BAAI/bge-m3"), find_gpu("L4"), Setup(VLLM))
    assert found.keeps_nothing
    assert found.fits
    assert found.tokens_max() == 0


def test_llama_cpp_allocates_slots() -> None:
    """All but a margin of the GPU; each slot its whole context, in layers by GPU."""
    model, gpu = load_model("llama-3.1-8b"), find_gpu("RTX 4090")
    one = place(model, gpu, Setup(engine("llama.cpp"), context_tokens=8192))
    assert one.capacity.budget == pytest.approx(gpu.memory_bytes - GIB)
    pool = 8 * GIB
    assert one.requests(8192, pool) == 8
    assert one.running(8192, pool) == 8
    two = place(model, gpu, Setup(engine("llama.cpp"), pp=2))
    assert two.requests(8192, pool) == 16
    with pytest.raises(EstimatorError, match=r"tp is 2: llama.cpp shares"):
        place(model, gpu, Setup(engine("llama.cpp"), tp=2))


def test_more_stages_than_layers_are_refused() -> None:
    """A stage has at least one layer."""
    with pytest.raises(EstimatorError, match=r"pp 33 is more stages than the 32 layers"):
        place(load_model("llama-3.1-8b"), find_gpu("H100"), Setup(VLLM, pp=33))


def test_splits_stay_within_nodes_and_heads() -> None:
    """Layers are shared by as many as the heads allow, up to eight."""
    model = load_model("llama-3.1-8b")
    assert [splits(model, Setup(VLLM), gpus) for gpus in (1, 2, 3, 8, 16)] == [(1, 1), (2, 1), (1, 3), (8, 1), (8, 2)]
    assert splits(model, Setup(engine("llama.cpp")), 4) == (1, 4)
    assert list(counts(model, Setup(VLLM), 16)) == [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)]
    assert list(counts(model, Setup(engine("llama.cpp")), 4)) == [(1, 1), (1, 2), (1, 4)]


@given(st.sampled_from(["llama-3.1-8b", "google/gemma-3-27b-it", "deepseek-ai/DeepSeek-R1", "Qwen/Qwen3-30B-A3B"]))
@settings(deadline=None)
def test_more_gpus_never_hold_fewer_requests(name: str) -> None:
    """Of any length, within a node."""
    model, gpu = load_model(name), find_gpu("H200")
    held = [
        place(model, gpu, Setup(VLLM, tp=tp, pp=pp, batch=Batch(2048, 256))).requests(4096)
        for tp, pp in counts(model, Setup(VLLM), 8)
    ]
    assert held == sorted(held)


@given(st.integers(1, 131_072), st.sampled_from(["fp8", "auto"]), st.sampled_from(["llama-3.1-8b", "Qwen/Qwen3-32B"]))
@settings(deadline=None)
def test_longer_requests_are_never_more(tokens: int, kv_dtype: str, name: str) -> None:
    """And 8-bit KV never holds fewer."""
    model, gpu = load_model(name), find_gpu("H100")
    found = place(model, gpu, Setup(VLLM, kv_dtype=kv_dtype))
    assert found.requests(tokens) >= found.requests(tokens + 1)
    assert place(model, gpu, Setup(VLLM, kv_dtype="fp8")).requests(tokens) >= found.requests(tokens)
