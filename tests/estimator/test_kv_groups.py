"""Layouts as vLLM itself cuts them, for an architecture of each kind, and what holds for any of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from estimator import EstimatorError, Model, kv_layout, load_model
from estimator.kv_groups import KvRules

ZOO = [json.loads(line) for line in (Path(__file__).parent / "data/kv_truth_zoo.jsonl").read_text().splitlines()]
MODELS = {entry["model"]: load_model(entry["config"]) for entry in ZOO}
POOL_BYTES = 200 * 2**30


@pytest.mark.parametrize("entry", ZOO, ids=list(MODELS))
def test_blocks_and_tokens_equal_those_of_vllm(entry: dict[str, Any]) -> None:
    """For several lengths, tensor-parallel sizes, KV dtypes, block sizes, with and without prefix cache."""
    model = MODELS[entry["model"]]
    for row in entry["rows"]:
        layout = kv_layout(
            model,
            block_tokens=row["block_size"],
            kv_dtype=row["kv_dtype"],
            tp=row["tp"],
            tokens_in_flight=2 * row.get("max_num_batched_tokens", 8192),
            rules=KvRules(prefix_caching=row.get("enable_prefix_caching", True)),
        )
        blocks = POOL_BYTES // layout.bytes_per_block
        tokens = int(blocks / layout.planned(row["max_model_len"]) * row["max_model_len"])
        assert (blocks, tokens) == (row["num_blocks"], row["kv_cache_size_tokens"]), row


def test_the_zoo_has_every_kind_of_layer() -> None:
    """Full, latent, sliding, chunked, and states of several makes."""
    kinds = {attention.kind for model in MODELS.values() for attention in model.attentions}
    states = {state.kind for model in MODELS.values() for state in model.states}
    assert kinds >= {"full", "sliding", "chunked"}
    assert states >= {"mamba1", "mamba2", "delta"}
    assert any(model.mla for model in MODELS.values())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@given(a=st.integers(0, 200_000), b=st.integers(0, 200_000), tp=st.sampled_from([1, 2, 4]))
@settings(max_examples=10, deadline=None)
def test_more_tokens_never_need_less(model: Model, a: int, b: int, tp: int) -> None:
    """And every block is the same number of bytes."""
    layout = kv_layout(model, tp=tp)
    low, high = sorted((a, b))
    assert layout.blocks(low) <= layout.blocks(high)
    assert layout.bytes(high) == layout.blocks(high) * layout.bytes_per_block


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_more_gpus_never_need_more_each(model: Model) -> None:
    """Blocks of one GPU shrink with tensor parallelism and with pipeline stages."""
    sizes = [kv_layout(model, tp=tp).bytes(5000) for tp in (1, 2, 4)]
    assert sizes == sorted(sizes, reverse=True)
    staged = [kv_layout(model, rules=KvRules(pp=pp)).bytes_per_block for pp in (1, 2, 4)]
    assert staged == sorted(staged, reverse=True)
    assert staged[0] <= 2 * staged[1] <= 4 * staged[2]


def test_decode_context_parallelism_stretches_blocks() -> None:
    """The same bytes hold as many more tokens as there are ranks."""
    latent = MODELS["deepseek-v3(mla)"]
    one, eight = kv_layout(latent, tp=8), kv_layout(latent, tp=8, rules=KvRules(dcp=8))
    assert one.bytes_per_block == eight.bytes_per_block
    assert eight.block_tokens == 8 * one.block_tokens


def test_draft_layers_cost_what_a_layer_costs() -> None:
    """GLM 5.1 with its own draft layer in fp8: 79 times 656 and 132 bytes, as two logs show."""
    model = load_model("zai-org/GLM-5.1")
    layout = kv_layout(model, kv_dtype="fp8", tp=8, rules=KvRules(draft_layers=1))
    assert layout.bytes_per_token == 79 * (656 + 132)


def test_without_groups_every_layer_counts_in_full() -> None:
    """Gemma 3 27B on vLLM 0.8: 62 layers, four ways: 126,976 bytes a token, as its log shows."""
    layout = kv_layout(load_model("google/gemma-3-27b-it"), tp=4, rules=KvRules(groups=False))
    assert layout.bytes_per_token == 126_976


def test_states_raise_the_block_to_their_size() -> None:
    """Qwen3.5 27B: 784 tokens in 16 bits, 1,568 in 8, as two logs show."""
    model = load_model("Qwen/Qwen3.5-27B")
    assert {kv_layout(model).groups[0].block_tokens, kv_layout(model, kv_dtype="fp8").groups[0].block_tokens} == {
        784,
        1568,
    }
    drafts = kv_layout(model, rules=KvRules(draft_tokens=2))
    assert [group.state_blocks for group in drafts.groups if group.kind == "state"] == [4, 4, 4]


def test_encoders_keep_nothing() -> None:
    """And their requests cost nothing."""
    assert kv_layout(load_model("BAAI/bge-m3")).groups == ()


def test_an_encoder_decoder_keeps_the_encoder_once() -> None:
    """Whisper large: 1,500 positions beside the decoder's own."""
    config = {"is_encoder_decoder": True, "decoder_layers": 32, "d_model": 1280, "decoder_attention_heads": 20}
    layout = kv_layout(load_model({**config, "max_source_positions": 1500, "max_target_positions": 448}))
    assert [(group.kind, group.planned(448)) for group in layout.groups] == [("full", 28), ("cross", 94)]


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (KvRules(pp=0), "pp is 0"),
        (KvRules(dcp=0), "dcp is 0"),
        (KvRules(dcp=3), "dcp 3 does not divide tp 1"),
    ],
)
def test_impossible_rules_are_named(rules: KvRules, words: str) -> None:
    """Field and value."""
    with pytest.raises(EstimatorError, match=words):
        kv_layout(MODELS["llama-3.1-8b"], rules=rules)


def test_windows_do_not_go_with_context_parallelism() -> None:
    """As in vLLM."""
    with pytest.raises(EstimatorError, match="dcp 2 does not go with the windows"):
        kv_layout(MODELS["gpt-oss-20b"], tp=2, rules=KvRules(dcp=2))


def test_layouts_are_kept() -> None:
    """Asked for again, it is the same object: pricing a request does not cut the cache anew."""
    model = MODELS["llama-3.1-8b"]
    assert kv_layout(model, tp=2) is kv_layout(model, tp=2)


def test_compressed_attention_is_packed_and_marked_as_an_estimate() -> None:
    """DeepSeek V4 Flash in fp8: 3,850 bytes a token, a hundredth of what plain heads would keep."""
    model = load_model("deepseek-ai/DeepSeek-V4-Flash")
    layout = kv_layout(model, kv_dtype="fp8")
    assert layout.bytes_per_token == pytest.approx(21 * (584 + 132) / 4 + 20 * 584 / 128, rel=0.001)
    assert len({group.bytes_per_block for group in layout.groups}) == 1
    assert "left out" in model.doubts[0]
