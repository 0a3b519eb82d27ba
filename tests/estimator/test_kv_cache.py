"""KV in blocks: truth by vLLM itself, and what holds for any layout."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError, KvGroup, KvLayout, kv_cost, kv_layout, load_model
from estimator.kv_cache import UNBOUNDED_TOKENS

TRUTH_FILE = Path(__file__).parent / "data/kv_truth_vllm.jsonl"
TRUTH = [json.loads(line) for line in TRUTH_FILE.read_text().splitlines()]
MODELS = ["llama-3.1-8b", "gpt-oss-20b", "gemma-3-27b-it", "deepseek-v3.2", "llama-4-scout-17b-16e-instruct"]
TOKENS = st.integers(0, 200_000)


@st.composite
def layouts(draw: st.DrawFn) -> KvLayout:
    """One to four groups of any kind."""
    kinds = st.sampled_from(["full", "sliding", "chunked", "state"])
    groups = []
    for kind in draw(st.lists(kinds, min_size=1, max_size=4)):
        window = draw(st.integers(1, 5000)) if kind in {"sliding", "chunked"} else 0
        groups.append(KvGroup(kind, draw(st.integers(1, 9)), draw(st.integers(1, 64)), 4096, window))
    return KvLayout(tuple(groups))


@pytest.mark.parametrize("row", TRUTH, ids=[row["model"] for row in TRUTH])
def test_pools_are_cut_as_vllm_cuts_them(row: dict[str, Any]) -> None:
    """Bytes per block, blocks in the pool, groups and their block sizes equal what vLLM answers for the same model."""
    layout = kv_layout(load_model(row["model"]), block_tokens=row["block_size"], tp=row["tp"])
    assert {group.bytes_per_block for group in layout.groups} == {row["pool_bytes_per_block"]}
    assert row["bytes"] // layout.groups[0].bytes_per_block == row["num_blocks"]
    assert sorted(group.block_tokens for group in layout.groups) == sorted(group[2] for group in row["groups"])


@pytest.mark.parametrize("row", TRUTH, ids=[row["model"] for row in TRUTH])
def test_a_longest_sequence_holds_what_vllm_plans_for_it(row: dict[str, Any]) -> None:
    """Equal but for sliding windows, for which vLLM plans one block more than a sequence of that length can fill."""
    layout = kv_layout(load_model(row["model"]), block_tokens=row["block_size"])
    sliding = sum(group.kind == "sliding" for group in layout.groups)
    assert layout.blocks(row["max_model_len"]) == sum(row["blocks_per_max_len_request"]) - sliding


@given(layouts(), TOKENS, TOKENS)
@settings(deadline=None)
def test_more_tokens_never_need_less(layout: KvLayout, a: int, b: int) -> None:
    """Blocks and bytes are whole and grow with the length."""
    low, high = sorted((a, b))
    assert 0 <= layout.blocks(low) <= layout.blocks(high)
    assert layout.bytes(low) <= layout.bytes(high)
    assert layout.bytes(high) == 4096 * layout.blocks(high)


@given(layouts(), st.integers(0, 20_000))
@settings(deadline=None)
def test_tokens_in_is_the_longest_that_fits(layout: KvLayout, blocks: int) -> None:
    """One token more would not fit."""
    tokens = layout.tokens_in(blocks)
    assert layout.blocks(tokens) <= blocks
    assert tokens == UNBOUNDED_TOKENS or layout.blocks(tokens + 1) > blocks


@given(st.integers(1, 256), TOKENS)
def test_a_uniform_layout_counts_blocks_only(block_tokens: int, tokens: int) -> None:
    """An engine of which only the block size is known: whole blocks, no bytes."""
    layout = KvLayout.uniform(block_tokens)
    assert layout.blocks(tokens) == -(-tokens // block_tokens)
    assert layout.tokens_in(7) == 7 * block_tokens
    assert layout.tokens_in(-1) == 0
    assert (layout.block_tokens, layout.bytes_per_token, layout.bytes(tokens)) == (block_tokens, 0, 0)


def test_windows_end_the_growth() -> None:
    """A sliding window may straddle one block more than it fills, a chunk not; states are constant."""
    assert KvGroup("sliding", 1, 16, 1, window=160).blocks(10**6) == 11
    assert KvGroup("chunked", 1, 16, 1, window=160).blocks(10**6) == 10
    assert KvGroup("full", 1, 16, 1).blocks_max == UNBOUNDED_TOKENS
    state = KvGroup("state", 1, 16, 1, state_blocks=3)
    assert (state.blocks(0), state.blocks(1), state.blocks(10**6), state.blocks_max) == (0, 3, 3, 3)
    assert not state.grows


def test_a_block_of_a_hybrid_stands_for_the_tokens_of_its_growing_groups() -> None:
    """Gemma 4 has one full group with blocks of 32; two full groups of 16 would share 8 tokens a block."""
    assert kv_layout(load_model("google/gemma-4-26B-A4B")).block_tokens == 32
    full = KvGroup("full", 4, 16, 1)
    assert KvLayout((full, full)).block_tokens == 8
    window = KvGroup("sliding", 1, 16, 1, window=64)
    assert KvLayout((window,)).block_tokens == 16
    assert KvLayout((window,)).tokens_in(5) == UNBOUNDED_TOKENS
    assert KvLayout((window,)).tokens_in(4) == 64


@pytest.mark.parametrize("name", MODELS)
@given(prompt=st.integers(0, 60_000), extra=st.integers(0, 60_000), n=st.integers(1, 8))
@settings(deadline=None, max_examples=25)
def test_a_request_is_priced_in_whole_blocks_per_sequence(name: str, prompt: int, extra: int, n: int) -> None:
    """`n` multiplies; sharing the prompt's whole blocks saves at most the other sequences' copies of it."""
    model = load_model(name)
    one, many = kv_cost(model, prompt, extra), kv_cost(model, prompt, extra, n=n)
    assert many.blocks == n * one.blocks
    assert many.bytes == n * one.bytes == one.bytes_per_gpu * n
    assert one.blocks == one.blocks_if_shared
    assert one.blocks <= many.blocks_if_shared <= many.blocks
    assert one.layout.bytes(one.tokens) == one.bytes


@pytest.mark.parametrize("name", MODELS)
def test_tensor_parallelism_splits_heads_until_they_run_out(name: str) -> None:
    """Per GPU it never grows; in all it is constant while KV heads are split, then copies add up."""
    model = load_model(name)
    heads = min(attention.kv_heads for attention in model.attentions)
    whole = kv_cost(model, 5000, 500).bytes
    previous = whole
    for tp in (1, 2, 4, 8):
        cost = kv_cost(model, 5000, 500, tp=tp)
        assert cost.bytes_per_gpu <= previous
        assert cost.bytes == whole * max(1, tp // heads)
        previous = cost.bytes_per_gpu


def test_the_last_generated_token_is_never_written() -> None:
    """1,024 + 1 tokens still fit 64 blocks of 16."""
    model = load_model("llama-3.1-8b")
    assert kv_cost(model, 1024, 1).blocks == 64
    assert kv_cost(model, 1024, 2).blocks == 65
    assert kv_cost(model, 0, 0).blocks == 0


def test_kv_dtypes_cost_what_logs_show() -> None:
    """8-bit KV is half; a sparse MLA's has a format of 656 bytes a layer, with the index of 132 as ever."""
    llama, glm = load_model("llama-3.1-8b"), load_model("zai-org/GLM-5.1")
    assert kv_layout(llama).bytes_per_token == 131_072
    assert kv_layout(llama, kv_dtype="fp8").bytes_per_token == 65_536
    assert kv_layout(llama, kv_dtype="float32").bytes_per_token == 262_144
    assert kv_layout(glm).bytes_per_token == 78 * (1152 + 132)
    assert kv_layout(glm, kv_dtype="fp8").bytes_per_token == 78 * (656 + 132)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt_tokens": -1}, "prompt_tokens is -1"),
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"n": 0}, "n is 0"),
        ({"tp": 0}, "tp is 0"),
        ({"tp": 3}, "tp 3 does not divide the 32 attention heads"),
        ({"block_size": 0}, "block size is 0"),
        ({"kv_dtype": "int3"}, "'int3' is not known"),
        ({"prompt_tokens": 131_072}, "exceed the context of meta-llama/Meta-Llama-3.1-8B, 131,072 tokens"),
    ],
)
def test_impossible_requests_are_errors_that_name_the_value(change: dict[str, Any], words: str) -> None:
    """Each error names the argument and its value."""
    arguments = {"prompt_tokens": 10, "max_tokens": 10} | change
    with pytest.raises(EstimatorError, match=words):
        kv_cost(load_model("llama-3.1-8b"), **arguments)


def test_tp_that_does_not_fit_the_kv_heads_is_refused() -> None:
    """phi-4 has 40 heads and 10 KV heads: four GPUs would share neither."""
    with pytest.raises(EstimatorError, match="tp 4 does not fit the 10 KV heads"):
        kv_layout(load_model("microsoft/phi-4"), tp=4)


def test_pages_without_a_common_size_are_padded() -> None:
    """Layers of 3 and of 2 KV heads: no multiple of one block is a block of the other, so the smaller is padded."""
    config = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 6, "num_key_value_heads": 3}
    config |= {"head_dim": 64, "num_global_key_value_heads": 2, "sliding_window": 8, "max_position_embeddings": 512}
    model = load_model({**config, "layer_types": ["full_attention", "sliding_attention"]})
    full, window = kv_layout(model).groups
    assert full.bytes_per_block == window.bytes_per_block == 16 * 3 * 128 * 2
    assert full.block_tokens == window.block_tokens == 16


def test_windows_with_a_sparse_index_are_refused() -> None:
    """How such pages would be grouped is not known."""
    config = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 512}
    sparse = {"use_sparse_attention": True, "sparse_attention_freq": [0, 1], "sparse_index_dim": 128}
    types = ["full_attention", "sliding_attention"]
    model = load_model({**config, "layer_types": types, "sliding_window": 8, "sparse_attention_config": sparse})
    with pytest.raises(EstimatorError, match="sparse index"):
        kv_layout(model)
