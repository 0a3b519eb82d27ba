"""Weights of a checkpoint in the place of those that follow from a configuration."""

from estimator import load_model
from estimator.checkpoint import Stored, with_stored_weights
from estimator.weights import weights

MODEL = load_model("meta-llama/Llama-3.1-8B")


def test_bytes_are_those_of_the_tensors() -> None:
    """Whole on one GPU; shared out by what they are on several."""
    tensors = [Stored("mlp", 1000, 562), Stored("mlp", 0, 38), Stored("norm", 10, 40), Stored("kv", 100, 200)]
    found = with_stored_weights(MODEL, tensors, "Q4_K_M", 32)
    assert weights(found, loaded=False).bytes_per_gpu == 840
    assert weights(found).params == 1110
    assert dict(weights(found, tp=16, loaded=False).by_role) == {"mlp": 38, "norm": 40, "kv": 25}
    assert found.quantization.method == "Q4_K_M"
    assert found.quantization.bits == 8 * 840 / 1110
    assert found.attentions == MODEL.attentions


def test_stages_share_layers_and_keep_their_ends() -> None:
    """Embeddings stand in the first stage, the output in the last."""
    tensors = [Stored("mlp", 3200, 6400), Stored("embedding", 500, 1000), Stored("head", 400, 800)]
    found = with_stored_weights(MODEL, tensors, "", 32)
    assert weights(found, pp=2, loaded=False).bytes_per_gpu == 4200


def test_drafts_are_told_not_counted() -> None:
    """Engines load them only where they are told to."""
    found = with_stored_weights(MODEL, [Stored("draft", 2**29, 2**30), Stored("mlp", 8, 16)], "", 32)
    assert weights(found, loaded=False).bytes_per_gpu == 16
    assert "draft layers take 1.00 GiB" in found.notes[-1]


def test_scales_alone_still_weigh() -> None:
    """A part of which only scales are known, and a checkpoint without any tensor."""
    found = with_stored_weights(MODEL, [Stored("experts", 0, 64)], "", 32)
    assert weights(found, loaded=False).bytes_per_gpu == 64
    assert with_stored_weights(MODEL, [], "", 32).quantization.bits == 16
