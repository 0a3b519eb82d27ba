"""KV pools as engines report them, from their own terms and from nothing but a configuration."""

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError, load_model
from estimator.capacity import Measured, Setup, capacity, default_block, layout_of, pool_of
from estimator.engine import Batch, engine
from estimator.hardware import find_gpu
from estimator.quantization import named_quantization

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "version", "setup", "kv_gib", "tokens", "concurrency"),
    [
        ("google/gemma-3-27b-it", "0.11.0", {"context_tokens": 4096}, 109.86, 205_696, 50.05),
        (
            "Qwen/Qwen3.5-9B",
            "0.19.0",
            {"context_tokens": 262_144, "prefix_caching": False, "block_tokens": 528},
            20.27,
            165_792,
            2.52,
        ),
        (
            "nvidia/Qwen3.6-35B-A3B-NVFP4",
            "0.24.0",
            {"context_tokens": 131_072, "kv_dtype": "fp8"},
            6.01,
            569_878,
            4.35,
        ),
        ("meta-llama/Meta-Llama-3.1-70B", "0.6.4", {"context_tokens": 131_072, "tp": 8}, 107.35, 2_814_144, 21.47),
        ("intfloat/e5-mistral-7b-instruct", "0.9.1", {"context_tokens": 1024}, 66.87, 547_776, 526.71),
        ("deepseek-ai/DeepSeek-R1", "0.11.1", {"context_tokens": 8192, "tp": 8}, 41.6, 635_648, 77.59),
    ],
)
def test_tokens_are_what_logs_print_for_their_pool(
    name: str, version: str, setup: dict[str, int], kv_gib: float, tokens: int, concurrency: float
) -> None:
    """To the block where groups make blocks large; to the two decimals of the log else."""
    model = load_model(name)
    how = Setup(engine("vllm", version), batch=Batch(8192, 256), **setup)  # type: ignore[arg-type]
    layout = layout_of(model, how, Batch(8192, 256))
    pool = pool_of(how, layout, int(kv_gib * GIB), setup["context_tokens"])
    assert pool.tokens == pytest.approx(tokens, rel=0.0005)
    assert pool.concurrency == pytest.approx(concurrency, rel=0.003)


def test_measured_terms_leave_what_the_log_leaves() -> None:
    """The budget is an identity: 0.9 times 79.18 GiB less 14.99, 4.76 and 0.13 is 51.38."""
    terms = Measured(weights=14.99 * GIB, activations=4.76 * GIB, non_torch=0.13 * GIB, total=79.18 * GIB)
    found = capacity(load_model("llama-3.1-8b"), None, Setup(engine("vllm", "0.11.1"), utilization=0.9), terms)
    assert found.kv_pool.likely / GIB == pytest.approx(51.38, abs=0.01)
    assert found.kv_pool.measured
    assert found.fits


@pytest.mark.parametrize(
    ("name", "gpu", "setup", "quantization", "gib"),
    [
        ("llama-3.1-8b", "H100 80GB", {"utilization": 0.9}, None, 51.38),
        ("Qwen/Qwen3-32B", "H100 80GB", {"utilization": 0.9, "tp": 2}, None, 34.49),
        ("openai/gpt-oss-20b", "H100 80GB", {"utilization": 0.9}, None, 50.28),
        ("llama-3.1-70b", "H100 80GB", {"utilization": 0.9, "tp": 2}, "fp8", 32.0),
    ],
)
def test_a_configuration_alone_gives_the_pool_within_three_percent(
    name: str, gpu: str, setup: dict[str, float], quantization: str | None, gib: float
) -> None:
    """And bounds that hold it."""
    how = None if quantization is None else named_quantization(quantization)
    wanted = Setup(engine("vllm", "0.11.1"), quantization=how, **setup)  # type: ignore[arg-type]
    found = capacity(load_model(name), find_gpu(gpu), wanted)
    assert found.kv_pool.likely / GIB == pytest.approx(gib, rel=0.03)
    assert found.kv_pool.low / GIB <= gib <= found.kv_pool.high / GIB


def test_a_stated_pool_is_believed() -> None:
    """Nothing is predicted that is known."""
    found = capacity(
        load_model("llama-3.1-8b"), find_gpu("H100"), Setup(engine("vllm", "0.11.1")), Measured(kv_pool=10 * GIB)
    )
    assert found.kv_pool.likely == 10 * GIB
    assert found.pool.blocks == 10 * GIB // (16 * 131_072)


def test_a_model_that_is_too_large_does_not_fit() -> None:
    """405B at 16 bits on eight H100: nothing is left."""
    found = capacity(load_model("llama-3.1-405b"), find_gpu("H100"), Setup(engine("vllm"), tp=8))
    assert found.kv_pool.likely < 0
    assert not found.fits
    assert (found.pool.blocks, found.pool.tokens) == (0, 0)


@given(st.floats(0.3, 0.98), st.floats(0.3, 0.98))
@settings(deadline=None)
def test_a_larger_share_never_leaves_less(a: float, b: float) -> None:
    """Monotone in the share of memory."""
    model, gpu = load_model("Qwen/Qwen3-8B"), find_gpu("H100")
    low, high = (capacity(model, gpu, Setup(engine("vllm"), utilization=share)).pool.blocks for share in sorted((a, b)))
    assert low <= high


def test_engines_share_memory_in_their_own_ways() -> None:
    """SGLang's share covers weights and cache; TensorRT-LLM's is of what is free after loading."""
    model, gpu = load_model("llama-3.1-8b"), find_gpu("H200")
    sglang = capacity(model, gpu, Setup(engine("sglang"), utilization=0.8718))
    assert sglang.kv_pool.likely / GIB == pytest.approx(106.36, rel=0.005)
    trt = capacity(model, gpu, Setup(engine("tensorrt-llm")))
    used = trt.weights + trt.overhead.budgeted.likely
    assert trt.kv_pool.likely == pytest.approx(0.9 * (gpu.memory_bytes - used))
    assert default_block(model, engine("sglang")) == 1
    assert default_block(model, engine("lmdeploy")) == 64
    assert default_block(load_model("deepseek-ai/DeepSeek-R1"), engine("vllm")) == 64


def test_shared_memory_has_a_wider_lower_bound() -> None:
    """What the rest of the system holds is not known."""
    model = load_model("llama-3.1-8b")
    spark, h200 = (capacity(model, find_gpu(name), Setup(engine("vllm"))).kv_pool for name in ("GB10", "H200"))
    assert spark.likely - spark.low > h200.likely - h200.low


def test_without_a_gpu_nothing_can_be_said() -> None:
    """Unless its memory was measured."""
    with pytest.raises(EstimatorError, match=r"memory of the GPU for .* is not known"):
        capacity(load_model("llama-3.1-8b"), None, Setup(engine("vllm")))


def test_a_model_that_keeps_nothing_has_no_pool() -> None:
    """An encoder."""
    found = capacity(load_model("BAAI/bge-m3"), find_gpu("L4"), Setup(engine("vllm")))
    assert (found.pool.blocks, found.pool.tokens) == (0, 0)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [("BAAI/bge-m3", 98_304), ("zai-org/GLM-5", 78 * (1152 + 132)), ("llama-3.1-8b", 131_072)],
)
def test_sglang_has_one_pool_of_tokens(name: str, bytes_per_token: int) -> None:
    """Also for an encoder, which needs none, and with an index."""
    setup = Setup(engine("sglang"))
    assert layout_of(load_model(name), setup, Batch(8192, 256)).bytes_per_token == bytes_per_token


def test_sglang_gives_windows_less_room_and_states_their_share() -> None:
    """MiMo V2: 375,360 tokens for full layers, 300,288 for windows, which are 0.8 of them."""
    model = load_model("XiaomiMiMo/MiMo-V2-Flash")
    full, window = (a.layers * a.kv_heads * (a.key_dim + a.value_dim) * 2 for a in model.attentions)
    layout = layout_of(model, Setup(engine("sglang")), Batch(8192, 256))
    assert layout.bytes_per_token == pytest.approx(full + 0.8 * window, abs=1)
    hybrid = load_model("Qwen/Qwen3-Next-80B-A3B-Instruct")
    found = capacity(hybrid, find_gpu("H200"), Setup(engine("sglang"), tp=2, draft_layers=1))
    assert 0 < found.kv_pool.likely < 0.6 * (found.budget - found.weights)
