"""Lines as engines print them when they start."""

import pytest
from hypothesis import given, strategies as st

from estimator.startup_log import StartupTerms, read_startup_log

GIB, MIB = 2**30, 2**20


def read(text: str) -> StartupTerms:
    """Terms of a log given as text."""
    return read_startup_log(text.splitlines())


def test_vllm_of_2024() -> None:
    """One line with every term, blocks, concurrency, graphs."""
    terms = read(
        """
INFO 01-09 06:24:19 model_runner.py:1097] Loading model weights took 6.4651 GB
INFO worker.py:241] the current vLLM instance can use total_gpu_memory (21.95GiB) x gpu_memory_utilization (0.80)
INFO worker.py:241] model weights take 6.47GiB; non_torch_memory takes 0.33GiB; PyTorch activation peak memory takes \
0.74GiB; the rest of the memory reserved for KV Cache is 10.02GiB.
INFO gpu_executor.py:76] # GPU blocks: 23460, # CPU blocks: 9362
INFO gpu_executor.py:80] Maximum concurrency for 4096 tokens per request: 91.64x
INFO model_runner.py:1527] Graph capturing finished in 17 secs, took 0.42 GiB
"""
    )
    assert (terms.engine, terms.utilization, terms.kv_blocks, terms.concurrency) == ("vllm", 0.8, 23_460, 91.64)
    assert (terms.context_tokens, terms.kv_tokens) == (4096, None)
    measured = terms.measured()
    assert [round(each / GIB, 2) for each in (measured.weights or 0, measured.non_torch or 0)] == [6.47, 0.33]
    assert [round(each / GIB, 2) for each in (measured.activations or 0, measured.graphs or 0)] == [0.74, 0.42]
    assert (measured.kv_pool, measured.total) == (10.02 * GIB, 21.95 * GIB)


def test_vllm_with_several_ranks() -> None:
    """The largest weights, the smallest pool."""
    terms = read(
        """
(Worker_TP0) Model loading took 35.1633 GiB and 262.4 sec
(Worker_TP1) Model loading took 35.6458 GiB and 262.4 sec
(Worker_TP0) Available KV cache memory: 41.60 GiB
(Worker_TP1) Available KV cache memory: 41.20 GiB
GPU KV cache size: 3,331,712 tokens
GPU KV cache size: 3,307,008 tokens
Setting attention block size to 528 tokens to ensure that attention page size is >= mamba page size.
"""
    )
    assert (terms.weights, terms.kv_pool) == (35.6458 * GIB, 41.2 * GIB)
    assert (terms.kv_tokens, terms.block_tokens) == (3_307_008, 528)


def test_vllm_that_states_sums() -> None:
    """Weights and non-torch together, or weights and activations together: the difference is the other."""
    new = read(
        """
Initializing a V1 LLM engine (v0.30.1) with config
Model loading took 15.0 GiB memory and 3.1 seconds
Free memory on device (78.84/79.25 GiB) on startup. Desired GPU memory utilization is (0.92, 72.91 GiB). Actual usage \
is 15.26 GiB for consumed memory (weights + non-torch), 1.44 GiB for peak activation, and 0.23 GiB for CUDAGraph memory.
"""
    )
    assert new.version == "0.30.1"
    assert (new.total, new.utilization) == (79.25 * GIB, 0.92)
    assert (new.measured().non_torch or 0) / GIB == pytest.approx(0.26)
    old = read(
        """
Loading model weights took 16.4605 GB
Memory profiling results: total_gpu_memory=139.72GiB initial_memory_usage=19.60GiB peak_torch_memory=17.67GiB \
memory_usage_post_profile=24.21GiB non_torch_memory=7.71GiB kv_cache_size=107.35GiB gpu_memory_utilization=0.95
"""
    )
    assert (old.measured().activations or 0) / GIB == pytest.approx(1.2095)
    assert old.kv_pool == 107.35 * GIB


def test_sglang() -> None:
    """Weights as stated or as the drop in free memory; keys and values apart or together."""
    stated = read(
        """
[TP3] Load weight end. type=Qwen2ForCausalLM, dtype=torch.bfloat16, avail mem=6.09 GB, mem usage=15.54 GB.
[TP2] KV Cache is allocated. #tokens: 46611, K size: 1.42 GB, V size: 1.42 GB
[TP1] Capture cuda graph end. Time elapsed: 9.40 s. avail mem=18.57 GB. mem usage=3.38 GB.
[TP0] max_total_num_tokens=46611, chunked_prefill_size=8192, max_running_requests=2049, context_len=131072
"""
    )
    assert (stated.engine, stated.weights, stated.kv_tokens, stated.context_tokens) == (
        "sglang",
        15.54 * GIB,
        46_611,
        131_072,
    )
    assert (stated.kv_pool, stated.graphs) == (2.84 * GIB, 3.38 * GIB)
    dropped = read(
        """
[TP0] Load weight begin. avail mem=43.85 GB
[TP0] Load weight end. type=DeepseekV2ForCausalLM, dtype=torch.bfloat16, avail mem=14.34 GB
KV Cache is allocated. #tokens: 314304, KV size: 29.32 GB
"""
    )
    assert (dropped.weights or 0) / GIB == pytest.approx(29.51)
    assert dropped.kv_pool == 29.32 * GIB


def test_llama_cpp() -> None:
    """Buffers add up over devices and kinds of layers."""
    terms = read(
        """
llama_kv_cache_unified: size =   80.00 MiB (  4096 cells,   5 layers,  1 seqs), K (f16):   40.00 MiB, V (f16): 40 MiB
llama_kv_cache_unified: size =  174.00 MiB (  1536 cells,  29 layers,  1 seqs), K (f16):   87.00 MiB, V (f16): 87 MiB
llama_context: n_ctx         = 4096
RS buffer size =     0.31 MiB
Vulkan0 compute buffer size =  1042.25 MiB
CPU_Mapped model buffer size =  2368.31 MiB
"""
    )
    assert (terms.engine, terms.kv_pool, terms.kv_tokens, terms.context_tokens) == ("llama.cpp", 254 * MIB, 4096, 4096)
    assert (terms.weights, terms.activations, terms.state_pool) == (2368.31 * MIB, 1042.25 * MIB, 0.31 * MIB)
    old = read("llama_new_context_with_model: KV self size  = 2160.00 MiB, K (f16): 1296.00 MiB, V (f16):  864.00 MiB")
    assert old.kv_pool == 2160 * MIB


@given(st.text(max_size=300))
def test_other_lines_say_nothing(text: str) -> None:
    """Whatever stands there, it is no error."""
    assert read(text).kv_pool is None or "KV" in text


def test_long_lines_and_logs_are_cut() -> None:
    """A progress bar of a megabyte, and a log that never ends."""
    assert read("x" * 10**6 + "Available KV cache memory: 1.0 GiB").kv_pool is None
    endless = ("nothing" for _ in iter(int, 1))
    assert read_startup_log(endless) == StartupTerms()
