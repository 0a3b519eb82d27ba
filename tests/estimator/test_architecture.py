"""What a layer keeps per token or per sequence, and which tensor-parallel sizes a model takes."""

import pytest

from estimator import Attention, EstimatorError, Model
from estimator.architecture import State
from estimator.kv_formats import kv_format

BF16, FP8 = kv_format("bfloat16"), kv_format("fp8")


def model(kv_heads: int, heads: int = 32, dtype: str = "bfloat16") -> Model:
    """A model of two full layers."""
    return Model("m", "LlamaForCausalLM", (Attention("full", 2, kv_heads, 128, 128),), heads, 4096, dtype)


@pytest.mark.parametrize(("tp", "expected"), [(1, 4096), (2, 2048), (8, 512), (16, 512)])
def test_heads_are_split_then_copied(tp: int, expected: int) -> None:
    """Eight KV heads of 128 in 16 bits: from 8 GPUs on, each keeps one head."""
    assert Attention("full", 1, 8, 128, 128).bytes_per_token(BF16, tp) == expected


def test_a_latent_is_whole_on_every_rank() -> None:
    """576 elements, however many GPUs; with an index beside it, 8 bits have a format of their own."""
    latent = Attention("full", 1, 1, 576, 0)
    assert {latent.bytes_per_token(BF16, tp) for tp in (1, 2, 8)} == {1152}
    assert latent.bytes_per_token(FP8, 1) == 576
    assert latent.bytes_per_token(kv_format("nvfp4_ds_mla"), 1) == 352
    sparse = Attention("full", 1, 1, 576, 0, index_layers=1, index_bytes=132)
    assert (sparse.bytes_per_token(BF16, 1), sparse.bytes_per_token(FP8, 8)) == (1152, 656)


def test_scales_of_their_own_stand_beside_each_head() -> None:
    """One 32-bit number for the key and one for the value of a head."""
    heads = Attention("full", 1, 8, 128, 128)
    assert heads.bytes_per_token(kv_format("int8_per_token_head"), 2) == 4 * (256 + 8)


def test_a_state_is_split_over_ranks_and_its_groups_are_copied() -> None:
    """Mamba 2 with one group: on two ranks each has it, so the channels are half of one group more."""
    state = State("mamba2", 4, channels=1024, taps=3, groups=1, group_channels=256, elements=8192, element_bytes=4)
    assert state.bytes(1) == (1024 + 256) * 3 * 2 + 8192 * 4
    assert state.bytes(2) == (1024 + 2 * 256) // 2 * 3 * 2 + 8192 // 2 * 4
    assert state.bytes(1, draft_tokens=2) == (1024 + 256) * 5 * 2 + 8192 * 4


@pytest.mark.parametrize(("kv_heads", "heads", "tp"), [(8, 32, 8), (8, 32, 16), (1, 32, 4), (10, 40, 5)])
def test_sizes_that_engines_take(kv_heads: int, heads: int, tp: int) -> None:
    """KV heads divide or are divided."""
    model(kv_heads, heads).check_tp(tp)


@pytest.mark.parametrize(
    ("kv_heads", "heads", "tp", "words"),
    [(8, 32, 0, "tp is 0"), (8, 32, 5, "32 attention heads"), (10, 40, 4, "10 KV heads")],
)
def test_sizes_that_engines_refuse(kv_heads: int, heads: int, tp: int, words: str) -> None:
    """The error names what does not divide."""
    with pytest.raises(EstimatorError, match=words):
        model(kv_heads, heads).check_tp(tp)


def test_auto_is_the_models_own_dtype() -> None:
    """And an unknown one is an error that lists the known."""
    assert model(8).kv_format().element_bytes == 2
    assert model(8).kv_format("fp8").element_bytes == 1
    assert (model(8).layers, model(8).hybrid, model(8).mla) == (2, False, False)
    with pytest.raises(EstimatorError, match="'int7' is not known: use auto or one of float32"):
        model(8, dtype="int7").kv_format()
