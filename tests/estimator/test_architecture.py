"""What a layer keeps per token, and which tensor-parallel sizes a model takes."""

import pytest

from estimator import Attention, EstimatorError, Model


def model(kv_heads: int, heads: int = 32, dtype: str = "bfloat16") -> Model:
    """A model of two full layers."""
    return Model("m", "LlamaForCausalLM", (Attention("full", 2, kv_heads, 128, 128),), heads, 4096, dtype)


@pytest.mark.parametrize(("tp", "expected"), [(1, 4096), (2, 2048), (8, 512), (16, 512)])
def test_heads_are_split_then_copied(tp: int, expected: int) -> None:
    """Eight KV heads of 128 in 16 bits: from 8 GPUs on, each keeps one head."""
    assert Attention("full", 1, 8, 128, 128).bytes_per_token(2, tp) == expected


def test_a_latent_is_whole_on_every_rank() -> None:
    """576 elements, however many GPUs; its own format in 8 bits where it has one."""
    latent = Attention("full", 1, 1, 576, 0)
    assert {latent.bytes_per_token(2, tp) for tp in (1, 2, 8)} == {1152}
    sparse = Attention("full", 1, 1, 576, 0, fp8_bytes=656)
    assert (sparse.bytes_per_token(2, 1), sparse.bytes_per_token(1, 8)) == (1152, 656)


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
    assert model(8).element_bytes() == 2
    assert model(8).element_bytes("fp8") == 1
    assert model(8).layers == 2
    with pytest.raises(EstimatorError, match="'int7' is not known: use auto or one of float32"):
        model(8, dtype="int7").element_bytes()
