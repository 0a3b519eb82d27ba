"""Models from headers of GGUF files: layers as llama.cpp keeps them, weights as the file has them."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from estimator import Attention, EstimatorError, Model, load_model
from estimator.gguf_file import GgufHeader, Value
from estimator.gguf_model import _RENAMED, _Said, load_gguf
from estimator.hf_config import read_config
from estimator.llamacpp import LlamaContext, layers_of, llama_cache
from estimator.weights import weights
from tests.estimator.gguf_bytes import F32, Q4_K, tensor, write


def said(arch: str, **fields: object) -> dict[str, object]:
    """Metadata of a small model; two underscores in a name stand for a dot."""
    plain = {"block_count": 4, "embedding_length": 512, "context_length": 4096, "attention__head_count": 8}
    named = {f"{arch}.{name.replace('__', '.')}": value for name, value in {**plain, **fields}.items()}
    return {"general.architecture": arch, **named}


def load(folder: Path, metadata: Mapping[str, object], tensors: Sequence[bytes] = ()) -> Model:
    """Write and read."""
    return load_gguf(write(folder / "small.gguf", metadata, tensors))


def kept(model: Model) -> list[tuple[str, int, int, int, int, int]]:
    """Kind, layers, heads, key, value, window of each group of layers."""
    return [(a.kind, a.layers, a.kv_heads, a.key_dim, a.value_dim, a.window) for a in model.attentions]


def test_a_dense_model_with_its_tensors(tmp_path: Path) -> None:
    """Parameters and bytes are those of the file, to the byte; KV follows from the heads."""
    metadata = said("llama", attention__head_count_kv=2, feed_forward_length=1024)
    metadata |= {"general.name": "Small 1B", "general.file_type": 15}
    per_layer = {"attn_q": 512, "attn_k": 128, "attn_v": 128, "attn_output": 512, "ffn_up": 1024}
    tensors = [tensor("token_embd.weight", (512, 1000)), tensor("output_norm.weight", (512,), F32)]
    for i in range(4):
        tensors += [tensor(f"blk.{i}.{name}.weight", (512, rows), Q4_K) for name, rows in per_layer.items()]
        tensors.append(tensor(f"blk.{i}.attn_norm.weight", (512,), F32))
    model = load(tmp_path, metadata, tensors)
    quantised = 4 * 512 * sum(per_layer.values())
    assert (model.name, model.architecture, model.context_tokens) == ("Small 1B", "llama", 4096)
    assert model.source == str(tmp_path / "small.gguf")
    assert kept(model) == [("full", 4, 2, 64, 64, 0)]
    found = weights(model)
    assert found.params == 512_000 + quantised + 5 * 512
    assert found.bytes_per_gpu == 1_024_000 + quantised * 144 // 256 + 5 * 2048
    assert model.quantization.method == "Q4_K_M"
    assert dict(weights(model, tp=4).by_role)["kv"] == 4 * 512 * 256 * 144 // 256 // 2
    assert llama_cache(layers_of(model), LlamaContext(4096)).kv_bytes == 4 * 4096 * 2 * 128 * 2


def test_latents_of_new_and_old_files(tmp_path: Path) -> None:
    """Since April 2025 a head's own sizes have names of their own."""
    rank = {"attention__kv_lora_rank": 256, "rope__dimension_count": 64}
    new = {"attention__key_length": 320, "attention__value_length": 256, "attention__head_count_kv": 1}
    new |= {"attention__key_length_mla": 192, "attention__value_length_mla": 128}
    old = {"attention__key_length": 192, "attention__value_length": 128, "attention__head_count_kv": 8}
    for sizes in (new, old):
        (found,) = load(tmp_path, said("deepseek2", **rank, **sizes)).attentions
        assert found == Attention("full", 4, 1, 320, 0, wide_key=8 * 192, wide_value=8 * 128)
    with pytest.raises(EstimatorError, match=r"'rope\.dimension_count' 64 leaves nothing of keys of 64"):
        load(tmp_path, said("deepseek2", **rank, attention__key_length=64, attention__value_length=64))


def test_windows_by_family_by_layer_and_not_at_all(tmp_path: Path) -> None:
    """llama.cpp keeps windows where it knows which layers have them; elsewhere a note says that none is counted."""
    heads = {"attention__head_count_kv": 4, "attention__key_length": 64, "attention__sliding_window": 1024}
    family = load(tmp_path, said("gemma3", block_count=12, **heads))
    assert kept(family) == [("sliding", 10, 4, 64, 64, 1024), ("full", 2, 4, 64, 64, 0)]
    marks = {"attention__sliding_window_pattern": [True, True, False, True]}
    assert [a.layers for a in load(tmp_path, said("gemma4", **heads, **marks)).attentions] == [3, 1]
    assert [
        a.layers for a in load(tmp_path, said("other", **heads, attention__sliding_window_pattern=2)).attentions
    ] == [2, 2]
    unknown = load(tmp_path, said("llama", **heads))
    assert kept(unknown) == [("full", 4, 4, 64, 64, 0)]
    assert "window of 1024 tokens" in unknown.notes[-1]
    assert kept(load(tmp_path, said("llama4", attention__head_count_kv=2)))[0] == ("chunked", 3, 2, 64, 64, 8192)


def test_heads_that_differ_by_layer(tmp_path: Path) -> None:
    """By kind of layer, one by one, or none where a layer does not attend."""
    marks = {"attention__sliding_window": 512, "attention__sliding_window_pattern": [True, True, True, False]}
    sizes = {"attention__key_length": 128, "attention__key_length_swa": 64}
    sizes |= {"attention__value_length": 128, "attention__value_length_swa": 64}
    both = load(tmp_path, said("gemma4", attention__head_count_kv=[8, 8, 8, 2], **marks, **sizes))
    assert kept(both) == [("sliding", 3, 8, 64, 64, 512), ("full", 1, 2, 128, 128, 0)]
    each = load(tmp_path, said("openelm", attention__head_count_kv=[2, 2, 4, 4], attention__head_count=[8, 8, 16, 16]))
    assert (kept(each), each.attention_heads) == ([("full", 2, 2, 32, 32, 0), ("full", 2, 4, 32, 32, 0)], 16)
    none = load(tmp_path, said("deci", attention__head_count_kv=[8, 0, 8, 0]))
    assert kept(none) == [("full", 2, 8, 64, 64, 0)]
    with pytest.raises(EstimatorError, match="differ in 'head_count_kv'"):
        load(tmp_path, said("gemma4", attention__head_count_kv=[8, 4, 8, 2], **marks))


SSM = {"ssm__conv_kernel": 4, "ssm__inner_size": 1024, "ssm__state_size": 16}
MIXED = {"attention__head_count_kv": [0, 0, 2, 0]}
DELTA = {"ssm__time_step_rank": 8, "ssm__group_count": 4, "ssm__state_size": 128}
KDA = {"kda__head_dim": 64, "ssm__conv_kernel": 4, "attention__kv_lora_rank": 256, "rope__dimension_count": 32}
KDA |= {"attention__key_length_mla": 96, "attention__value_length_mla": 64}


@pytest.mark.parametrize(
    ("arch", "fields", "state", "elements"),
    [
        ("jamba", {**SSM, **MIXED}, "mamba1", 1024 * 16),
        ("nemotron_h", {**SSM, **MIXED, "ssm__time_step_rank": 16, "ssm__group_count": 2}, "mamba2", 1024 * 16),
        ("qwen3next", {**SSM, **DELTA, "attention__head_count_kv": 2}, "delta", 1024 * 128),
        ("lfm2", {"shortconv__l_cache": 3, **MIXED}, "conv", 0),
        ("kimi-linear", {**KDA, "attention__head_count_kv": [0, 0, 1, 0]}, "kda", 8 * 64 * 64),
    ],
)
def test_states(tmp_path: Path, arch: str, fields: dict[str, object], state: str, elements: int) -> None:
    """Three of four layers keep a state, one attends."""
    model = load(tmp_path, said(arch, **fields))
    (found,) = model.states
    assert (found.kind, found.layers, found.elements, model.layers) == (state, 3, elements, 1)


def test_experts_and_draft_layers(tmp_path: Path) -> None:
    """Layers beyond the model's own predict further tokens: neither weights nor KV of it, but a note."""
    metadata = said("glm4moe", block_count=5, nextn_predict_layers=1, attention__head_count_kv=2, expert_count=16)
    metadata |= {"glm4moe.expert_used_count": 4, "glm4moe.expert_feed_forward_length": 256}
    tensors = [tensor("blk.0.ffn_up_exps.weight", (512, 256, 16)), tensor("blk.0.ffn_gate_inp.weight", (512, 16), F32)]
    tensors += [tensor("blk.1.ffn_up_shexp.weight", (512, 256)), tensor("output.weight", (512, 100))]
    tensors += [tensor("blk.4.attn_q.weight", (512, 2**20)), tensor("blk.4.nextn.eh_proj.weight", (512, 2**20))]
    model = load(tmp_path, metadata, tensors)
    assert (model.layers, model.draft_layers, model.moe_width) == (4, 1, 1024)
    roles = {part.role: part.params for part in model.parts}
    assert roles == {"experts": 2**21, "router": 8192, "shared": 2**17, "head": 51_200}
    assert "draft layers take 2.00 GiB" in model.notes[-1]


def test_found_by_path(tmp_path: Path) -> None:
    """As a MODEL wherever one is named; the word alone is a name of the catalogue."""
    path = write(tmp_path / "small.gguf", said("llama"))
    assert load_model(str(path)).name == "small"
    with pytest.raises(EstimatorError, match=r"none\.gguf cannot be read"):
        load_model(tmp_path / "none.gguf")
    with pytest.raises(EstimatorError, match="known names"):
        load_model("none.gguf")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "no 'general.architecture'"),
        ({"general.architecture": 5}, "no 'general.architecture'"),
        ({"general.architecture": "llama"}, "'llama.block_count'"),
        (said("llama", block_count=0), "'llama.block_count'"),
        (said("llama", block_count=2**31, attention__sliding_window_pattern=2), "is 2,147,483,648: more than 4,096"),
        (said("llama", context_length="long"), "'max_position_embeddings' of .* is 'long'"),
        (said("llama", attention__head_count_kv=[1] * 5000), "'llama.attention.head_count_kv' has 5,000 entries"),
        (said("qwen3next", ssm__inner_size=1), "'qwen3next.ssm.time_step_rank'"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, metadata: dict[str, object], words: str) -> None:
    """With file and field."""
    with pytest.raises(EstimatorError, match=words):
        load(tmp_path, metadata)


ODD = st.one_of(
    st.integers(-5, 2**33),
    st.integers(0, 9),
    st.booleans(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(0, 3), max_size=5).map(tuple),
    st.lists(st.text(max_size=1), max_size=5).map(tuple),
)
NAMES = [*_RENAMED, "ssm.group_count", "ssm.time_step_rank", "kda.head_dim", "rope.dimension_count", "block_count"]
NAMES += ["attention.sliding_window", "attention.sliding_window_pattern", "full_attention_interval"]


@settings(deadline=None, max_examples=300)
@given(
    arch=st.sampled_from(["llama", "gemma3", "qwen3next", "jamba", "kimi-linear", "deepseek2", "t5", "rwkv6", "bert"]),
    odd=st.dictionaries(st.sampled_from(NAMES), ODD, max_size=6),
)
def test_no_metadata_does_more_than_raise_a_sentence(arch: str, odd: dict[str, Value]) -> None:
    """Any value under any name is a model or an `EstimatorError`."""
    metadata = said(arch, **{name.replace(".", "__"): value for name, value in odd.items()})
    with contextlib.suppress(EstimatorError):
        config = _Said(Path("m.gguf"), arch, GgufHeader(metadata, ())).config()  # type: ignore[arg-type]
        assert read_config(config, "m", "m.gguf").layers <= 4096
