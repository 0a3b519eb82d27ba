"""Names and numbers as people type them."""

import pytest

from estimator import EstimatorError, PlanOptions, load_model
from estimator.engine import Batch, engine
from estimator.hardware import find_gpu
from estimator.plan_options import (
    check_numbers,
    read_batch,
    read_dtype,
    read_engine,
    read_gpu,
    read_quant,
    read_setup,
)
from estimator.startup_log import StartupTerms

LLAMA = load_model("llama-3.1-8b")


@pytest.mark.parametrize(
    ("said", "name"),
    [("vllm", "vllm"), ("VLLM", "vllm"), ("llamacpp", "llama.cpp"), ("trtllm", "tensorrt-llm"), ("sglang", "sglang")],
)
def test_engines(said: str, name: str) -> None:
    """As the command line calls them."""
    assert read_engine({"engine": said}, None)[0].name == name


def test_versions() -> None:
    """As said, as the log says, or the newest with a word about it."""
    assert read_engine({"engine_version": "0.11.1"}, None) == (engine("vllm", "0.11.1"), ())
    assert read_engine({"engine_version": "2025-07"}, None)[0].version == (0, 9)
    log = StartupTerms(engine="vllm", version="0.19.0")
    assert read_engine({}, log)[0].version == (0, 19, 0)
    assert "is assumed" in read_engine({}, None)[1][0]
    assert "newer than what is known" in read_engine({"engine_version": "9.0.0"}, None)[1][0]
    assert read_engine({"engine": "sglang"}, None)[1] == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "tgi"}, "Engine 'tgi' is not known: use one of vllm, sglang, llamacpp, trtllm."),
        ({"engine": "lmdeploy"}, "Engine 'lmdeploy' is not known"),
        ({"engine_version": "newest"}, "Engine version 'newest' cannot be read"),
    ],
)
def test_unknown_engines_and_versions(options: PlanOptions, words: str) -> None:
    """One sentence each."""
    with pytest.raises(EstimatorError) as error:
        read_engine(options, None)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("H10O", "did you mean H100 80GB"), ("RTX4091", "RTX 4090"), ("MI300", "MI300X"), ("zzzzzz", "it holds A10, ")],
)
def test_unknown_gpus_are_answered_with_the_nearest(name: str, hint: str) -> None:
    """Or with all."""
    with pytest.raises(EstimatorError, match="is not in the catalogue") as error:
        read_gpu(name)
    assert hint in str(error.value)


def test_known_gpus() -> None:
    """In any spelling."""
    assert read_gpu("h100-80gb") == find_gpu("H100")


@pytest.mark.parametrize(
    "options",
    [
        {"gpus": 0},
        {"tp": -1},
        {"pp": 2000},
        {"max_model_len": 0},
        {"max_num_seqs": 2**40},
        {"max_num_batched_tokens": 0},
        {"gpu_memory_utilization": 0.0},
        {"gpu_memory_utilization": 1.01},
        {"gpu_memory_utilization": float("nan")},
    ],
)
def test_numbers_out_of_range(options: PlanOptions) -> None:
    """The sentence names the field."""
    (field,) = options
    with pytest.raises(EstimatorError, match=f"^{field} is "):
        check_numbers(options)


def test_setup() -> None:
    """What is said goes before what the log states."""
    log = StartupTerms(context_tokens=4096, utilization=0.8, block_tokens=32)
    found = read_setup(LLAMA, engine("vllm"), {"max_model_len": 8192, "kv_dtype": "fp8", "enforce_eager": True}, log)
    assert (found.context_tokens, found.utilization, found.block_tokens) == (8192, 0.8, 32)
    assert (found.kv_dtype, found.graphs) == ("fp8", False)
    assert read_setup(LLAMA, engine("vllm"), {}, log).context_tokens == 4096
    with pytest.raises(EstimatorError, match=r"max_model_len is 131,073: .* reaches no further than 131,072"):
        read_setup(LLAMA, engine("vllm"), {"max_model_len": 131_073}, None)
    with pytest.raises(EstimatorError, match="KV dtype 'fp7' is not known"):
        read_setup(LLAMA, engine("vllm"), {"kv_dtype": "fp7"}, None)


def test_dtype() -> None:
    """Decides the KV cache as well."""
    assert read_dtype(LLAMA, {}) is LLAMA
    assert read_dtype(LLAMA, {"dtype": "float32"}).kv_format().element_bytes == 4
    with pytest.raises(EstimatorError, match="dtype 'fp8' is not known"):
        read_dtype(LLAMA, {"dtype": "fp8"})


def test_quantisation() -> None:
    """Methods, GGUF types, none, and the checkpoint's own."""
    assert read_quant(LLAMA, {}) is None
    none = read_quant(LLAMA, {"quant": "none"})
    assert none is not None
    assert none.bits_of("mlp") == 16
    for name, bits in (("fp8", 8), ("awq", 4.15625), ("Q8_0", 8.5)):
        found = read_quant(LLAMA, {"quant": name})
        assert found is not None
        assert found.bits_of("mlp") == bits
    wide = read_quant(LLAMA, {"dtype": "float32"})
    assert wide is not None
    assert wide.bits_of("embedding") == 32
    with pytest.raises(EstimatorError, match="Quantisation 'q7' is not known: use auto, none, a GGUF type"):
        read_quant(LLAMA, {"quant": "q7"})


def test_batch() -> None:
    """What is not said is the engine's default."""
    setup = read_setup(LLAMA, engine("vllm", "0.22"), {}, None)
    assert read_batch(LLAMA, setup, {}, 79.0, None) is None
    assert read_batch(LLAMA, setup, {"max_num_seqs": 64}, 79.0, find_gpu("H100")) == Batch(8192, 64)
    assert read_batch(LLAMA, setup, {"max_num_batched_tokens": 512}, 79.0, find_gpu("A100")) == Batch(512, 256)
    llama = read_setup(LLAMA, engine("llama.cpp"), {}, None)
    assert read_batch(LLAMA, llama, {"max_num_seqs": 4}, 23.0, None) == Batch(512, 4)
